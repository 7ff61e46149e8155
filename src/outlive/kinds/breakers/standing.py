"""What all instances know of a dependency: one cell, the commands on it, and what they decide.

    Report    what an instance has counted since its last report, and its verdict; also the way to
              ask how it stands (nothing counted, nothing written)
    Probe     may I be the one who tries? A probe right is a token with an end: the store's clock
              says when, so the right of a dead or frozen instance ends without anybody's help
    Ended     how the probe went. Of a right that has ended it is not taken: another may be trying
    Control   what an operator does, with who and why; kept with the cell, newest last

The counts of all instances lie in ten slots of the store's time. They are there only while some
instance has something bad to report, so a dependency that is well costs no write.

Parts may be as many as there are hosts that clients choose. One that no operator has touched is
forgotten when nothing was noted of it for `FORGET_MICROS`, and begins anew if it is called again.

Not promised: that a report which was not committed is counted (at most one interval of one
instance is lost), or that probes are shared fairly between instances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from outlive.clock import MICROS
from outlive.kind import Decision, Kind, View
from outlive.kinds.breakers.rule import Breaker
from outlive.model import Batch, Cell, Put, Ref, Storage

SPACE = "breaker"
SLOTS = 10
CONTROLS_MAX, TURNS_MAX = 50, 20
WORDS_MAX = 400
"""Characters kept of who and why."""
BACKOFF_MAX = 20
FORGET_MICROS = 30 * 86_400 * MICROS
Mode = Literal["closed", "open", "half-open"]
Forced = Literal["", "open", "closed"]
State = Literal["closed", "open", "half-open", "held open", "held closed"]
Action = Literal["force open", "force closed", "release", "reset"]
Outcome = Literal["well", "failed", "given back"]


class Right(Struct, frozen=True, array_like=True):
    """The right to probe: `token` until `ends`, given while the breaker was at `turn`. It is kept,
    and counted, until it ended, whatever becomes of the breaker meanwhile: a call that is under way
    does not stop because another one failed."""

    token: str
    ends: int
    turn: int


class Slot(Struct, frozen=True, array_like=True):
    """What all instances counted in the slot that began at `begins`."""

    begins: int
    calls: int
    failures: int
    slow: int


class Note(Struct, frozen=True, array_like=True):
    """One line of the record: what was done, by whom, why."""

    time: int
    what: str
    who: str
    why: str


class Standing(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a dependency stands."""

    mode: Mode = "closed"
    until: int = 0
    """When it may be tried again, by the store's clock, while it is open."""
    turn: int = 0
    """How often it has opened: a new number each time."""
    failed_probes: int = 0
    """Since it was closed last: each doubles the rest."""
    forced: Forced = ""
    rights: tuple[Right, ...] = ()
    succeeded: int = 0
    slots: tuple[Slot, ...] = ()
    controls: tuple[Note, ...] = ()
    turns: tuple[Note, ...] = ()


NEW = Standing()


class Report(Struct, frozen=True):
    """What `who` has counted since its last report; `verdict` says why it thinks that the
    dependency is down, seen while the breaker was at `turn`."""

    key: str
    rule: Breaker
    who: str = ""
    calls: int = 0
    failures: int = 0
    slow: int = 0
    verdict: str = ""
    turn: int = 0


class Probe(Struct, frozen=True):
    """Ask for the right to probe; `token` is new."""

    key: str
    rule: Breaker
    token: str
    who: str = ""


class Ended(Struct, frozen=True):
    """How the probe with `token` went."""

    key: str
    rule: Breaker
    token: str
    outcome: Outcome
    who: str = ""


class Control(Struct, frozen=True):
    """What an operator does."""

    key: str
    rule: Breaker
    action: Action
    who: str
    why: str


Command = Report | Probe | Ended | Control


class Told(Struct, frozen=True):
    """The answer: how it stands now, the store's time, and the right that was given, if any."""

    standing: Standing
    now: int
    right: Right | None = None


class Breakers(Kind[Command, Told]):
    """The kind: one cell for each dependency, or part of one."""

    name = "breakers"
    spaces: ClassVar[dict[str, Storage]] = {SPACE: "relaxed"}

    def refs(self, command: Command) -> Sequence[Ref]:
        return (ref_of(command.key),)

    def decide(self, view: View, command: Command, now: int) -> Decision[Told]:
        ref = ref_of(command.key)
        cell = view[ref]
        before = NEW if cell is None else read(cell.value)
        after, right = decided(before, command, now)
        if after == before:
            return Decision(Batch(), Told(before, now, right))
        return Decision(Batch(put=(put_of(ref, after, now),)), Told(after, now, right))

    def on_due(self, cell: Cell, now: int) -> Batch:
        """Whoever probes opens it half: until then it stays as it is. What is only there to be
        forgotten goes."""
        standing = read(cell.value)
        noted = standing.until if standing.mode == "open" else now - FORGET_MICROS
        if _is_forgettable(cell.ref, standing) and noted + FORGET_MICROS <= now:
            return Batch(drop=(cell.ref,))
        return Batch(put=(put_of(cell.ref, standing, noted),))


BREAKERS = Breakers()
STATES: tuple[State, ...] = ("closed", "open", "half-open", "held open", "held closed")


def state_of(standing: Standing) -> State:
    """How a dependency stands, in one word or two."""
    if standing.forced:
        return "held open" if standing.forced == "open" else "held closed"
    return standing.mode


def ref_of(key: str) -> Ref:
    """The cell of a dependency."""
    return Ref(SPACE, key)


