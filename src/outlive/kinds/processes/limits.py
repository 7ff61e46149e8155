"""How many processes of a type go at once, and how many begin in a while: lines, turns, places.

    queued, with a ticket ──turn──> queued, with a place ──> running … waiting … ──> ended
        ▲                                                         │ paused or stuck
        └───────────────────── resumed ───────────────────────────┘   (gives its place back)

    line      one for each limit of a type, or for each key under it: `imports.0`, `imports.0/acme`
    ticket    who waits in a line; the order of their keys is the order of turns
    place     a process that counts: taken in the commit that gives it its turn, given back by the
              very commit that ends, pauses or sticks it
    bell      a command to whoever owns the shard of the line: look who can go. It comes in each
              commit that adds a ticket or frees a place, so no wake-up can be lost

Only cells are written. A turn is given by a commit that requires the line's cell at the version
under which places were counted: between, places only become fewer, so there are never too many.

A priority is worth `PRIORITY_SECONDS` of waiting: so who has waited long enough comes before
everybody, and nobody starves.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from outlive.codec import digest
from outlive.errors import InvalidInput
from outlive.kinds.processes.cells import Command, Head, inbox_of
from outlive.kinds.processes.vocabulary import FINAL, pack
from outlive.model import Cell, Put, Ref, shard_of

if TYPE_CHECKING:
    from outlive.kinds.processes.definition import Definition

MICROS = 1_000_000
CONCURRENCY_MAX = 10_000
"""Processes that one line may let go at once."""
RATE_MAX = 1_000_000
RATE_SECONDS_MAX = 86_400.0
RATE_PARTS = 100
"""A begin counts from the end of the hundredth part of its period in which it lies: exact as an
upper bound, late by at most one part, and a line keeps at most 101 numbers."""
LIMITS_MAX = 4
PRIORITY_MAX = 9
PRIORITY_SECONDS = 600.0
"""How much waiting a priority is worth: 9 comes before whoever came less than 90 minutes earlier
with 0."""
BACKLOG_MAX = 10_000
"""Processes that wait in one line before a start is refused, where nothing else is declared."""
BELL_SECONDS = 2.0
"""When a bell is heard that was also told in memory: only if that came to nothing."""
LINES_MARK = "line.name"
FREED = FINAL | {"paused", "stuck"}
"""Statuses without a place: who is in one of them does not hold up a line."""
_PLAIN = re.compile(r"[A-Za-z0-9._@+-]{1,64}\Z")
_FRONT = "0" * 23
_coming = itertools.count()


class Rate(Struct, frozen=True):
    """At most `count` (1 to 1,000,000) in any `per_seconds` (above 0, at most a day)."""

    count: int
    per_seconds: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= RATE_MAX:
            raise ValueError(f"the count of a rate is {self.count}; it is 1 to {RATE_MAX}")
        if not 0 < self.per_seconds <= RATE_SECONDS_MAX:
            raise ValueError(
                f"a rate is per {self.per_seconds} seconds; it is above 0, at most a day"
            )


class Limit(Struct, frozen=True):
    """How many processes of a type go at once, and how many begin in a while, over the whole store.

    `concurrency` (1 to 10,000): at most so many between their begin and their end; one that waits
    or sleeps counts, one that is paused or stuck does not. `rate`: at most so many begin. `per`:
    the limit is for each value of this field of the input, or of this function of it (a tenant);
    without it for the type. What is over the limit is `queued`.
    """

    concurrency: int | None = None
    rate: Rate | None = None
    per: str | Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if self.concurrency is None and self.rate is None:
            raise ValueError("a limit without concurrency and rate limits nothing")
        if self.concurrency is not None and not 1 <= self.concurrency <= CONCURRENCY_MAX:
            raise ValueError(f"concurrency is {self.concurrency}; it is 1 to {CONCURRENCY_MAX}")

    @property
    def terms(self) -> Terms:
        rate = self.rate
        period = 0 if rate is None else round(rate.per_seconds * MICROS)
        return Terms(self.concurrency, 0 if rate is None else rate.count, period)

    def key_of(self, value: Any) -> str:
        """The key of an input, as it stands in the name of its line; empty without `per`."""
        if self.per is None:
            return ""
        if callable(self.per):
            found = self.per(value)
        elif isinstance(value, Mapping):
            found = value.get(self.per, _MISSING)
        else:
            found = getattr(value, self.per, _MISSING)
        if found is _MISSING:
            raise InvalidInput(f"The input has no {self.per!r}, by which its type is limited.")
        text = str(found)
        return f"/{text}" if _PLAIN.match(text) else f"/~{digest(text.encode())}"


_MISSING = object()


class Terms(Struct, frozen=True, omit_defaults=True):
    """A limit as a ticket carries it, for a node that does not declare the type."""

    concurrency: int | None = None
    count: int = 0
    period: int = 0


class Ticket(Struct, frozen=True, omit_defaults=True):
    """Who waits in a line since when: the process, all its lines, in which of them this is, and
    their terms."""

    id: str
    lines: tuple[str, ...]
    terms: tuple[Terms, ...]
    at: int = 0
    since: int = 0


class Line(Struct, frozen=True, omit_defaults=True):
    """What a line remembers: when how many have begun in its period, and for when its own bell is
    set."""

    begun: tuple[tuple[int, int], ...] = ()
    bell: int = 0


class Standing(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Where a queued process stands, as it was when it was asked."""

    line: str
    """The type, and which of its limits it waits for, such as `imports.0`."""
    ahead: int
    """How many have their turn before it, as far as is counted."""
    at_least: bool = False
    """More than that may be ahead."""
    running: int = 0
    """How many hold a place."""
    why: str = ""


