"""Rolling back: completed steps are undone, the last one first, each undo recorded and tried again.

Children that have not ended are cancelled first, and their ends are waited for (offspring.py).

The decision to roll back is one commit, and it names the steps that had been started and not
recorded; from then on the body is not needed: what an undo is given stands in the journal. Undos
are shielded from cancellation. One that gives up makes the process `stuck`, never silently
incomplete.

Reference: Garcia-Molina & Salem, "Sagas", SIGMOD 1987.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import msgspec

from outlive import codec, ids, steps
from outlive.clock import MICROS
from outlive.errors import ChildFailed, Discarded, StepFailed
from outlive.kinds.processes import Failure, Unknown
from outlive.kinds.processes.vocabulary import Armed, Compensating, UndoFailed, Undone
from outlive.runtime import offspring
from outlive.runtime.activation import Activation, failure_of, spec_for_undo
from outlive.runtime.attempts import call
from outlive.runtime.transactions import bound, observed, transact

UNDO_RETRY = steps.Retry(attempts=12, base_seconds=0.2, cap_seconds=30.0)
"""How an undo is tried before its process is stuck: for about two minutes."""

SIBLINGS_SECONDS, SIBLINGS_LOOKS = 5.0, 1000

_given = msgspec.json.Decoder(tuple[list[msgspec.Raw], dict[str, msgspec.Raw]]).decode


async def begin(
    activation: Activation,
    failure: Failure,
    *,
    cancelled: bool = False,
    error: BaseException | None = None,
) -> None:
    """Decide what the failure of a body means, record it, and undo what is to be undone."""
    if activation.gone:
        raise Discarded
    activation.shielded = activation.halted = True
    await _end_siblings(activation)
    journal = activation.journal
    declared = activation.definition.rollback_on
    rolls_back = journal.cancel is not None or error is None or is_any(error, declared)
    if journal.pivoted or not rolls_back:
        await activation.stick(failure, getattr(error, "step", ""))
        return
    unknown = tuple(
        armed for armed in activation.started.values() if armed.id not in journal.records
    )
    children, mail = offspring.cancel_open(activation)
    if not (unknown or children or journal.armed()):
        await activation.end("cancelled" if cancelled else "failed", error=failure)
        return
    decided = Compensating(failure, cancelled, unknown, children)
    await activation.record(decided, head=activation.with_status("compensating"), mail=mail)
    await undo_all(activation)


async def _end_siblings(activation: Activation) -> None:
    """What the body had started beside the failure ends before anything is undone.

    A step that does not let itself be cancelled is left behind after `SIBLINGS_SECONDS`.
    """
    activation.interrupt(Discarded())
    for _ in range(SIBLINGS_LOOKS):  # real time: they are the user's own code
        if not activation.interrupts:
            break
        await asyncio.sleep(SIBLINGS_SECONDS / SIBLINGS_LOOKS)
    while activation.transacting is not None:
        await asyncio.shield(activation.transacting)
    if activation.gone:
        raise Discarded


def is_any(error: BaseException, declared: tuple[type[Exception], ...]) -> bool:
    """Whether `error`, or what a step gave up with, is one of `declared`."""
    if isinstance(error, declared) or isinstance(error.__cause__, declared):
        return True
    if not isinstance(error, (ChildFailed, StepFailed)):
        return False
    return error.failure_type in _names_of(declared)


def _names_of(declared: tuple[type[Exception], ...]) -> set[str]:
    """The names of these types and of all derived from them: a replay has only the name."""
    found: set[str] = set()
    left = list(declared)
    while left:
        one = left.pop()
        found.add(one.__name__)
        left.extend(one.__subclasses__())
    return found


async def undo_all(activation: Activation) -> None:
    """Undo what is still to be undone, then record the end."""
    activation.shielded = True
    journal = activation.journal
    if journal.family is not None:
        _demand_time(activation)
        await offspring.ended(activation, [child.child for child in journal.family.open()])
    for armed in journal.armed():
        _demand_time(activation)
        if not await _undo(activation, armed):
            return
    await activation.end(journal.outcome(), error=journal.failure())


async def undo_part(activation: Activation, ids: Collection[str]) -> None:
    """Undo those of the steps `ids` that are not undone, the last completed one first; the process
    goes on behind it.

    An undo that is under way is shielded from a cancel. One that gives up makes the process
    `stuck`; when an operator lets it go on, its body comes by here again. Raises `Discarded` then.
    """
    for armed in activation.journal.armed():
        if armed.id not in ids or armed.id in activation.journal.undone:
            continue
        if activation.halted:
            activation.check()
        if not await _undo(activation, armed, f"undo {armed.id}"):
            activation.discard()
            raise Discarded


async def _undo(activation: Activation, armed: Armed, stuck: str = "") -> bool:
    """Undo one step; False when it gave up and the process is stuck, because of `stuck` if that is
    given, else of the step."""
    node = activation.node
    past = activation.journal.undo_attempts.get(armed.id)
    number = 1 if past is None else past.number + 1
    if past is not None and past.again_at > node.clock.wall():
        _demand_time(activation)
        await activation.park(f"undo {armed.id} {past.number}", past.again_at)
    while True:
        if armed.id in activation.journal.undone:  # declared so meanwhile
            return True
        began = node.clock.wall()
        stream = activation.journal.origins.get(armed.id, activation.head.stream)
        undoing = steps.Attempt(stream, armed.id, number, activation.id, undoing=True)
        steps.set_attempt(undoing)
        try:
            if armed.transact:
                await _undo_in_transaction(activation, armed, began, number)
            else:
                await _undo_outside(activation, armed)
                if armed.id in activation.journal.undone:
                    return True
                await activation.record(Undone(armed.id, armed.name, began, number))
            return True
        except Exception as error:
            if armed.id in activation.journal.undone:
                return True
            failure = failure_of(error)
            wait = ids.full_jitter(UNDO_RETRY.base_seconds, UNDO_RETRY.cap_seconds, number)
            again_at = node.clock.wall() + round(wait * MICROS)
            event = UndoFailed(armed.id, armed.name, number, began, failure, again_at)
            if not UNDO_RETRY.again(error, number):
                await activation.record(event)
                await activation.stick(failure, stuck or armed.id)
                return False
            await activation.record(event)
            _demand_time(activation)
            await activation.park(f"undo {armed.id} {number}", again_at)
            number += 1


def _demand_time(activation: Activation) -> None:
    """While its node goes down nothing more is undone here, and nothing waits for it."""
    if activation.node.draining or activation.leaving:
        raise Discarded


async def _undo_outside(activation: Activation, armed: Armed) -> None:
    if armed.child:
        taking_back, given = offspring.taking_back(activation, armed)
        await call(activation, taking_back, given, {})
        return
    spec = spec_for_undo(activation, armed)
    args, kwargs, made = _arguments(spec, armed, skip=0)
    undo = steps.spec_of(spec.undo())
    await call(activation, undo, (*args, made), kwargs)


async def _undo_in_transaction(
    activation: Activation, armed: Armed, began: int, number: int
) -> None:
    spec = spec_for_undo(activation, armed)
    args, kwargs, made = _arguments(spec, armed, skip=1)
    undo = spec.undo()
    event = Undone(armed.id, armed.name, began, number)

    work = bound(undo, steps.attempt(), (*args, made), kwargs, lambda _: (None, (event,)))
    with observed(activation, armed.undo, steps.attempt()):
        await transact(activation, work, manner=steps.manner_of(undo))


def _arguments(
    spec: steps.Spec, armed: Armed, skip: int
) -> tuple[list[object], dict[str, object], object]:
    given, result = spec.shapes(skip)
    positional, named = _given(armed.given)
    args = [
        (given[at] if at < len(given) else codec.ANYTHING).read(raw)
        for at, raw in enumerate(positional)
    ]
    kwargs = {name: codec.ANYTHING.read(raw) for name, raw in named.items()}
    made = Unknown() if armed.result is None else result.read(armed.result)
    return args, kwargs, made
