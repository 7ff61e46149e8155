"""Many processes at once: first shown, then done to exactly those that were shown.

    preview = await app.bulk("cancel", status="stuck", type="order", older_than=3600)
    preview.count, preview.ids                          the whole number, and the first of them
    report = await app.carry_out(preview.token, who="ann", why="the supplier is gone")
    report.asked, report.refused                        and which were refused, with the code

What was shown is kept for an hour, as a cell with the ids of every process. Carrying it out goes in
parts of 100; a part is one commit of the commands for its processes and of how far it has come. So
whoever dies on the way has asked each process once or not yet, and the same call with the same
token goes on there; called again after its end it gives the same report.

Not promised: that what was accepted is done. A process may have gone on before its owner comes to
it; that is then as if the same was asked of it alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from outlive import codec, ids
from outlive.clock import MICROS
from outlive.doors.controlling import SECONDS_MAX
from outlive.doors.forking import Forking
from outlive.errors import Conflict, InvalidInput, PreviewExpired, ProcessError
from outlive.kinds.processes import STATUSES, Command, Summary
from outlive.kinds.processes.activity import Noted
from outlive.kinds.processes.bulk import Preview, Refusal, Report
from outlive.kinds.processes.pending import told
from outlive.kinds.processes.search import Search, search_of
from outlive.model import ABSENT, Batch, Cell, Put, Ref, Require
from outlive.runtime.lists import PAGE_MAX, newest

BULK = "bulk"
"""The space of previews and of how far they were carried out."""
BULK_MAX = 10_000
"""Processes of one preview."""
BULK_DEFAULT = 1000
PREVIEW_SECONDS = 3600.0
SHOWN_MAX = 10
"""Ids in a preview; all of them are kept."""
PART = 100
"""Processes that are asked in one commit."""
REFUSED_MAX = 1000
"""Refusals that are kept with their reasons; all are counted."""
EXPIRED_MAX = 100
"""Expired previews that are taken out when another is made."""
BULK_VERBS = ("cancel", "deadline", "pause", "resume", "retry", "retry_now")


class _Order(Struct, frozen=True):
    verb: str
    ids: tuple[str, ...]
    expires: int
    seconds: float | None = None


class _Progress(Struct, frozen=True, omit_defaults=True):
    at: int = 0
    asked: int = 0
    refused: int = 0
    refusals: tuple[Refusal, ...] = ()
    who: str = ""
    why: str = ""


_read_order = msgspec.json.Decoder(_Order).decode
_read_progress = msgspec.json.Decoder(_Progress).decode
_Look = Callable[[str, str, str], Awaitable[Command]]


class Bulk(Forking):
    """What is asked of many processes."""

    async def bulk(
        self,
        verb: str,
        *,
        status: str | None = None,
        type: str | None = None,
        version: int | None = None,
        tags: Mapping[str, Any] | None = None,
        started_since: datetime | None = None,
        started_until: datetime | None = None,
        changed_since: datetime | None = None,
        changed_until: datetime | None = None,
        older_than: float | None = None,
        limit: int = BULK_DEFAULT,
        seconds: float | None = None,
    ) -> Preview:
        """Show which processes `verb` would be asked of; nothing is done to them.

        `verb`: cancel, pause, resume, retry, retry_now, or deadline (`seconds` from when it is
        carried out, None lifts it). At least one of `status`, `type` and `tags`; they, `version`
        and the times as for `processes`; `older_than`: seconds since the start; `limit`: 1 to
        10,000, the newest. The preview can be carried out within an hour. Raises `InvalidInput`,
        `TagInvalid`.
        """
        if verb not in BULK_VERBS:
            raise InvalidInput(f"{verb[:64]!r} is none of {', '.join(BULK_VERBS)}.")
        if status is None and type is None and not tags:
            raise InvalidInput(
                "Name a status, a type or a tag: everything at once is asked of nobody."
            )
        if status is not None and status not in STATUSES:
            raise InvalidInput(f"{status[:64]!r} is no status; one of {', '.join(STATUSES)}.")
        if not 1 <= limit <= BULK_MAX:
            raise InvalidInput(f"limit is {limit}; it must be 1 to {BULK_MAX}.")
        if not 0 <= (older_than or 0) <= SECONDS_MAX:
            raise InvalidInput("older_than must be 0 to 100 years, in seconds.")
        if seconds is not None and not 0 < seconds <= SECONDS_MAX:
            raise InvalidInput("seconds must be above 0, and 100 years at most.")
        search = search_of(
            status, type, version, tags, started_since, started_until, changed_since, changed_until
        )
        now = await self.store.now()
        await self._forget_expired(now)
        if older_than is not None:
            since, until = search.started
            until = min(until, max(0, now - round(older_than * MICROS)))
            search = msgspec.structs.replace(search, started=(since, until))
        found = await self._found(search, limit + 1)
        chosen = tuple(line.id for line in found[:limit])
        order = _Order(verb, chosen, now + round(PREVIEW_SECONDS * MICROS), seconds)
        token = ids.token(125)
        ref = Ref(BULK, token)
        put = Put(ref, codec.encode(order), order.expires)
        await self.store.commit(Batch(require=(Require(ref, ABSENT),), put=(put,)))
        more = len(found) > limit
        shown = chosen[:SHOWN_MAX]
        return Preview(token, verb, len(chosen), shown, more, order.expires, order.seconds)

    async def carry_out(
        self,
        token: str,
        *,
        verb: str | None = None,
        who: str = "",
        why: str = "",
        progress: Callable[[Report], object] | None = None,
        parts: int | None = None,
    ) -> Report:
        """Ask exactly the processes of a preview; durable when this returns.

        `progress` is called after each part of 100. `parts` (1 or more): stop after so many; the
        report is then not `finished`. Called again, also by somebody else, it goes on where it was,
        under the first `who` and `why`. `verb`: what the caller takes it for. Raises
        `PreviewExpired`, `InvalidInput` when it is for another verb.
        """
        refs = (Ref(BULK, token), Ref(BULK, f"{token} progress"))
        while True:
            made, cell = await self.store.read(refs)
            order = None if made is None else _read_order(made.value)
            if order is None or order.expires <= await self.store.now():
                raise PreviewExpired("There is no such preview any more. Nothing was done.")
            if verb not in (None, order.verb):
                raise InvalidInput(f"The preview is to {order.verb}, not to {verb}.")
            past = _Progress(who=who, why=why) if cell is None else _read_progress(cell.value)
            report = _report(token, order, past)
            if progress is not None and cell is not None:
                progress(report)
            if report.finished or parts == 0:
                return report
            try:
                await self._part(order, past, refs[1], cell)
            except Conflict:
                continue  # somebody else carries out the same: go on behind them
            parts = None if parts is None else parts - 1

    async def _part(self, order: _Order, past: _Progress, ref: Ref, cell: Cell | None) -> None:
        """Ask the next part, and keep in the same commit that it was asked."""
        look = self._look_of(order)
        part = order.ids[past.at : past.at + PART]
        now, shards = await self.store.now(), self.store.shards
        puts: list[Put] = []
        refusals: list[Refusal] = []
        for id in part:
            try:
                puts.append(told(await look(id, past.who, past.why), now, shards))
            except ProcessError as error:
                refusals.append(Refusal(id, error.code, error.detail))
        after = msgspec.structs.replace(
            past,
            at=past.at + len(part),
            asked=past.asked + len(puts),
            refused=past.refused + len(refusals),
            refusals=(*past.refusals, *refusals)[:REFUSED_MAX],
        )
        require = Require(ref, ABSENT if cell is None else cell.version)
        kept = Put(ref, codec.encode(after), order.expires)
        note: tuple[Put, ...] = ()
        if cell is None and past.who:
            said = f"{len(order.ids)} processes"
            line = Noted(now, past.who[:200], order.verb, "", said, past.why[:500])
            note = await self._noting(line)
        await self.store.commit(Batch(require=(require,), put=(kept, *puts, *note)))

    def _look_of(self, order: _Order) -> _Look:
        looks: dict[str, Callable[..., Awaitable[Command]]] = {
            "cancel": self._cancel,
            "pause": self._pause,
            "resume": self._resume,
            "retry": self._retry,
            "retry_now": self._hasten,
        }
        if order.verb != "deadline":
            return looks[order.verb]

        async def deadline(id: str, who: str, why: str) -> Command:
            return await self._deadline(id, who, why, order.seconds)

        return deadline

    async def _found(self, search: Search, limit: int) -> list[Summary]:
        found: list[Summary] = []
        cursor = ""
        while len(found) < limit:
            page, cursor = await newest(self.store, search, PAGE_MAX, cursor)
            found += page
            if not cursor:
                break
        return found[:limit]

    async def _forget_expired(self, now: int) -> None:
        for cell in await self.store.scan(BULK, limit=EXPIRED_MAX):
            if cell.due is not None and cell.due <= now:
                expired = Batch(require=(Require(cell.ref, cell.version),), drop=(cell.ref,))
                try:
                    await self.store.commit(expired)
                except Conflict:
                    continue


def _report(token: str, order: _Order, past: _Progress) -> Report:
    return Report(
        token, order.verb, len(order.ids), past.at, past.asked, past.refused, past.refusals
    )