class Backlog(Struct, frozen=True):
    """What waits in the lines of one type."""

    waiting: int
    oldest_seconds: float


read_ticket = msgspec.json.Decoder(Ticket).decode
read_line = msgspec.json.Decoder(Line).decode


# --- names ----------------------------------------------------------------------------------------


def lines_of(made: Definition, value: Any) -> tuple[str, ...]:
    """The lines in which a process of `made` with this input must get its turn, in their order."""
    return tuple(f"{made.name}.{n}{limit.key_of(value)}" for n, limit in enumerate(made.limits))


def type_of(line: str) -> tuple[str, int]:
    """The type whose line it is, and the number of the limit in it."""
    name, _, rest = line.partition(".")
    return name, int(rest.partition("/")[0])


def lines_space(shard: int) -> str:
    return f"line/{shard}"


def line_ref(line: str, shards: int) -> Ref:
    return Ref(lines_space(shard_of(line, shards)), line)


def tickets_of(line: str) -> str:
    return f"ticket/{line}"


def places_of(line: str) -> str:
    return f"place/{line}"


def turn_ref(id: str, shards: int) -> Ref:
    """The cell of the command to begin: one for a process, so that it can be taken back."""
    return Ref(inbox_of(shard_of(id, shards)), f"{id}/turn")


def turn(id: str, shards: int, due: int) -> Put:
    return Put(turn_ref(id, shards), pack(Command("start", id)), due)


def bell(line: str, shards: int, due: int, ringer: str) -> Put:
    """The command to look who can go in a line. Each `ringer` has a bell of its own: nobody waits
    for another's commit."""
    ref = Ref(inbox_of(shard_of(line, shards)), f"{line}!{ringer}")
    return Put(ref, pack(Command("admit", line)), due)


def place_in_line(now: int, priority: int) -> str:
    """Where a ticket stands: earlier by its priority's worth; of one moment, as they came."""
    rank = now - round(priority * PRIORITY_SECONDS * MICROS)
    return f"{rank:017d}{next(_coming) % 1_000_000:06d}"


def demand_priority(priority: int) -> int:
    """`priority`, if it is one. Raises `ValueError`."""
    if not 0 <= priority <= PRIORITY_MAX:
        raise ValueError(f"priority is {priority}; it is 0 to {PRIORITY_MAX}. Nothing was started.")
    return priority


# --- decisions ------------------------------------------------------------------------------------


def ticket_put(
    id: str, lines: Sequence[str], terms: Sequence[Terms], place: str, since: int, at: int = 0
) -> Put:
    """The ticket of a process in the `at`-th of its lines."""
    ref = Ref(tickets_of(lines[at]), f"{place}/{id}")
    return Put(ref, pack(Ticket(id, tuple(lines), tuple(terms), at, since)))


def line_put(ref: Ref, line: Line) -> Put:
    """The cell of a line; its mark finds all lines that are in use."""
    return Put(ref, pack(line), None, ((LINES_MARK, ref.key),))


def taken_back(id: str, head: Head, shards: int) -> tuple[Ref, ...]:
    """The cells by which a process stands in its lines, holds places and has its turn."""
    return (
        *(Ref(tickets_of(line), f"{head.place}/{id}") for line in head.lines),
        *(Ref(places_of(line), id) for line in head.lines),
        turn_ref(id, shards),
    )


def to_the_front(head: Head) -> Head:
    """`head` with a place before all others: whoever rolls back goes first."""
    return msgspec.structs.replace(head, place=_FRONT)


def turns(
    terms: Terms, line: Line, running: int, waiting: int, now: int
) -> tuple[int, Line, int | None]:
    """How many of those who wait may go now, the line behind that, and when a rate lets the next
    go (None: not the rate is in the way)."""
    begun = tuple(part for part in line.begun if part[0] > now - terms.period)
    free = waiting
    if terms.concurrency is not None:
        free = min(free, max(0, terms.concurrency - running))
    if not terms.count:
        return free, Line((), line.bell), None
    left = max(0, terms.count - sum(count for _, count in begun))
    go = min(free, left)
    if go:
        part = max(1, terms.period // RATE_PARTS)
        end = (now // part + 1) * part
        if begun and begun[-1][0] == end:
            begun = (*begun[:-1], (end, begun[-1][1] + go))
        else:
            begun = (*begun, (end, go))
    again = begun[0][0] + terms.period if go < free and begun else None
    return go, Line(begun, line.bell), again


def standing_of(
    line: str, place: str, ahead: Sequence[Cell], counted_max: int, running: int, terms: Terms
) -> Standing:
    """Where somebody stands, from the tickets before it."""
    before = sum(cell.key < place for cell in ahead)
    full = terms.concurrency is not None and running >= terms.concurrency
    if full:
        why = f"{running} of {terms.concurrency} places are taken"
    elif terms.count:
        why = f"at most {terms.count} begin in {terms.period / MICROS:g} s"
    else:
        why = "its turn is about to come"
    name = line.partition("/")[0]
    return Standing(name, before, before >= counted_max, running, why)
