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

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from outlive import codec
from outlive.codec import digest
from outlive.errors import BadJournal
from outlive.kinds.processes.cells import Head
from outlive.kinds.processes.vocabulary import KINDS, Imported, Paused, pack, unpack
from outlive.model import Event

FORMAT = 1
EVENTS_MAX = 100_000
"""Events of one exported journal."""
ID = re.compile(r"[a-z][a-z0-9]{0,15}_[0-9a-z]{1,64}\Z")
"""How a public id looks: what is imported may be another's writing."""
_NESTED = 32
"""How much deeper than in a file something lies in a command, and in an event; with room."""
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
    at: int = 0
    """When it was written (µs since 1970 UTC), by the clock of the store that it comes from."""

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


Rewrite = Callable[[str, bytes], bytes]
"""Gives the data that are written for an event; asked with its kind and its data as JSON."""


class Lines:
    """Writes the lines of a file in their order, so that no journal is ever held whole.

    `rewrite`: what is written in the place of an event's data; None: the data as they are.
    """

    def __init__(self, id: str, head: Head, now: int, rewrite: Rewrite | None = None) -> None:
        self._rewrite = rewrite
        self._first = pack(_First("journal", FORMAT, id, head, now, rewrite is not None))
        self._sum = digest(self._first)
        self._count = 0

    def first(self) -> bytes:
        """The line that says whose journal it is, with its end."""
        return self._first + b"\n"

    def of(self, event: Event) -> bytes:
        """The line of the next event, with its end."""
        data = event.data if self._rewrite is None else self._rewrite(event.kind, event.data)
        data = msgspec.json.format(data, indent=-1)
        self._sum = _sum(self._sum, event.n, event.kind, event.time, data)
        self._count += 1
        return pack(_Line(event.n, event.kind, event.time, Raw(data), self._sum)) + b"\n"

    def last(self) -> bytes:
        """The line without which a file is not whole, with its end."""
        return pack(_Last(self._count, self._sum)) + b"\n"


def by(redact: Redact) -> Rewrite:
    """A function of decoded data as one of JSON."""

    def rewrite(kind: str, data: bytes) -> bytes:
        return codec.encode(redact(kind, msgspec.json.decode(data)))

    return rewrite


def redacted_file(text: str | bytes, redact: Redact) -> bytes:
    """The file of a journal, written anew without what `redact` takes out. Raises `BadJournal`."""
    found = exported_in(text)
    lines = Lines(found.id, found.head, found.at, by(redact))
    return b"".join((lines.first(), *map(lines.of, found.events), lines.last()))


def exported_in(text: str | bytes) -> Exported:
    """The journal in a file's text. Raises `BadJournal`."""
    whole = text.encode() if isinstance(text, str) else text
    return _exported([line for line in whole.split(b"\n") if line.strip()])


def as_payload(text: str | bytes) -> Raw:
    """The text of a file as one JSON value."""
    whole = text.encode() if isinstance(text, str) else text
    return Raw(b"[" + b",".join(line for line in whole.split(b"\n") if line.strip()) + b"]")


def checked(text: bytes) -> tuple[Exported, Raw]:
    """The journal in a file's text, and that as `as_payload`. Raises `BadJournal`, also for what
    could be read here and not any more as part of a command."""
    exported, payload = exported_in(text), as_payload(text)
    if not ID.match(exported.id):
        raise BadJournal(f"It is that of {exported.id[:80]!r}, which is no id of a process.")
    try:
        msgspec.json.decode(b"[" * _NESTED + payload + b"]" * _NESTED, type=Raw)
    except RecursionError:
        raise BadJournal("It is nested too deeply.") from None
    return exported, payload


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
            if line.kind not in KINDS:
                kind = f"the kind {line.kind!r}, unknown to this version"
                raise BadJournal(f"It has an event of {kind}.")
            unpack(line.kind, data)
            stream = first.head.stream
            events.append(Event(0, 0, stream, n, line.kind, data, line.time, b""))
        last = _read_last(lines[-1])
    except ValueError as error:
        raise BadJournal(f"It cannot be read: {str(error)[:200]}.") from None
    except RecursionError:
        raise BadJournal("It cannot be read: it is nested too deeply.") from None
    if last.end != len(events) or last.sum != sum:
        raise BadJournal(f"Its end is not that of its {len(events)} events.")
    return Exported(first.id, first.head, tuple(events), first.redacted, first.exported)


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
