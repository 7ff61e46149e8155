"""How a step's function is called: on the loop or in a thread, in time, and again if it fails.

An asynchronous function runs on the event loop and is cancelled when its time is up. A synchronous
one runs in a thread that cannot be stopped: it is abandoned, and its late result is refused. Every
failed attempt is recorded before the next begins, with the time of the next, so that neither the
count nor the pace starts anew after a crash.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from outlive import codec, ids, steps
from outlive.clock import MICROS
from outlive.errors import Cancelled, Discarded, NonRetryable, OutliveError, StepFailed
from outlive.kinds.processes import Failure
from outlive.kinds.processes.vocabulary import Armed, AttemptFailed, Skip, StepDone
from outlive.runtime.activation import PASSIVE_SECONDS, Activation, failure_of

if TYPE_CHECKING:
    from random import Random

    from outlive.runtime.tagging import RunTags
    from outlive.runtime.timers import Timers

RECORD_BYTES_MAX = 40 * 1024 * 1024
"""Bytes of a step's result, together with what its undo is given: every store keeps such a blob,
also sealed."""
_NULL = bytes(codec.NULL)
THREADS_MAX = 64
"""Synchronous steps that run at once in one node; more wait for a thread."""


class Course:
    """How far a body, or a branch of it, has come: shared by its run and the keyed ones made from
    it."""

    __slots__ = (
        "closed", "cut", "deadlines", "home", "path", "random", "state", "states", "tags", "time",
        "used", "uuids",
    )  # fmt: skip

    def __init__(self, time: int, path: str = "") -> None:
        self.time = time
        self.path = path
        """What stands before the identities of a branch: `pay/`; empty in the body itself."""
        self.home: asyncio.Task[Any] | None = None
        """The task of a branch; None in the body itself."""
        self.deadlines = 0
        self.closed = False
        """Its branch was ended from outside: it begins nothing more."""
        self.cut: set[str] = set()
        """What was done in scopes that were cut off: whoever has ended the branch undoes it."""
        self.used: dict[str, int] = {}
        self.states = 0
        self.state: Any = None
        self.uuids = 0
        self.tags: RunTags | None = None
        """What the body sees of its tags, once it has looked."""
        self.random: Random | None = None

    def pass_time(self, time: int) -> None:
        """A record of `time` was seen. Branches replay one after the other: it never goes back."""
        if time > self.time:
            self.time = time


async def perform(
    activation: Activation,
    course: Course,
    spec: steps.Spec,
    id: str,
    order: int,
    args_hash: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run a step that is not recorded, attempt by attempt, and record what came of it.

    Gives the result as a replay reads it. Raises `StepFailed`, or what interrupts it.
    """
    undo, given = spec.undo_name, codec.NULL
    if undo:
        given = Raw(codec.encode([list(args), kwargs]))
        _arm(activation, Armed(id, spec.name, undo, given))
    elif activation.halted:
        demand_forward(activation)
    node, number = activation.node, 1
    if activation.loaded:
        number = await after_backoff(activation, id)
    if activation.head.status == "waiting":  # a wait beside it: a crash must find the step at once
        await _run_on(activation)
    while number:
        began = node.clock.wall()
        steps.set_attempt(steps.Attempt(activation.head.stream, id, number, activation.id))
        raw, failure, cause = _NULL, None, None
        try:
            if spec.direct and node.telemetry is None:
                interrupt = enter(activation)
                try:
                    value = await spec.function(*args, **kwargs)
                except INTERRUPTIONS as error:
                    interrupted(activation, error)
                    raise
                finally:
                    activation.interrupts.pop(interrupt, None)
            else:
                value = await call(activation, spec, args, kwargs)
            raw = _recordable(spec, value, len(given))
        except Exception as error:
            failure, cause = failure_of(error), error
            node.stats.attempts_failed += 1
            if spec.retry.again(error, number) or id in activation.journal.skips:
                number = await _fail_attempt(activation, spec, id, number, began, failure)
                continue
        done = StepDone(
            id, spec.name, order, args_hash, began, number, Raw(raw), failure, undo, given
        )
        gate = activation.append_step(done)
        if gate is None:
            time = await activation.record(done)
        else:
            try:
                time = (await gate).time
            except OutliveError as error:
                raise activation.refused(error) from error
            if activation.gone:
                raise Discarded
            node.tell(activation.id)
        course.pass_time(time)
        if undo:
            activation.started.pop(id, None)
        if failure is not None:
            raise step_failed(id, failure) from cause
        node.stats.steps += 1
        return (spec.result or spec.shapes()[1]).again(value, raw)
    return await _skipped(activation, course, spec, id, order, args_hash, given)