def put_of(ref: Ref, standing: Standing, now: int) -> Put:
    """The cell's new value; `due` is when it may be tried again, then when it may be forgotten."""
    due = now + FORGET_MICROS if _is_forgettable(ref, standing) else None
    if standing.mode == "open" and now < standing.until:
        due = standing.until
    return Put(ref, _encode(standing), due)


def _is_forgettable(ref: Ref, standing: Standing) -> bool:
    """A part of a dependency, of which nothing is kept that an operator has done."""
    return "/" in ref.key and not (standing.forced or standing.controls)


_encode = msgspec.json.Encoder().encode
read = msgspec.json.Decoder(Standing).decode
"""The value of a cell."""


def decided(before: Standing, command: Command, now: int) -> tuple[Standing, Right | None]:
    """What becomes of `before`, and the right that is given."""
    if isinstance(command, Report):
        return _reported(before, command, now), None
    if isinstance(command, Probe):
        return _asked(before, command, now)
    if isinstance(command, Ended):
        return _probed(before, command, now), None
    return _controlled(before, command, now), None


def _reported(standing: Standing, told: Report, now: int) -> Standing:
    if standing.mode != "closed" or standing.forced:
        return standing  # what was counted before says nothing about now
    rule = told.rule
    slots = _lately(standing.slots, rule, now)
    troubled = told.failures or told.slow or any(slot.failures or slot.slow for slot in slots)
    if told.calls and troubled:
        slots = _added(slots, told, now)
    elif not troubled:
        slots = ()
    standing = replace(standing, slots=slots)
    why = told.verdict if told.turn >= standing.turn else ""  # later: it was forgotten since
    if not why:
        calls, failures, slow = (
            sum(slot.calls for slot in slots),
            sum(slot.failures for slot in slots),
            sum(slot.slow for slot in slots),
        )
        where = f"in {rule.window_seconds:g} s of all instances"
        why = rule.verdict(calls, failures, slow, where)
    return _opened(standing, rule, now, told.who, why) if why else standing


def _lately(slots: tuple[Slot, ...], rule: Breaker, now: int) -> tuple[Slot, ...]:
    oldest = now - round(rule.window_seconds * MICROS)
    return tuple(slot for slot in slots if slot.begins > oldest)


def _added(slots: tuple[Slot, ...], told: Report, now: int) -> tuple[Slot, ...]:
    span = max(1, round(told.rule.window_seconds * MICROS / SLOTS))
    last = slots[-1] if slots else None
    if last is None or last.begins + span <= now:
        new = Slot(now, told.calls, told.failures, told.slow)
        return (*slots[-SLOTS:], new)
    merged = Slot(
        last.begins, last.calls + told.calls, last.failures + told.failures, last.slow + told.slow
    )
    return (*slots[:-1], merged)


def _opened(standing: Standing, rule: Breaker, now: int, who: str, why: str) -> Standing:
    seconds = rule.open_seconds * 2.0 ** min(standing.failed_probes, BACKOFF_MAX)
    rest = min(rule.open_seconds_max, seconds)
    return replace(
        standing, mode="open", until=now + round(rest * MICROS), turn=standing.turn + 1,
        succeeded=0, slots=(), turns=_noted(standing.turns, now, "opened", who, why),
    )  # fmt: skip


def _closed(standing: Standing, now: int, who: str, why: str) -> Standing:
    return replace(
        standing, mode="closed", until=0, failed_probes=0, succeeded=0, slots=(),
        turns=_noted(standing.turns, now, "closed", who, why),
    )  # fmt: skip


def _asked(standing: Standing, asked: Probe, now: int) -> tuple[Standing, Right | None]:
    if standing.forced or standing.mode == "closed":
        return standing, None
    if standing.mode == "open":
        if now < standing.until:
            return standing, None
        standing = replace(
            standing, mode="half-open", succeeded=0,
            turns=_noted(standing.turns, now, "half-open", asked.who, "its rest is over"),
        )  # fmt: skip
    rights = tuple(right for right in standing.rights if right.ends > now)
    if len(rights) >= asked.rule.probes:
        return standing, None
    ends = now + round(asked.rule.probe_seconds * MICROS)
    right = Right(asked.token, ends, standing.turn)
    return replace(standing, rights=(*rights, right)), right


def _probed(standing: Standing, ended: Ended, now: int) -> Standing:
    held = [right for right in standing.rights if right.token == ended.token]
    if not held:
        return standing
    rights = tuple(right for right in standing.rights if right.token != ended.token)
    standing = replace(standing, rights=rights)
    late = held[0].ends <= now or held[0].turn != standing.turn
    if late or standing.forced or standing.mode != "half-open" or ended.outcome == "given back":
        return standing
    if ended.outcome == "failed":
        standing = replace(standing, failed_probes=standing.failed_probes + 1)
        return _opened(standing, ended.rule, now, ended.who, "a probe failed")
    standing = replace(standing, succeeded=standing.succeeded + 1)
    if standing.succeeded < ended.rule.successes:
        return standing
    return _closed(standing, now, ended.who, f"{standing.succeeded} probes went well")


def _controlled(standing: Standing, control: Control, now: int) -> Standing:
    noted = _noted(standing.controls, now, control.action, control.who, control.why, CONTROLS_MAX)
    standing = replace(standing, controls=noted)
    if control.action == "force open":
        return replace(standing, forced="open")
    if control.action == "force closed":
        return replace(standing, forced="closed")
    if control.action == "release":
        return replace(standing, forced="")
    return _closed(replace(standing, forced=""), now, control.who, control.why)


def _noted(
    notes: tuple[Note, ...], now: int, what: str, who: str, why: str, most: int = TURNS_MAX
) -> tuple[Note, ...]:
    return (*notes[-(most - 1) :], Note(now, what, who[:WORDS_MAX], why[:WORDS_MAX]))
