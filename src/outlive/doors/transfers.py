"""Journals that leave a store, come into one, or are tried on the code of this application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from msgspec.structs import replace

from outlive.doors.telling import Telling
from outlive.errors import AlreadyThere, BadJournal, NothingToExport, ProcessGone, TooLarge
from outlive.kinds.processes import Command, Head
from outlive.kinds.processes.cells import ref_of
from outlive.kinds.processes.difference import Difference
from outlive.kinds.processes.redaction import masked_event, masked_within
from outlive.kinds.processes.transfer import (
    Exported,
    Lines,
    Redact,
    Rewrite,
    by,
    checked,
    exported_in,
)
from outlive.kinds.processes.vocabulary import unpack
from outlive.kinds.processes.webhooks import masked
from outlive.model import ERASED, Event
from outlive.store import VALUE_BYTES_MAX

IMPORT_BYTES_MAX = VALUE_BYTES_MAX - 64 * 1024
"""Bytes of a journal that is imported."""
IMPORT_SECONDS = 30.0
LOOK_SECONDS = 0.5
PART_BYTES = 256 * 1024
"""About so much of a journal is read at a time."""
PART_EVENTS_MIN, PART_EVENTS_MAX = 16, 500


class Transfers(Telling):
    """What an application does with whole journals."""

    async def export_journal(self, id: str, *, redact: Redact | None = None) -> str:
        """The journal of a process as lines of JSON, each with a check sum; of its era that is
        under way.

        `redact(kind, data)` gives what is written in the place of an event's data. The process goes
        on meanwhile. The file names its internal stream: it is not for clients. Raises
        `NoSuchProcess`, `ProcessGone`, `NothingToExport`.
        """
        rewrite = None if redact is None else by(redact)
        parts = self._file(id, *await self._to_export(id), rewrite)
        return b"".join([part async for part in parts]).decode()

    async def export_shown(self, id: str) -> AsyncGenerator[bytes]:
        """The same file without what this application redacts and what is secret in the address
        that is told of its end, in parts of about 256 KiB (or one event, if that is larger).

        Each part is read when it is asked for, so neither memory nor the event loop pays for a long
        journal. What is recorded after the first part is not in it. It is marked as redacted when
        anything is missing. Raises as `export_journal`, before the first part; `ProcessGone` also
        when its retention is over in between.
        """
        names, (head, length) = self._redact, await self._to_export(id)
        rewrite: Rewrite | None = None
        plain = _without_address(head)
        if plain is not head or (names and await self._is_masked(id, head, length)):
            head = masked_within(plain, names)

            def rewrite(kind: str, data: bytes) -> bytes:
                return masked_event(kind, data, names)

        async for part in self._file(id, head, length, rewrite):
            yield part

    async def _file(
        self, id: str, head: Head, length: int, rewrite: Rewrite | None
    ) -> AsyncIterator[bytes]:
        times = await self._times_of(id, head, length)
        lines = Lines(id, head, await self.store.now(), rewrite)
        yield lines.first()
        async for events in self._parts(id, head, length):
            yield b"".join(
                lines.of(replace(event, time=times[event.n]) if event.n < len(times) else event)
                for event in events
            )
        yield lines.last()

    async def _to_export(self, id: str) -> tuple[Head, int]:
        """The cell of a process, and how many events its journal has now."""
        while True:
            head = await self._head(id)
            length = (await self.store.lengths((head.stream,))).get(head.stream, 0)
            if not length:
                raise NothingToExport(f"{id} is {head.status}.")
            last = await self.store.events(head.stream, length - 2, 1)
            if last and last[-1].kind != "again":
                return head, length
            # else the next era began between the looks

    async def _parts(self, id: str, head: Head, length: int) -> AsyncIterator[list[Event]]:
        """The first `length` events, some at a time."""
        after, count = -1, PART_EVENTS_MIN
        while after < length - 1:
            events = await self.store.events(head.stream, after, min(count, length - 1 - after))
            if not events or events[0].kind == ERASED:
                raise ProcessGone(f"The retention of {id} was over while it was read.")
            yield events
            after = events[-1].n
            largest = max(len(event.data) for event in events)
            count = min(max(1, PART_BYTES // max(1, largest)), PART_EVENTS_MAX)
            await asyncio.sleep(0)  # a read may have come straight from memory

    async def _times_of(self, id: str, head: Head, length: int) -> tuple[int, ...]:
        """When the first events of an imported journal were committed where they come from."""
        found: tuple[int, ...] = ()
        if head.imported:
            async for events in self._parts(id, head, length):
                for event in events:
                    if event.kind == "imported":
                        found = unpack(event.kind, event.data).times
        return found

    async def _is_masked(self, id: str, head: Head, length: int) -> bool:
        """Whether anything in the first `length` events of a process is redacted."""
        names = self._redact
        if masked_within(head, names) is not head:
            return True
        async for events in self._parts(id, head, length):
            if any(masked_event(one.kind, one.data, names) is not one.data for one in events):
                return True
        return False

    async def import_journal(
        self, text: str | bytes, *, within: float = IMPORT_SECONDS, who: str = "", why: str = ""
    ) -> str:
        """Take in a process from another store's journal, under its id; gives that.

        It is paused, or has ended as it had; it never runs by itself, and `retry` lets it go on.
        Its steps keep their keys: end it where it comes from first. `who`, `why`: for the activity
        log (200 and 500 characters). Raises `AlreadyThere`, `BadJournal`, `TooLarge`: nothing was
        imported. Raises `TimeoutError` when no node has taken it in after `within` seconds: it is
        kept, and the node that comes will. When the process dies it is there whole, or not at all.
        """
        text = text.encode() if isinstance(text, str) else text
        if len(text) > IMPORT_BYTES_MAX:
            raise TooLarge(f"The journal has {len(text)} bytes; at most {IMPORT_BYTES_MAX}.")
        exported, payload = await asyncio.to_thread(checked, text)
        ref = ref_of(exported.id, self.store.shards)
        if exported.redacted and not exported.ended:
            raise BadJournal(
                "What was redacted is missing: it could not go on. Where a service redacts, export "
                "with --store."
            )
        if (await self.store.read((ref,)))[0] is not None:
            raise AlreadyThere(f"There is a process {exported.id} already.")
        await self._tell(
            Command(
                "import",
                exported.id,
                payload=payload,
                key="import",
                who=who[:200],
                reason=why[:500],
            )
        )
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
        journal; at the first unrecorded one it ends. Where values were redacted and the code asks
        for something else, it may be for want of them: that is `unclear`. Raises `BadJournal`.
        """
        from outlive.runtime.rehearsal import rehearse

        found = journal if isinstance(journal, Exported) else exported_in(journal)
        made = await rehearse(self._all, found.id, found.head, found.events, self._clock)
        if found.redacted and made.verdict == "drift":
            said = f"values are redacted in it, and without them: {made.detail}"
            return replace(made, verdict="unclear", detail=said)
        return made


def _without_address(head: Head) -> Head:
    """`head` with the address that is told of its end as it may be shown; itself where nothing in
    that is secret."""
    notice = head.notice
    if notice is None or "…" not in (shown := masked(notice.url)):
        return head
    return replace(head, notice=replace(notice, url=shown))