async def _skipped(
    activation: Activation,
    course: Course,
    spec: steps.Spec,
    id: str,
    order: int,
    args_hash: str,
    given: Raw,
) -> Any:
    """Record that an operator has declared the step as settled; gives or raises what was
    declared."""
    done = skipped_step(activation, spec, id, order, args_hash, given)
    course.pass_time(await activation.record(done))
    activation.started.pop(id, None)
    if done.error is not None:
        raise step_failed(id, done.error)
    return spec.shapes()[1].read(done.result)


def skipped_step(
    activation: Activation,
    spec: steps.Spec,
    id: str,
    order: int,
    args_hash: str,
    given: Raw,
    transact: bool = False,
) -> StepDone:
    """The record of a step that was not done. A value that does not fit makes it a failed one."""
    skip, began = activation.journal.skips[id], activation.node.clock.wall()
    error, undo = skip.error, spec.undo_name if skip.undo else ""
    past = activation.journal.attempts.get(id)
    number = 1 if past is None else past.number
    try:
        if error is None:
            spec.shapes(skip=1 if transact else 0)[1].read(skip.result)
    except ValueError as unfit:
        error = Failure("Skipped", f"the declared value does not fit: {unfit}"[:500], "", False)
    return StepDone(
        id, spec.name, order, args_hash, began, number, skip.result, error, undo,
        given if undo else codec.NULL, transact, Skip(skip.who, skip.why),
    )  # fmt: skip


def _arm(activation: Activation, armed: Armed) -> None:
    """From here on the step counts as begun: a rollback undoes it. Raises what stops the body."""
    if activation.halted:
        if activation.recovered or armed.id in activation.journal.attempts:
            activation.started[armed.id] = armed
        demand_forward(activation)
    activation.started[armed.id] = armed
    if activation.scopes:
        activation.scopes[-1].note_task(armed.id)


def _recordable(spec: steps.Spec, value: Any, beside: int) -> bytes:
    """`value` as it is recorded. Raises `NonRetryable`: the step has happened, and happening again
    would not help."""
    try:
        raw = codec.encode(value)
    except Exception as error:
        raise NonRetryable(f"what {spec.name} gave cannot be recorded: {error}") from error
    if len(raw) + beside > RECORD_BYTES_MAX:
        raise NonRetryable(
            f"what {spec.name} gave has {len(raw)} bytes; at most {RECORD_BYTES_MAX} are recorded"
        )
    return raw


def step_failed(id: str, failure: Failure) -> StepFailed:
    """The error a body sees, the same on the first run and on every replay."""
    return StepFailed(id, failure.type, failure.message, failure.code)


async def after_backoff(activation: Activation, id: str) -> int:
    """The number of the next attempt, once the pause that was recorded for it is over; 0 when an
    operator has declared the step as settled."""
    past = activation.journal.attempts.get(id)
    if past is not None and id not in activation.journal.skips:
        await pause(activation, f"retry {id} {past.number}", past.again_at)
    if id in activation.journal.skips:
        return 0
    return 1 if past is None else past.number + 1


async def _fail_attempt(
    activation: Activation, spec: steps.Spec, id: str, number: int, began: int, failure: Failure
) -> int:
    """Record a failed attempt and wait for the time of the next, out of memory when it is long;
    gives its number as `after_backoff` does."""
    retry = spec.retry
    wait = ids.full_jitter(retry.base_seconds, retry.cap_seconds, number)
    again_at = activation.node.clock.wall() + round(wait * MICROS)
    event = AttemptFailed(id, spec.name, number, began, failure, again_at)
    if wait > PASSIVE_SECONDS and activation.journal.paused is None:
        head = activation.with_status(activation.parked_status())
        await activation.record(event, head=head, due=again_at)
    else:
        await activation.record(event)
    if id not in activation.journal.skips:
        await pause(activation, f"retry {id} {number}", again_at)
    return 0 if id in activation.journal.skips else number + 1


