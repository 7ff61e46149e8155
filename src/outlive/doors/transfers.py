"""Journals that leave a store, come into one, or are tried on the code of this application."""

from __future__ import annotations

from outlive.doors.journals import recorded
from outlive.doors.telling import Telling
from outlive.errors import AlreadyThere, BadJournal, NothingToExport, TooLarge
from outlive.kinds.processes import Command
from outlive.kinds.processes.cells import ref_of
from outlive.kinds.processes.difference import Difference
from outlive.kinds.processes.transfer import (
    Exported,
    Redact,
    as_payload,
    exported_in,
    lines_of,
)
from outlive.store import VALUE_BYTES_MAX

IMPORT_BYTES_MAX = VALUE_BYTES_MAX - 64 * 1024
"""Bytes of a journal that is imported."""
IMPORT_SECONDS = 30.0
LOOK_SECONDS = 0.5


class Transfers(Telling):
    """What an application does with whole journals."""

    async def export_journal(self, id: str, *, redact: Redact | None = None) -> str:
        """The journal of a process as lines of JSON, each with a check sum; of its era that is
        under way.

        `redact(kind, data)` gives what is written in the place of an event's data. The process goes
        on meanwhile. The file names its internal stream: it is not for clients. Raises
        `NoSuchProcess`, `ProcessGone`, `NothingToExport`.
        """
        while True:
            head = await self._head(id)
            events = await recorded(self.store, head)
            if not events:
                raise NothingToExport(f"{id} is {head.status}.")
            if events[-1].kind != "again":
                break  # else the next era began between the two looks
        now = await self.store.now()
        return "\n".join((*lines_of(id, head, events, now, redact), ""))

    async def import_journal(self, text: str | bytes, *, within: float = IMPORT_SECONDS) -> str:
        """Take in a process from another store's journal, under its id; gives that.

        It is paused, or has ended as it had; it never runs by itself, and `retry` lets it go on.
        Its steps keep their keys: end it where it comes from first. Raises `AlreadyThere`,
        `BadJournal`, `TooLarge`: nothing was imported. Raises `TimeoutError` when no node has taken
        it in after `within` seconds: it is kept, and the node that comes will.
        """
        text = text.encode() if isinstance(text, str) else text
        exported = exported_in(text)
        ref = ref_of(exported.id, self.store.shards)
        if len(text) > IMPORT_BYTES_MAX:
            raise TooLarge(f"The journal has {len(text)} bytes; at most {IMPORT_BYTES_MAX}.")
        if exported.redacted and not exported.ended:
            raise BadJournal("What was redacted is missing: it could not go on.")
        if (await self.store.read((ref,)))[0] is not None:
            raise AlreadyThere(f"There is a process {exported.id} already.")
        await self._tell(Command("import", exported.id, payload=as_payload(text), key="import"))
        ends, seen = self._clock.boot() + within, -1
        while (await self.store.read((ref,)))[0] is None:
            left = ends - self._clock.boot()
            if left <= 0:
                raise TimeoutError(f"no node has taken {exported.id} in after {within:g} s")
            seen = await self.store.changed(seen, min(left, LOOK_SECONDS))
        return exported.id

    async def diff(self, journal: str | bytes | Exported) -> Difference:
        """Replay an exported journal on the code of this application, performing nothing.

        Needs no store, and the application need not be open. Recorded steps answer from the
        journal; at the first unrecorded one it ends. Raises `BadJournal`.
        """
        from outlive.runtime.rehearsal import rehearse

        found = journal if isinstance(journal, Exported) else exported_in(journal)
        return await rehearse(self._all, found.id, found.head, found.events, self._clock)
