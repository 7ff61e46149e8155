"""Counters of others: how often something was done lately, for rate limiters that are not ours.

The kind behind the storage that `limits` (so slowapi and Flask-Limiter) keeps its counts in. Ours
are beside it: they decide several quotas as one and carry use over a change of terms;
here the library decides by its own strategies, and every question of it is one decision.

    fixed     (nothing) ──add──> counted until the end of the window that began with the first one
    moving    the times of what was admitted lately; one more is admitted while they and it are few
    sliding   what was admitted in this window and the one before, which counts as far as it reaches

Whole numbers, microseconds of the store's clock. A time more than a minute ahead of `now` is a
clock that was set back, and counts as now.

    a moving window remembers `TIMES_MAX` times one by one; with more of them those of one 256th of
    the window count as its latest: it refuses that much longer, and never admits more

Not promised: that counts survive what their storage class does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from outlive import codec
from outlive.kind import Decision, Kind, View
from outlive.kinds.ratelimits.algorithms import AHEAD_MICROS_MAX, sane
from outlive.model import Batch, Put, Ref, Storage

SPACES: dict[Storage, str] = {
    "volatile": "counter",
    "relaxed": "counter-relaxed",
    "durable": "counter-durable",
}
"""The space of what is kept in each class."""
TIMES_MAX = 512
SLOTS = 256

Way = Literal["fixed", "moving", "sliding"]


class Ask(Struct, frozen=True, gc=False):
    """Count `amount` (0: only look) of `name` in a window of `life` microseconds (which a look at a
    fixed one may leave out: 0).

    `most`: how many may be in it; what would be more is not counted. None: any number.
    """

    way: Way
    name: str
    life: int
    amount: int = 0
    most: int | None = None
    storage: Storage = "volatile"


class Forget(Struct, frozen=True, gc=False):
    """Forget what was counted in the cell at `ref`."""

    ref: Ref


class Count(Struct, frozen=True, gc=False):
    """How it stands now, and whether `amount` was counted."""

    counted: bool
    count: int = 0
    """In the window that ends at `ends`; of a moving one, in the one that ends now."""
    ends: int = 0
    oldest: int = 0
    """The first time that still counts, of a moving window; now when there is none."""
    before: int = 0
    """In the window before, of a sliding one."""
    now: int = 0


class Counters(Kind[Ask | Forget, Count]):
    """Counters of windows, in one cell for each name and way."""

    name = "counters"
    spaces = {space: storage for storage, space in SPACES.items()}  # noqa: RUF012

    def refs(self, command: Ask | Forget) -> Sequence[Ref]:
        if isinstance(command, Forget):
            return (command.ref,)
        return (ref_of(command.way, command.name, command.storage),)

    def decide(self, view: View, command: Ask | Forget, now: int) -> Decision[Count]:
        (ref,) = self.refs(command)
        cell = view[ref]
        if isinstance(command, Forget):
            drop = () if cell is None else (ref,)
            return Decision(Batch(drop=drop), Count(True, now=now))
        state = () if cell is None else tuple(map(int, cell.value.split()))
        if command.way == "fixed":
            made, due, reply = _fixed(state, command, now)
        elif command.way == "moving":
            made, due, reply = _moving(state, command, now)
        else:
            made, due, reply = _sliding(state, command, now)
        if not command.amount or (not reply.counted and made == state):
            return Decision(Batch(), reply)
        value = b" ".join([b"%d" % number for number in made])
        return Decision(Batch(put=(Put(ref, value, due),)), reply)


COUNTERS = Counters()


def ref_of(way: Way, name: str, storage: Storage) -> Ref:
    """The cell of a counter; `name` begins with what `prefix_of` gives for those it goes with."""
    group, _, rest = name.partition("/")
    return Ref(SPACES[storage], f"{group}/{way[0]}{codec.digest(rest.encode())}")


def prefix_of(group: str) -> str:
    """What the keys of a group's cells begin with."""
    return f"{group}/"


def _fixed(state: tuple[int, ...], ask: Ask, now: int) -> tuple[tuple[int, ...], int, Count]:
    count, ends = state or (0, 0)
    if ask.life and ends - now > ask.life + AHEAD_MICROS_MAX:
        ends = now + ask.life
    if ends <= now:
        count, ends = 0, now + ask.life
    if ask.most is not None and count + ask.amount > ask.most:
        return (count, ends), ends, Count(False, count, ends, now=now)
    count += ask.amount
    return (count, ends), ends, Count(True, count, ends if count else now, now=now)


def _moving(state: tuple[int, ...], ask: Ask, now: int) -> tuple[tuple[int, ...], int, Count]:
    pairs = zip((sane(at, now) for at in state[0::2]), state[1::2], strict=True)
    live = [(at, count) for at, count in pairs if at >= now - ask.life]
    total = sum(count for _, count in live)
    if ask.most is not None and total + ask.amount > ask.most:
        reply = Count(False, total, now, live[0][0] if live else now, now=now)
        healed = bool(state) and sane(state[-2], now) != state[-2]
        return _flat(live) if healed else state, now + ask.life + 1, reply
    if ask.amount:
        at = max(now, live[-1][0] if live else now)
        if live and live[-1][0] == at:
            live[-1] = (at, live[-1][1] + ask.amount)
        else:
            live.append((at, ask.amount))
        if len(live) > TIMES_MAX:
            live = _coarser(live, max(1, ask.life // SLOTS))
    due = live[-1][0] + ask.life + 1 if live else now
    reply = Count(True, total + ask.amount, now, live[0][0] if live else now, now=now)
    return _flat(live), due, reply


def _flat(live: list[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(number for pair in live for number in pair)


def _coarser(live: list[tuple[int, int]], part: int) -> list[tuple[int, int]]:
    """Those of one part of the window as one, at its latest time."""
    found: list[tuple[int, int]] = []
    for at, count in live:
        if found and found[-1][0] // part == at // part:
            found[-1] = (at, found[-1][1] + count)
        else:
            found.append((at, count))
    return found


def _sliding(state: tuple[int, ...], ask: Ask, now: int) -> tuple[tuple[int, ...], int, Count]:
    life, here = ask.life, now // ask.life
    window, current, before = state or (here, 0, 0)
    healed = False
    if window > here:
        ahead = window * life - now
        if ahead <= AHEAD_MICROS_MAX:
            here, now = window, window * life
        window, healed = here, ahead > AHEAD_MICROS_MAX
    if window < here:
        before = current if window == here - 1 else 0
        current, window = 0, here
    ends = (here + 1) * life
    reach = before * (ends - now) // life
    reply = Count(True, current + ask.amount, ends, before=before, now=now)
    if ask.most is not None and reach + current + ask.amount > ask.most:
        made = (window, current, before) if healed else state
        return made, ends + life, Count(False, current, ends, before=before, now=now)
    return (window, current + ask.amount, before), ends + life, reply
