"""What an operator asks of one process: each a record that says who asked and why.

    pause      it stops at its next durable point; a step under way ends and is recorded
    resume     it goes on where it was: attempts stay counted, what was recorded stays
    hasten     what waits for its next attempt makes it now; the count stays
    skip       a step that fails is declared done, or failed; an undo that fails, undone
    deadline   when it must have ended is set anew, or lifted
    fork       it is cancelled, and another process goes on with what it has done (forks.py)

While a process is paused nothing of it passes: no time-out, no timer, no deadline. What has come
due meanwhile is due when it goes on, but a signal that has come meanwhile ends its wait before the
time-out does. A pause ends by resume, retry or cancel, and by nothing else: whoever takes the shard
over finds it paused.

Each of these is decided in one turn of the event loop and durable when it returns; carried out
again it changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct

from outlive import codec, steps
from outlive.errors import (
    NotForkable,
    NothingToSkip,
    NotPausable,
    NotPaused,
    NotStuck,
    PastPivot,
    ProcessTerminal,
    RollingBack,
    UnfitValue,
)
from outlive.kinds.processes import FINAL, Failure
from outlive.kinds.processes.vocabulary import (
    HALTED,
    OPERATOR,
    Deadline,
    Hastened,
    Paused,
    Resumed,
    Skip,
    Skipped,
    Undone,
)

if TYPE_CHECKING:
    from outlive.kinds.processes import Command, Journal
    from outlive.model import Require
    from outlive.runtime.activation import Activation
    from outlive.runtime.commands import Commands


class Declared(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a skip declares of a step: the payload of its command."""

    result: Raw = codec.NULL
    error: str | None = None
    undo: bool = True

    @property
    def bare(self) -> bool:
        """Whether neither a value nor an error is declared."""
        return self.error is None and bytes(self.result) == b"null"


class Until(Struct, frozen=True, omit_defaults=True, gc=False):
    """The payload of a command that sets a deadline, on the store's clock; None lifts it."""

    until: int | None = None


read_declared = msgspec.json.Decoder(Declared).decode
read_until = msgspec.json.Decoder(Until).decode


# --- stopping and going on ------------------------------------------------------------------------


async def pause(
    to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
) -> None:
    """Stop at the next durable point: at once when it waits."""
    demand_pausable(activation.id, activation.head.status)
    if activation.head.status == "paused":
        await to.only_drop(activation, done)
        return
    event = Paused(OPERATOR, command.reason, command.who, activation.head.status == "waiting")
    head = activation.with_status("paused")
    gate = to.decide(activation, event, head=head, done=done)
    activation.put_aside()
    await to.durable(activation, gate)


async def resume(
    to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
) -> None:
    """Go on where it was."""
    journal = activation.journal
    demand_paused(activation.id, activation.head.status)
    waiting = journal.paused is not None and journal.paused.waiting and journal.compensating is None
    event = Resumed(command.who, command.reason, kept=True, waiting=waiting)
    if waiting:
        head, due = activation.with_status("waiting", journal.waits_for()), activation.next_try()
    else:
        undoing = journal.compensating is not None
        head, due = activation.with_status("compensating" if undoing else "running"), None
    await to.append(activation, event, head=head, due=due, done=done)
    activation.run()


async def hasten(
    to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
) -> None:
    """Make the next attempt of what waits for it now."""
    journal = activation.journal
    again, undoing = hastened(activation.id, activation.head.status, journal, command.name)
    tries = [f"retry {id} {journal.attempts[id].number}" for id in again]
    tries += [f"undo {id} {journal.undo_attempts[id].number}" for id in undoing]
    event = Hastened(again, undoing, command.who, command.reason)
    waiting = activation.head.status == "waiting"
    head = activation.with_status("running") if waiting else None
    await to.append(activation, event, head=head, done=done)
    for id in tries:
        activation.settle(id)
    activation.run()


