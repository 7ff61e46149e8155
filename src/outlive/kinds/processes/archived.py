"""An ended process as one line of JSON: what is left of it outside the store.

    {"format":1,"id":…,"type":…,"version":…,"status":…,"started":…,"ended":…,"tags":{…},
     "stream":…,"events":[{"n":0,"kind":"started","time":…,"data":{…}}, …]}

All that its journal said, in order: input, steps with their results, the end; of an endless process
all eras that it kept, numbered over all of them (`before`: where the last one begins). Times are µs
since 1970 UTC, of an imported process those it had where it ran. A process may stand in an archive
twice, word for word the same; `read` gives it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from outlive.clock import MICROS
from outlive.codec import NULL
from outlive.errors import ArchiveDamaged
from outlive.kinds.processes.cells import Head
from outlive.kinds.processes.reports import View
from outlive.kinds.processes.view import view_of
from outlive.model import Event

FORMAT = 1


class KeptEvent(Struct, frozen=True, gc=False):
    """One event of the journal."""

    n: int
    kind: str
    time: int
    data: Raw


class Archived(Struct, frozen=True, omit_defaults=True):
    """An ended process, whole."""

    format: int
    id: str
    type: str
    version: int
    status: str
    started: int
    ended: int
    tags: dict[str, str]
    stream: str
    events: tuple[KeptEvent, ...]
    era: int = 1
    before: int = 0
    parent: str = ""

    def journal(self) -> list[Event]:
        """Its events; places and chain are not kept outside the store."""
        return [
            Event(0, 0, self.stream, kept.n, kept.kind, bytes(kept.data), kept.time, b"")
            for kept in self.events
        ]

    def view(self) -> View:
        """What could be seen of it when it had ended."""
        head = Head(
            self.stream, self.type, self.version, self.status, self.started, self.ended,
            era=self.era, before=self.before, parent=self.parent,
            tags=tuple(sorted(self.tags.items())),
        )  # fmt: skip
        last = [
            replace(event, n=event.n - self.before)
            for event in self.journal()
            if event.n >= self.before
        ]
        return view_of(self.id, head, last)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Archived).decode


def line_of(id: str, head: Head, events: Sequence[Event]) -> bytes:
    """The line of an ended process, from its cell's value and the journals of its eras."""
    kept = tuple(
        KeptEvent(event.n, event.kind, event.time, Raw(event.data) if event.data else NULL)
        for event in events
    )
    ended = kept[-1].time if kept else head.changed
    return _encode(
        Archived(
            FORMAT, id, head.type, head.version, head.status, head.started, ended,
            dict(head.tags), head.stream, kept, head.era, head.before, head.parent,
        )
    )  # fmt: skip


def name_of(head: Head) -> str:
    """In which file it is written: one for each type and day on which processes ended."""
    day = datetime.fromtimestamp((head.changed or head.started) / MICROS, UTC).date()
    return f"{head.type}/{day.isoformat()}"


def read(lines: Iterable[bytes]) -> Iterator[Archived]:
    """The processes in `lines`, each once. Raises `ArchiveDamaged` at a line that is none."""
    seen: set[str] = set()
    for line in lines:
        try:
            found = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ArchiveDamaged(f"A line is no archived process: {error}.") from error
        if found.format != FORMAT:
            raise ArchiveDamaged(
                f"A line is of format {found.format}; this release reads {FORMAT}."
            )
        if found.id not in seen:
            seen.add(found.id)
            yield found