async def pause(activation: Activation, id: str, until: int) -> None:
    demand_forward(activation)
    if until > activation.node.clock.wall():
        await activation.park(id, until)
    if activation.head.status == "waiting":
        await _run_on(activation)
    demand_forward(activation)


async def _run_on(activation: Activation) -> None:
    """Record that it does not only wait. Raises what stops the body here."""
    await activation.record(head=activation.with_status("running"))
    demand_forward(activation)


def demand_forward(activation: Activation) -> None:
    """Raise what stops the body here, also when it has failed already: what it does beside that
    does not count, and nothing would undo it."""
    if activation.shielded:
        raise Discarded
    if activation.halted:
        activation.check()


async def call(
    activation: Activation, spec: steps.Spec, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call a step's function within its time limit. Raises what it raises, or `TimeoutError`.

    A cancel or the loss of the process interrupts it with `Cancelled` or `Discarded`; an undo is
    shielded from a cancel.
    """
    telemetry = activation.node.telemetry
    if telemetry is None:
        return await _call(activation, spec, args, kwargs)
    with telemetry.attempt(activation, spec.name):
        return await _call(activation, spec, args, kwargs)


async def _call(
    activation: Activation, spec: steps.Spec, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    interrupt = enter(activation)
    if steps.attempt().undoing:
        activation.shields[interrupt] = None
    try:
        if spec.direct:
            return await spec.function(*args, **kwargs)
        activation.interrupts.pop(interrupt, None)  # what is awaited instead has one of its own
        if not spec.is_async:
            return await _in_thread(activation, spec, args, kwargs)
        work = asyncio.get_running_loop().create_task(spec.function(*args, **kwargs))
        return await _within(activation, spec, work)
    except INTERRUPTIONS as error:
        interrupted(activation, error)
        raise
    finally:
        activation.interrupts.pop(interrupt, None)
        activation.shields.pop(interrupt, None)


def enter(activation: Activation) -> Callable[[], object]:
    """A step's function is about to be called by this task; gives what interrupts it, to be taken
    out of `activation.interrupts` behind it. Raises `Discarded` when the lease may be over."""
    node = activation.node
    if node.clock.boot() > node.trusted_until:
        node.doubted(activation)
        raise Discarded
    # Not the body's task: steps may run beside each other. With the loop, because to look for
    # it costs a system call.
    task = asyncio.current_task(node.committer.loop)
    assert task is not None
    cancel = task.cancel
    activation.interrupts[cancel] = None
    return cancel


INTERRUPTIONS = (asyncio.CancelledError, Cancelled, Discarded)


def interrupted(activation: Activation, error: BaseException) -> None:
    """Raise what an interruption means that came out of a step; return if it is its task's own."""
    if isinstance(error, asyncio.CancelledError):
        if activation.halted:
            current = asyncio.current_task()
            if current is not None:
                current.uncancel()
            activation.check()
        return
    activation.check()
    raise NonRetryable("the step let a cancellation out that is not its process's") from None


async def _in_thread(
    activation: Activation, spec: steps.Spec, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    context = contextvars.copy_context()
    pool = activation.node.threads

    def work() -> Any:
        return context.run(spec.function, *args, **kwargs)

    future = asyncio.get_running_loop().run_in_executor(pool, work)
    return await _within(activation, spec, future)


async def _within(activation: Activation, spec: steps.Spec, work: asyncio.Future[Any]) -> Any:
    """Wait for `work`, at most for the step's time limit; cancelled or abandoned after it."""
    late = False
    timers: Timers = activation.node.timers

    def give_up() -> None:
        nonlocal late
        late = True
        work.cancel()

    timer = None if spec.timeout is None else timers.after(spec.timeout, give_up)
    interrupt = work.cancel
    activation.interrupts[interrupt] = None
    if steps.attempt().undoing:
        activation.shields[interrupt] = None
    try:
        return await work
    except asyncio.CancelledError:
        if late:
            raise TimeoutError(f"step {spec.name} took longer than {spec.timeout} s") from None
        raise
    finally:
        activation.interrupts.pop(interrupt, None)
        activation.shields.pop(interrupt, None)
        if timer is not None:
            timer.cancel()


def thread_pool() -> ThreadPoolExecutor:
    """The threads of synchronous steps."""
    return ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="outlive-step")