def hastened(
    id: str, status: str, journal: Journal, step: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The steps and the undos whose next attempt is to be made at once: all, or `step` alone.

    Raises `NotStuck` when there are none.
    """
    again, undoing = journal.between_attempts()
    if step:
        again = tuple(one for one in again if one == step)
        undoing = tuple(one for one in undoing if step in (one, f"undo {one}"))
    if status in (*FINAL, *HALTED) or not (again or undoing):
        what = f"{step} of {id}" if step else id
        raise NotStuck(f"{what} waits for no attempt ({status}); it was left as it is.")
    return again, undoing


# --- declaring what was not done ------------------------------------------------------------------


class Target(Struct, frozen=True, gc=False):
    """What is skipped: the step, or its undo."""

    id: str
    undo: bool
    stuck: bool


async def skip(
    to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
) -> None:
    """Declare a step that fails as settled, or an undo that fails as done."""
    journal, status = activation.journal, activation.head.status
    target = skippable(activation.id, status, journal, command.name)
    declared = read_declared(command.payload)
    events: list[Any] = []
    if target.stuck:
        events.append(Resumed(command.who, command.reason, kept=True))
    if target.undo:
        wake = _undo_skipped(activation, target, declared, command, events)
    else:
        wake = _step_skipped(activation, target, declared, command, events)
    head = None
    if target.stuck or status == "waiting":
        undoing = journal.compensating is not None
        head = activation.with_status("compensating" if undoing else "running")
    await to.append(activation, *events, head=head, done=done)
    activation.settle(wake)
    if activation.head.status != "paused":
        activation.run()


def _step_skipped(
    activation: Activation, target: Target, declared: Declared, command: Command, events: list[Any]
) -> str:
    """Add what is to be recorded; gives what waits for it."""
    past = activation.journal.attempts.get(target.id)
    record = activation.journal.records.get(target.id)
    name = past.name if past is not None else getattr(record, "name", "")
    spec = steps.spec_named(name, activation.definition.body.__module__)
    result = fitting(spec, target.id, declared)
    error = None if declared.error is None else Failure("Skipped", declared.error, "", False)
    skipped = Skipped(target.id, result, error, declared.undo, command.who, command.reason)
    events.append(skipped)
    return f"retry {target.id} {past.number}" if past is not None else ""


def _undo_skipped(
    activation: Activation, target: Target, declared: Declared, command: Command, events: list[Any]
) -> str:
    if not declared.bare:
        raise UnfitValue(f"The undo of {target.id} is declared as done, without a value or error.")
    journal = activation.journal
    past = journal.undo_attempts.get(target.id)
    number = 0 if past is None else past.number
    name = next(armed.name for armed in journal.armed() if armed.id == target.id)
    by = Skip(command.who, command.reason)
    events.append(Undone(target.id, name, activation.node.clock.wall(), number, by))
    return f"undo {target.id} {number}"


def fitting(spec: steps.Spec | None, id: str, declared: Declared) -> Raw:
    """The value that is declared for a step, as it is recorded. Raises `UnfitValue`.

    A step that is not known here is held to its type when its body comes to it.
    """
    if declared.error is not None:
        if bytes(declared.result) != b"null":
            raise UnfitValue(f"{id} is declared as done or as failed, not both.")
        return codec.NULL
    if spec is None:
        return declared.result
    shape = codec.shapes(spec.function)[1]
    try:
        return Raw(codec.encode(shape.read(declared.result)))
    except ValueError as error:
        raise UnfitValue(f"The value does not fit {id}: {str(error)[:300]}.") from None


def skippable(id: str, status: str, journal: Journal, step: str) -> Target:
    """What a skip of `step` means: that one; the only one that fails when it is empty.

    Raises `ProcessTerminal`, or `NothingToSkip` when it does not fail.
    """
    _demand_open(id, status)
    again, undoing = journal.between_attempts()
    found = [Target(one, False, False) for one in again if one not in journal.skips]
    found += [Target(one, True, False) for one in undoing]
    if journal.stuck is not None and journal.stuck.id:
        one, back = journal.stuck.id.removeprefix("undo "), journal.stuck.id
        undo = journal.compensating is not None or back.startswith("undo ")
        if undo or one in journal.records:
            found = [target for target in found if target.id != one]
            found.append(Target(one, undo, True))
    elif journal.stuck is not None:
        found = []  # the body itself has failed: what fails beside it is not what holds it up
    fails = found
    if step:
        found = [one for one in found if step in (one.id, f"undo {one.id}" if one.undo else one.id)]
    if len(found) != 1:
        names = ", ".join(f"undo {one.id}" if one.undo else one.id for one in fails) or "none"
        what = step or "the step"
        raise NothingToSkip(f"{id} is {status}: {what} is not one that fails. Those are: {names}.")
    return found[0]


# --- the deadline ---------------------------------------------------------------------------------


async def deadline(
    to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
) -> None:
    """It must have ended by another time, or whenever."""
    journal = activation.journal
    demand_forward(activation.id, activation.head.status, journal)
    until = read_until(command.payload).until
    own = [extra.count for extra in activation.extras if isinstance(extra, Deadline)]
    by = Skip(command.who, command.reason)
    event = Deadline(until, max([journal.deadlines, *own]), by)
    head, due = None, None
    if activation.head.status == "waiting":
        head, due = activation.with_status("waiting", journal.waits_for()), activation.next_try()
    gate = to.decide(activation, event, head=head, due=due, done=done)
    # What the body has set before, and not recorded yet, is no longer to be.
    activation.extras = [found for found in activation.extras if not isinstance(found, Deadline)]
    await to.durable(activation, gate)
    if activation.task is not None:
        activation.set_alarm()


# --- what may be asked when -----------------------------------------------------------------------


def demand_pausable(id: str, status: str) -> None:
    """Raise `ProcessTerminal` or `NotPausable` when a pause would mean nothing."""
    _demand_open(id, status)
    if status == "stuck":
        raise NotPausable(f"{id} is stuck and does not go on by itself; it was left as it is.")


def demand_paused(id: str, status: str) -> None:
    """Raise `ProcessTerminal` or `NotPaused`."""
    _demand_open(id, status)
    if status != "paused":
        raise NotPaused(f"{id} is {status}; it was left as it is.")


def demand_forward(id: str, status: str, journal: Journal) -> None:
    """Raise `ProcessTerminal`, `PastPivot` or `RollingBack` when no deadline can pass any more."""
    _demand_open(id, status)
    if journal.pivoted:
        raise PastPivot(f"{id} is past its pivot: no deadline can end it. Nothing was changed.")
    if journal.compensating is not None or journal.cancel is not None:
        raise RollingBack(f"{id} is being rolled back. Nothing was changed.")


def demand_forkable(id: str, status: str, journal: Journal, *, cancel: bool) -> None:
    """Raise what speaks against a fork of a process that has not ended."""
    if status in FINAL:
        return
    if journal.compensating is not None or journal.cancel is not None:
        raise RollingBack(f"{id} is being rolled back: fork it when it has ended, or not at all.")
    if not cancel:
        raise NotForkable(f"{id} is {status}: say that it is to be cancelled, or wait for its end.")
    if journal.pivoted:
        raise PastPivot(f"{id} is past its pivot and cannot be cancelled. Nothing was forked.")


def _demand_open(id: str, status: str) -> None:
    if status in FINAL:
        raise ProcessTerminal(f"{id} has ended: {status}. It was left as it is.")
