"""The decisions on quotas and slots: pure, each on the cells of all that are asked for at once.

Hit      take `cost` of every quota, or of none. A quota in shadow mode is charged where it can
         be, and refuses nothing. With `ahead`, as many as that are taken when they can be had of
         every one
Refund   give tokens back that were not used after all
Reset    forget what is used
Acquire, Release   slots.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from outlive.kind import Decision, Kind, View
from outlive.kinds.ratelimits.algorithms import (
    State,
    Taken,
    give_back,
    is_ahead,
    read_state,
    take,
    write_state,
)
from outlive.kinds.ratelimits.answers import Answer, Standing
from outlive.kinds.ratelimits.quotas import MICROS, Use
from outlive.kinds.ratelimits.slots import Acquire, Held, Release, decide_slot
from outlive.model import Batch, Put, Ref, Storage

SPACES: dict[Storage, str] = {
    "volatile": "ratelimit",
    "relaxed": "ratelimit-relaxed",
    "durable": "ratelimit-durable",
}
"""The space of what is kept in each class."""
DUE_MICROS = MICROS


class Hit(Struct, frozen=True, gc=False):
    """Take `cost` (0: only look) of each of `uses`, kept in `storage`.

    With `ahead` above `cost`, takes `ahead` where that can be had, else `cost`.
    """

    uses: tuple[Use, ...]
    cost: int = 1
    storage: Storage = "volatile"
    ahead: int = 0


class Refund(Struct, frozen=True, gc=False):
    """Give back `cost` of each of `uses` that was taken at `at` (the `time` of the answer)."""

    uses: tuple[Use, ...]
    cost: int
    at: int
    storage: Storage = "volatile"


class Reset(Struct, frozen=True, gc=False):
    """Forget what is used of each of `uses`."""

    uses: tuple[Use, ...]
    storage: Storage = "volatile"


Command = Hit | Refund | Reset | Acquire | Release


class RateLimits(Kind[Command, Answer | Held]):
    """What is used of quotas, and who holds slots, in one cell for each key."""

    name = "ratelimits"
    spaces = {space: storage for storage, space in SPACES.items()}  # noqa: RUF012

    def refs(self, command: Command) -> Sequence[Ref]:
        space = SPACES[command.storage]
        if isinstance(command, Acquire | Release):
            return (Ref(space, command.key),)
        return [Ref(space, use.key) for use in command.uses]

    def decide(self, view: View, command: Command, now: int) -> Decision[Answer | Held]:
        refs = self.refs(command)
        if isinstance(command, Acquire | Release):
            return decide_slot(refs[0], view[refs[0]], command, now)
        if isinstance(command, Reset):
            drop = tuple(ref for ref in refs if view[ref] is not None)
            return Decision(Batch(drop=drop), Answer(True, (), now, 0))
        cells = [view[ref] for ref in refs]
        states = [None if cell is None else read_state(cell.value) for cell in cells]
        if isinstance(command, Refund):
            return _refunded(refs, command, states, now)
        cost = max(command.cost, command.ahead)
        taken = take_all(command.uses, states, now, cost)
        if cost > command.cost and not all(one.admitted for one in taken):
            cost = command.cost
            taken = take_all(command.uses, states, now, cost)
        answer = answer_of(command.uses, taken, now, cost)
        if not answer.admitted or not cost:
            return Decision(_healed(refs, command.uses, states, now), answer)
        puts = [
            Put(ref, write_state(one.state), due_of(now + one.clear))
            for ref, one in zip(refs, taken, strict=True)
            if one.admitted
        ]
        return Decision(Batch(put=tuple(puts)), answer)


RATELIMITS = RateLimits()


def due_of(clear: int) -> int:
    """When a cell is due that says nothing any more from `clear` on: up to a second later, so that
    most hits leave it as it is and no store has to sort it anew."""
    return -(-clear // DUE_MICROS) * DUE_MICROS


def _healed(
    refs: Sequence[Ref], uses: Sequence[Use], states: Sequence[State | None], now: int
) -> Batch:
    """What else would be healed anew by every hit, and would never come back: states that are far
    in the future. Mostly there are none, and nothing is written."""
    puts = []
    for ref, use, state in zip(refs, uses, states, strict=True):
        if state is not None and is_ahead(state, now):
            looked = take(use.terms, state, now, 0)
            puts.append(Put(ref, write_state(looked.state), due_of(now + looked.clear)))
    return Batch(put=tuple(puts))


def take_all(
    uses: Sequence[Use], states: Iterable[State | None], now: int, cost: int
) -> list[Taken]:
    """What comes of asking each of `uses` for `cost`."""
    return [take(use.terms, state, now, cost) for use, state in zip(uses, states, strict=True)]


def admitted(uses: Sequence[Use], taken: Sequence[Taken]) -> bool:
    """Whether nothing refused but what is in shadow mode."""
    return all(one.admitted or use.shadow for use, one in zip(uses, taken, strict=True))


def answer_of(uses: Sequence[Use], taken: Sequence[Taken], now: int, cost: int) -> Answer:
    """The answer for what was taken of each; where one refused, the others are as they were."""
    whole, standings = admitted(uses, taken), []
    for use, one in zip(uses, taken, strict=True):
        terms, left = use.terms, one.left
        if one.admitted and not whole:
            left = min(left + cost, terms.burst)
        standings.append(
            Standing(
                use.name, terms.count, terms.period / MICROS, left, one.micros / MICROS,
                one.admitted, use.shadow,
            )
        )  # fmt: skip
    return Answer(whole, tuple(standings), now, cost)


def _refunded(
    refs: Sequence[Ref], command: Refund, states: Sequence[State | None], now: int
) -> Decision[Answer | Held]:
    puts, taken = [], []
    for ref, use, state in zip(refs, command.uses, states, strict=True):
        made = give_back(use.terms, state, now, command.cost, command.at)
        looked = take(use.terms, made, now, 0)
        taken.append(looked)
        if made is not None:
            puts.append(Put(ref, write_state(looked.state), due_of(now + looked.clear)))
    return Decision(Batch(put=tuple(puts)), answer_of(command.uses, taken, now, 0))
