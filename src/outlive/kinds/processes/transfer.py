"""A journal as a file: written out of one store, read into another, or replayed on new code.

    {"outlive":"journal","format":1,"id":…,"head":{…},"exported":…}     what its cell says
    {"n":0,"kind":"started","time":…,"data":{…},"sum":…}                one line for each event
    {"end":17,"sum":…}                                                  how many there were

Each sum is made of the one before it and of what its line says, so a line that was changed, lost,
added or moved is seen. It is a check against accidents, not a signature.

The file names the process's internal stream, because keys of steps, `run.uuid` and `run.random` are
made from it: elsewhere they must come out the same. So it is an operator's, and not for clients.

An imported journal has one event more, which says when the others were committed where they come
from; and one behind it that pauses the process, unless it had ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from outlive import codec
from outlive.codec import digest
from outlive.errors import BadJournal
from outlive.kinds.processes.cells import Head
from outlive.kinds.processes.vocabulary import Imported, Paused, pack, unpack
from outlive.model import Event

FORMAT = 1
EVENTS_MAX = 100_000
"""Events of one exported journal."""
Redact = Callable[[str, Any], Any]
"""Gives what is written in the place of an event's data; asked with its kind and its data."""


class _First(Struct, frozen=True, omit_defaults=True):
    outlive: str
    format: int
    id: str
    head: Head
    exported: int
    redacted: bool = False


class _Line(Struct, frozen=True):
    n: int
    kind: str
    time: int
    data: Raw
    sum: str


class _Last(Struct, frozen=True):
    end: int
    sum: str


class Exported(Struct, frozen=True):
    """A journal that was written to a file, as it was in its store."""

    id: str
    head: Head
    events: tuple[Event, ...]
    """Without their places in the shard that they come from."""
    redacted: bool = False

    @property
    def ended(self) -> str:
        """The status it has ended with; empty when it has not."""
        last = self.events[-1] if self.events else None
        if last is None or last.kind != "ended":
            return ""
        status: str = unpack(last.kind, last.data).status
        return status


_read_first = msgspec.json.Decoder(_First).decode
_read_line = msgspec.json.Decoder(_Line).decode
_read_last = msgspec.json.Decoder(_Last).decode


# --- as a file ------------------------------------------------------------------------------------


def lines_of(
    id: str, head: Head, events: Sequence[Event], now: int, redact: Redact | None = None
) -> Iterator[str]:
    """The lines of the file, without their ends."""
    first = pack(_First("journal", FORMAT, id, head, now, redact is not None))
    yield first.decode()
    sum = digest(first)
    for event in events:
        data = event.data
        if redact is not None:
            data = codec.encode(redact(event.kind, msgspec.json.decode(data)))
        data = msgspec.json.format(data, indent=-1)
        sum = _sum(sum, event.n, event.kind, event.time, data)
        yield pack(_Line(event.n, event.kind, event.time, Raw(data), sum)).decode()
    yield pack(_Last(len(events), sum)).decode()


def exported_in(text: str | bytes) -> Exported:
    """The journal in a file's text. Raises `BadJournal`."""
    whole = text.encode() if isinstance(text, str) else text
    return _exported([line for line in whole.split(b"\n") if line.strip()])


def as_payload(text: str | bytes) -> Raw:
    """The text of a file as one JSON value."""
    whole = text.encode() if isinstance(text, str) else text
    return Raw(b"[" + b",".join(line for line in whole.split(b"\n") if line.strip()) + b"]")


def exported_from(payload: Raw) -> Exported:
    """The journal in what `as_payload` gave. Raises `BadJournal`."""
    return _exported([bytes(line) for line in msgspec.json.decode(payload, type=list[Raw])])


def _exported(lines: list[bytes]) -> Exported:
    try:
        first = _read_first(lines[0]) if lines else None
        if first is None or first.outlive != "journal":
            raise BadJournal("It does not begin as an exported journal does.")
        if first.format != FORMAT:
            raise BadJournal(f"It is of format {first.format}; this version reads {FORMAT}.")
        if len(lines) - 2 > EVENTS_MAX:
            raise BadJournal(f"It has {len(lines) - 2} events; at most {EVENTS_MAX} are read.")
        events, sum = [], digest(lines[0])
        for n, raw in enumerate(lines[1:-1]):
            line = _read_line(raw)
            data = bytes(line.data)
            sum = _sum(sum, line.n, line.kind, line.time, data)
            if line.n != n or line.sum != sum:
                raise BadJournal(f"Line {n + 2} is not as it was written, or not at its place.")
            unpack(line.kind, data)
            stream = first.head.stream
            events.append(Event(0, 0, stream, n, line.kind, data, line.time, b""))
        last = _read_last(lines[-1])
    except KeyError as error:
        raise BadJournal(f"It has an event of the kind {error}, unknown to this version.") from None
    except ValueError as error:
        raise BadJournal(f"It cannot be read: {str(error)[:200]}.") from None
    if last.end != len(events) or last.sum != sum:
        raise BadJournal(f"Its end is not that of its {len(events)} events.")
    return Exported(first.id, first.head, tuple(events), first.redacted)


def _sum(before: str, n: int, kind: str, time: int, data: bytes) -> str:
    return digest(before.encode(), str(n).encode(), kind.encode(), str(time).encode(), data)


# --- in another store -----------------------------------------------------------------------------


def arrival(exported: Exported, now: int) -> tuple[Head, list[tuple[str, bytes]]]:
    """The cell and the events (kind, data) of an imported process: paused, or ended as it had."""
    before = exported.events
    ended = exported.ended
    times = [event.time for event in before]
    events = [(event.kind, event.data) for event in before]
    if ended:  # what ended a journal stays its last event
        times.insert(-1, times[-1])
        events.insert(-1, ("imported", pack(Imported(tuple(times)))))
    else:
        events.append(("imported", pack(Imported(tuple(times)))))
        was = f"it was {exported.head.status} where it comes from; retry lets it go on here"
        events.append(("paused", pack(Paused("imported", was))))
    head = msgspec.structs.replace(
        exported.head,
        status=ended or "paused",
        changed=now,
        waits_for="",
        input=codec.NULL,
        imported=True,
    )
    return head, events


def as_they_were(events: Sequence[Event]) -> list[Event]:
    """The events of an imported journal, at the times they had where they were committed."""
    found = next((event for event in reversed(events) if event.kind == "imported"), None)
    if found is None:
        return list(events)
    times: tuple[int, ...] = unpack(found.kind, found.data).times
    return [
        msgspec.structs.replace(event, time=times[event.n]) if event.n < len(times) else event
        for event in events
    ]
