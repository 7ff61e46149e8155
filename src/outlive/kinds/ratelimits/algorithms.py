"""How use is counted: three algorithms on whole numbers, without a clock.

    gcra      a level that leaks `count` units a microsecond; a token is `period` units, the bucket
              holds `burst` tokens. ITU-T I.371's generic cell rate algorithm, as a meter. Exact,
              because nothing is ever divided: tokens of 142.857… microseconds are no problem
    sliding   what was used in each twentieth of the period, counted until the period after its end
    fixed     what was used in the window that contains now

A state is a tuple of whole numbers, and says under which terms it was written. Under others it is
carried over: what is used stays used, and a higher limit is not a refill: the larger of the same
number and the same share is taken.

A time in the future of `now` (the view of a cell may be a little newer than the time that is
decided by) counts as now. One more than a minute ahead is a clock that was set back: it is healed,
and what was used stays used from now on.
"""

from __future__ import annotations

from msgspec import Struct

from outlive.kinds.ratelimits.quotas import Terms

State = tuple[int, ...]
PARTS = 20
AHEAD_MICROS_MAX = 60_000_000
"""How far ahead a time may be that was written: further is a clock that was set back."""
_LETTERS = {"gcra": 0, "sliding": 1, "fixed": 2}
_HEAD = 4


class Taken(Struct, frozen=True, gc=False):
    """What comes of asking for `cost` at a time."""

    admitted: bool
    state: State
    """What is used afterwards, if it is taken; to be kept only then."""
    left: int
    micros: int
    """Until it can be had, when it was refused; else until all is back."""
    clear: int
    """Microseconds until the state says nothing any more."""


def take(terms: Terms, state: State | None, now: int, cost: int) -> Taken:
    """Ask for `cost` tokens, at least 0, of which 0 is always to be had."""
    return _TAKE[terms.algorithm](terms, _carried(terms, state, now), now, cost)


def give_back(terms: Terms, state: State | None, now: int, cost: int, at: int) -> State | None:
    """The state after `cost` tokens that were taken at the time `at` were not used after all.

    What has come back by itself since is not given back again, so no more is admitted than if they
    had never been taken. None when there is nothing to give back to.
    """
    if state is None:
        return None
    return _GIVE[terms.algorithm](terms, _carried(terms, state, now), now, cost, at)


