"""What can be told to a process from outside its body, on any node.

On the node that owns the process it is done at once; elsewhere it is kept in a cell, and done by
the owner. Both are durable when the call returns.
"""

from __future__ import annotations

from msgspec import Raw

from outlive.doors.activity import Activity
from outlive.doors.reading import Reading
from outlive.errors import (
    Fenced,
    NoSuchProcess,
    PastPivot,
    ProcessTerminal,
    SignalNotExpected,
    StreamConflict,
    TooLarge,
)
from outlive.kinds.processes import FINAL, Command, Head
from outlive.kinds.processes.activity import note_of
from outlive.kinds.processes.definition import any_payload
from outlive.kinds.processes.pending import told
from outlive.model import Batch, Put, shard_of

SIGNAL_BYTES_MAX = 64 * 1024
SIGNAL_CHARACTERS_MAX = 200
"""Of the name of a signal."""


class Telling(Reading, Activity):
    """The commands an application takes."""

    async def signal(
        self, id: str, name: str, payload: bytes, *, key: str | None = None, who: str = ""
    ) -> None:
        """Send a signal with a JSON payload (empty: null); durable when this returns.

        Kept when it comes before the wait. `key`: sent again with the same key it counts once, also
        when the process has ended meanwhile. `who`: an operator, for the activity log.
        Raises `NoSuchProcess`, `ProcessTerminal`, `SignalNotExpected`, `InvalidInput`,
        `MalformedInput`, `TooLarge`, `TooManySignals`.
        """
        head = await self._head(id)
        raw = self._payload(head, name, payload or b"null")
        if head.status in FINAL:
            if key and head.knows(key):
                return  # it was taken, before the end
            raise ProcessTerminal(f"{id} has ended: {head.status}. The signal was not kept.")
        trace = "" if self._telemetry is None else self._telemetry.here()
        await self._tell(Command("signal", id, name, raw, key or "", who=who[:200], trace=trace))

    def _payload(self, head: Head, name: str, payload: bytes) -> Raw:
        """The payload of a signal `name` for the process of `head`, as it declares it. Raises
        `TooLarge`, `SignalNotExpected`, `MalformedInput` or `InvalidInput`."""
        if len(payload) > SIGNAL_BYTES_MAX:
            raise TooLarge(
                f"The payload has {len(payload)} bytes; at most {SIGNAL_BYTES_MAX} are taken."
            )
        if not 1 <= len(name) <= SIGNAL_CHARACTERS_MAX:
            raise SignalNotExpected(
                f"{name[:64]!r} is no name of a signal: it has 1 to {SIGNAL_CHARACTERS_MAX} "
                "characters. The signal was not kept."
            )
        made = self._all.get((head.type, head.version))
        return any_payload(payload) if made is None else made.signal_payload(name, payload)

    async def cancel(self, id: str, *, reason: str = "", who: str = "") -> None:
        """Ask a process to stop and roll back; durable when this returns. Asked again it changes
        nothing.

        Raises `NoSuchProcess`, `ProcessTerminal`, `PastPivot`.
        """
        view = await self.view(id)
        if view.final:
            raise ProcessTerminal(f"{id} has ended: {view.status}. It was not cancelled.")
        if any(entry.kind == "pivot" for entry in await self.journal(id)):
            raise PastPivot(f"{id} is past its pivot. It was not cancelled.")
        await self._tell(Command("cancel", id, who=who[:200], reason=reason[:500]))

    async def _tell(self, command: Command) -> None:
        """Do it here when the process is ours, else keep it in a cell for its owner."""
        shard = shard_of(command.id, self.store.shards)
        note: tuple[Put, ...] = ()
        if command.who:
            note = await self._noting(note_of(command, await self.store.now()))
        if self._runtime is not None and shard in self._runtime.activations.leases:
            if note:
                await self.store.commit(Batch(put=note))
                note = ()
            try:
                await self._runtime.activations.commands.obey(command)
                return
            except (Fenced, NoSuchProcess, StreamConflict):
                pass  # the shard or the view was lost this moment: its owner does it from a new one
        put = told(command, await self.store.now(), self.store.shards)
        await self.store.commit(Batch(put=(put, *note)))
