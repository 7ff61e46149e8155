"""What an operator may ask of one process, on any node: pause, resume, retry, skip, deadline, fork.

Each is looked at here first, so that what cannot be done is refused at once with its reason; then
it goes the way of every command: done by the owner, in this node or through a cell. What is only
seen by the owner (the process has gone on meanwhile) is let go, and shows in no journal.
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from outlive import codec, steps
from outlive.clock import MICROS
from outlive.doors.telling import Telling
from outlive.errors import NotStuck, PastPivot, ProcessTerminal
from outlive.kinds.processes import FINAL, Command, Head, Journal
from outlive.kinds.processes.vocabulary import unpack
from outlive.runtime import control

WHO_CHARACTERS_MAX, WHY_CHARACTERS_MAX = 200, 500
"""What is kept of who asked, and why."""
SECONDS_MAX = 100 * 366 * 86_400
"""The furthest deadline."""
GIVEN: Any = object()
"""Stands for a value that was not given, where null is one."""


class Controlling(Telling):
    """The commands of operators. Each is recorded with `who` (200 characters) and `why` (500)."""

    async def pause(self, id: str, *, who: str = "", why: str = "") -> None:
        """Let a process stop at its next durable point; durable when this returns.

        A step under way ends and is recorded; one that waits stops at once. Signals are kept; no
        timer, time-out or deadline passes until it goes on. Asked again it changes nothing. Raises
        `NoSuchProcess`, `ProcessTerminal`, `NotPausable` (stuck).
        """
        await self._tell(await self._pause(id, who, why))

    async def resume(self, id: str, *, who: str = "", why: str = "") -> None:
        """Let a paused process go on where it was; durable when this returns.

        Attempts stay counted (`retry` counts them anew). Raises `NoSuchProcess`, `ProcessTerminal`,
        `NotPaused`.
        """
        await self._tell(await self._resume(id, who, why))

    async def retry(
        self, id: str, *, now: bool = False, step: str = "", who: str = "", why: str = ""
    ) -> None:
        """Let a stuck or paused process go on, what had given up tried afresh; durable when this
        returns.

        `now`: instead, what waits for its next attempt makes it at once and the count stays; only
        `step`, if that is given. Raises `NoSuchProcess`, `NotStuck`.
        """
        make = self._hasten if now else self._retry
        await self._tell(await make(id, who, why, step))

    async def skip(
        self,
        id: str,
        step: str = "",
        *,
        value: Any = None,
        error: str | None = None,
        with_undo: bool = True,
        who: str = "",
        why: str = "",
    ) -> None:
        """Declare a step that is stuck, or between two attempts, as settled; durable when this
        returns.

        `step`: as the process shows it; the only one that fails when it is not given. It counts as
        done with `value`, which must fit its return type, or as failed with the message `error`.
        `with_undo`: whether its undo is called like that of a step that was done, should the
        process roll back. For an undo that is stuck (`undo charge`) neither is given: it counts as
        undone, and the rollback goes on. Raises `NoSuchProcess`, `ProcessTerminal`,
        `NothingToSkip`, `UnfitValue`.
        """
        head, journal = await self._folded(id)
        target = control.skippable(id, head.status, journal, step)
        declared = control.Declared(Raw(codec.encode(value)), error, with_undo)
        if not target.undo:
            known = journal.attempts.get(target.id) or journal.records.get(target.id)
            made = self._all.get((head.type, head.version))
            if made is not None:
                spec = steps.spec_named(getattr(known, "name", ""), made.body.__module__)
                control.fitting(spec, target.id, declared)
        name = f"undo {target.id}" if target.undo else target.id
        payload = Raw(codec.encode(declared))
        await self._tell(_command("skip", id, who, why, name=name, payload=payload))

    async def deadline(
        self, id: str, seconds: float | None, *, who: str = "", why: str = ""
    ) -> None:
        """Say anew when a process must have ended: `seconds` (above 0, 100 years at most) from now;
        None lifts it.

        Takes the place of what was declared or set before; the body may set it again. Raises
        `NoSuchProcess`, `ProcessTerminal`, `PastPivot`, `RollingBack`.
        """
        await self._tell(await self._deadline(id, who, why, seconds))

    # --- looked at before it is told --------------------------------------------------------------

    async def _cancel(self, id: str, who: str, why: str) -> Command:
        head, journal = await self._folded(id)
        if head.status in FINAL:
            raise ProcessTerminal(f"{id} has ended: {head.status}. It was not cancelled.")
        if journal.pivoted:
            raise PastPivot(f"{id} is past its pivot. It was not cancelled.")
        return _command("cancel", id, who, why)

    async def _pause(self, id: str, who: str, why: str) -> Command:
        control.demand_pausable(id, (await self._head(id)).status)
        return _command("pause", id, who, why)

    async def _resume(self, id: str, who: str, why: str) -> Command:
        control.demand_paused(id, (await self._head(id)).status)
        return _command("resume", id, who, why)

    async def _retry(self, id: str, who: str, why: str, step: str = "") -> Command:
        head = await self._head(id)
        if head.status not in ("stuck", "paused"):
            raise NotStuck(f"{id} is {head.status}; it was left as it is.")
        return _command("retry", id, who, why)

    async def _hasten(self, id: str, who: str, why: str, step: str = "") -> Command:
        head, journal = await self._folded(id)
        control.hastened(id, head.status, journal, step)
        return _command("hasten", id, who, why, name=step)

    async def _deadline(self, id: str, who: str, why: str, seconds: float | None) -> Command:
        if seconds is not None and not 0 < seconds <= SECONDS_MAX:
            raise ValueError(
                f"deadline is {seconds}; it must be above 0 seconds, 100 years at most"
            )
        head, journal = await self._folded(id)
        control.demand_forward(id, head.status, journal)
        until = None if seconds is None else await self.store.now() + round(seconds * MICROS)
        payload = Raw(codec.encode(control.Until(until)))
        return _command("deadline", id, who, why, payload=payload)

    async def _folded(self, id: str) -> tuple[Head, Journal]:
        """What a process's cell says, and its journal folded. Raises as `view`."""
        head, journal = await self._head(id), Journal()
        for event in await self.store.events(head.stream):
            journal.apply(unpack(event.kind, event.data), event.time)
        return head, journal


def _command(
    kind: str, id: str, who: str, why: str, *, name: str = "", payload: Raw = codec.NULL
) -> Command:
    who, why = who[:WHO_CHARACTERS_MAX], why[:WHY_CHARACTERS_MAX]
    return Command(kind, id, name, payload, who=who, reason=why)