def used(state: State, now: int) -> tuple[int, int]:
    """How many tokens are used at `now`, rounded up, and of how many."""
    letter, count, burst, period = state[:_HEAD]
    if letter == 0:
        return -(-_level(state, now)[0] // period), burst
    if letter == 1:
        return sum(_live(state, now, period)[1::2]), count
    window = now // period
    return (state[5] if state[4] >= window else 0), count


def is_ahead(state: State, now: int) -> bool:
    """Whether a time in `state` is so far in the future of `now` that it is taken for now."""
    if len(state) == _HEAD:
        return False
    letter, period, last = state[0], state[3], state[-2]
    unit = 1 if letter == 0 else _part(period) if letter == 1 else period
    return last * unit - now > AHEAD_MICROS_MAX


def read_state(value: bytes) -> State:
    """The state in the value of a cell."""
    return tuple(map(int, value.split()))


def write_state(state: State) -> bytes:
    return b" ".join([b"%d" % number for number in state])


def _head(terms: Terms) -> State:
    return _LETTERS[terms.algorithm], terms.count, terms.burst, terms.period


def _carried(terms: Terms, state: State | None, now: int) -> State | None:
    """`state` under `terms`."""
    if state is None:
        return None
    head = _head(terms)
    if state[:_HEAD] == head:
        return state
    tokens, most = used(state, now)
    if not tokens:
        return None
    room = terms.burst
    tokens = min(room, max(tokens, -(-tokens * room // most)))
    if terms.algorithm == "gcra":
        return (*head, now, tokens * terms.period)
    return (*head, now // (_part(terms.period) if head[0] == 1 else terms.period), tokens)


def sane(at: int, now: int) -> int:
    """A time that was written, as seen at `now`: never more than a minute ahead."""
    return now if at - now > AHEAD_MICROS_MAX else at


# --- gcra -----------------------------------------------------------------------------------------


def _level(state: State, now: int) -> tuple[int, int]:
    """The level at `now`, and the time that it is of: the state's own when that is a bit later."""
    at = sane(state[4], now)
    return max(0, state[5] - max(0, now - at) * state[1]), max(now, at)


def _gcra(terms: Terms, state: State | None, now: int, cost: int) -> Taken:
    count, period = terms.count, terms.period
    room, level = terms.burst * period, 0
    if state is not None:
        level, now = _level(state, now)
    wanted = level + cost * period
    if wanted <= room:
        full = -(-wanted // count)
        return Taken(True, (*_head(terms), now, wanted), (room - wanted) // period, full, full)
    over = -(-(wanted - room) // count)
    state = (*_head(terms), now, level)
    return Taken(False, state, max(0, room - level) // period, over, -(-level // count))


def _gcra_back(terms: Terms, state: State | None, now: int, cost: int, at: int) -> State | None:
    if state is None:
        return None
    level, now = _level(state, now)
    units = max(0, cost * terms.period - max(0, now - at) * terms.count)
    return (*_head(terms), now, max(0, level - units))


# --- sliding --------------------------------------------------------------------------------------


def _part(period: int) -> int:
    return -(-period // PARTS)


def _live(state: State, now: int, period: int) -> list[int]:
    """The parts that still count at `now`, each with what was used in it."""
    part = _part(period)
    here = now // part
    found: list[int] = []
    for at in range(_HEAD, len(state), 2):
        index = state[at]
        if (index - here) * part > AHEAD_MICROS_MAX:
            index = here
        if (index + 1) * part + period > now and state[at + 1]:
            found += (index, state[at + 1])
    return found


def _sliding(terms: Terms, state: State | None, now: int, cost: int) -> Taken:
    period, part = terms.period, _part(terms.period)
    live = [] if state is None else _live(state, now, period)
    total = sum(live[1::2])
    if total + cost <= terms.count:
        here = now // part
        if cost:
            if live and live[-2] >= here:
                live[-1] += cost
            else:
                live += (here, cost)
        full = (live[-2] + 1) * part + period - now if live else 0
        left = terms.count - total - cost
        return Taken(True, (*_head(terms), *live), left, full, full)
    over, wait = total + cost - terms.count, 0
    for at in range(0, len(live), 2):
        over -= live[at + 1]
        wait = (live[at] + 1) * part + period - now
        if over <= 0:
            break
    clear = (live[-2] + 1) * part + period - now if live else 0
    return Taken(False, (*_head(terms), *live), max(0, terms.count - total), wait, clear)


def _sliding_back(terms: Terms, state: State | None, now: int, cost: int, at: int) -> State | None:
    if state is None:
        return None
    live, index = _live(state, now, terms.period), at // _part(terms.period)
    for place in range(0, len(live), 2):
        if live[place] == index:
            live[place + 1] = max(0, live[place + 1] - cost)
    return (*_head(terms), *live)


# --- fixed ----------------------------------------------------------------------------------------


def _window(state: State | None, now: int, period: int) -> tuple[int, int]:
    """The window that counts at `now`, and what is used of it."""
    here = now // period
    if state is None:
        return here, 0
    index = state[4]
    if index > here:
        index = here if index * period - now > AHEAD_MICROS_MAX else index
        return index, state[5]
    return here, state[5] if index == here else 0


def _fixed(terms: Terms, state: State | None, now: int, cost: int) -> Taken:
    window, total = _window(state, now, terms.period)
    end = (window + 1) * terms.period - now
    if total + cost <= terms.count:
        made = (*_head(terms), window, total + cost)
        return Taken(True, made, terms.count - total - cost, end, end)
    made = (*_head(terms), window, total)
    return Taken(False, made, max(0, terms.count - total), end, end)


def _fixed_back(terms: Terms, state: State | None, now: int, cost: int, at: int) -> State | None:
    window, total = _window(state, now, terms.period)
    if at // terms.period == window:
        total = max(0, total - cost)
    return (*_head(terms), window, total)


_TAKE = {"gcra": _gcra, "sliding": _sliding, "fixed": _fixed}
_GIVE = {"gcra": _gcra_back, "sliding": _sliding_back, "fixed": _fixed_back}
