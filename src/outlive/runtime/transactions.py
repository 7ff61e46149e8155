"""A step inside the store's own transaction: the caller's rows and the step's record, one commit.

The function runs in the store's writing lane, in its turn behind what was handed over before. While
it runs nothing else is appended to its process, because its record's place in the journal is fixed
before its content is known.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from outlive import codec, ids, steps
from outlive.clock import MICROS
from outlive.errors import (
    Conflict,
    Discarded,
    Fenced,
    OutcomeUnknown,
    OutliveError,
    StoreUnavailable,
    StreamConflict,
)
from outlive.kinds.processes.cells import put_head
from outlive.kinds.processes.vocabulary import (
    KIND_OF,
    AttemptFailed,
    StepDone,
    pack,
)
from outlive.model import Append, Batch
from outlive.runtime.activation import Activation, failure_of
from outlive.runtime.attempts import (
    after_backoff,
    demand_forward,
    pause,
    skipped_step,
    step_failed,
)
from outlive.store import MANNERS

if TYPE_CHECKING:
    from outlive.model import Committed

LIMIT_SECONDS = 5.0
"""The time a function may hold the store's write lock when the step declares no `timeout`."""
NO_LONGER_OURS = (Fenced, Conflict, StreamConflict, OutcomeUnknown, StoreUnavailable)


async def transact(
    activation: Activation,
    work: Callable[[Any], Any],
    limit_seconds: float = LIMIT_SECONDS,
    manner: str = MANNERS[0],
) -> tuple[Any, int]:
    """Run `work(tables)`, which gives a value, events, and what goes along with them; one commit.

    `work` may be `async` where the store can wait for it. `manner`: what it is given.

    Gives the value and the time of the commit. Raises what `work` raises (nothing was written), or
    `Discarded` when the process is no longer this node's.
    """
    while activation.transacting is not None:
        await asyncio.shield(activation.transacting)
    if activation.gone:
        raise Discarded
    loop = asyncio.get_running_loop()
    activation.transacting = loop.create_future()
    first, stream = activation.journal.next_n, activation.head.stream
    tagged = activation.tagged(None) if activation.extras else None
    extras, activation.extras = tuple(activation.extras), []
    made: list[tuple[Any, tuple[Any, ...], steps.Carried]] = []

    def batch_of(value: Any, events: tuple[Any, ...], carried: steps.Carried) -> Batch:
        made.clear()
        made.append((value, (*extras, *events), carried))
        head = () if tagged is None else (put_head(activation.ref, tagged),)
        return Batch(
            lease=activation.lease,
            append=tuple(
                Append(stream, first + at, KIND_OF[type(event)], pack(event))
                for at, event in enumerate(made[0][1])
            ),
            put=(*head, *carried.puts.values()),
        )

    def inside(tables: Any) -> Batch:
        return batch_of(*work(tables))

    async def inside_async(tables: Any) -> Batch:
        return batch_of(*await work(tables))

    asked: Any = inside_async if inspect.iscoroutinefunction(work) else inside
    asked.manner = manner
    try:
        gate = activation.node.committer.transact(asked, limit_seconds)
        committed, cut = await _through(gate)
    except NO_LONGER_OURS as error:
        activation.node.lost(activation, error)
        raise Discarded from error
    except BaseException:
        activation.extras = [*extras, *activation.extras]
        raise
    finally:
        activation.transacting.set_result(None)
        activation.transacting = None
    if tagged is not None:
        activation.head = tagged
    value, events, carried = made[0]
    for call in carried.after:
        call()
    for event in events:
        activation.journal.apply(event, 0)
    if activation.gone:
        raise Discarded
    activation.node.tell(activation.id)
    if cut is not None:
        raise cut
    return value, committed.time


async def _through(
    gate: asyncio.Future[Committed],
) -> tuple[Committed, asyncio.CancelledError | None]:
    """Wait for `gate` whatever cancels the waiting: what is committed must be known here. Gives
    the cancellation too, to be raised behind it; raises it when the work has failed, which is not
    tried again then."""
    cut = None
    while not gate.done():
        try:
            await asyncio.wait((gate,))
        except asyncio.CancelledError as error:
            cut = error
    try:
        return gate.result(), cut
    except NO_LONGER_OURS:
        raise
    except Exception as error:
        if cut is None:
            raise
        raise cut from error


async def perform(
    activation: Activation,
    spec: steps.Spec,
    id: str,
    order: int,
    args_hash: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run a step that is not recorded in a transaction, and record it there.

    A failed attempt has left nothing behind, so its undo is not armed; the next one follows as
    declared.
    """
    node, stream = activation.node, activation.head.stream
    given = Raw(codec.encode([list(args), kwargs])) if spec.undo_name else codec.NULL
    manner = steps.manner_of(spec.function)
    number = await after_backoff(activation, id)
    while True:
        if id in activation.journal.skips:
            declared = skipped_step(activation, spec, id, order, args_hash, given, True)
            activation.journal.times[id] = await activation.record(declared)
            if declared.error is not None:
                raise step_failed(id, declared.error)
            return spec.shapes(skip=1)[1].read(declared.result)
        began = node.clock.wall()
        demand_forward(activation)
        attempt = steps.Attempt(stream, id, number, activation.id)

        def done(
            value: Any, attempt: steps.Attempt = attempt, began: int = began
        ) -> tuple[Raw, tuple[StepDone, ...]]:
            raw = Raw(codec.encode(value))
            event = StepDone(
                id, spec.name, order, args_hash, began, attempt.number, raw, None,
                spec.undo_name, given, True,
            )  # fmt: skip
            return raw, (event,)

        work = bound(spec.function, attempt, args, kwargs, done)
        try:
            with observed(activation, spec.name, attempt):
                raw, activation.journal.times[id] = await transact(
                    activation, work, spec.timeout or LIMIT_SECONDS, manner
                )
        except Exception as error:
            failure = failure_of(error)
            node.stats.attempts_failed += 1
            skipped = id in activation.journal.skips
            final = not spec.retry.again(error, number) or isinstance(error, OutliveError)
            if final and not skipped:
                done_at = await activation.record(
                    StepDone(
                        id, spec.name, order, args_hash, began, number,
                        error=failure, transact=True,
                    )
                )  # fmt: skip
                activation.journal.times[id] = done_at
                raise step_failed(id, failure) from error
            wait = ids.full_jitter(spec.retry.base_seconds, spec.retry.cap_seconds, number)
            again_at = node.clock.wall() + round(wait * MICROS)
            await activation.record(AttemptFailed(id, spec.name, number, began, failure, again_at))
            if not skipped:
                await pause(activation, f"retry {id} {number}", again_at)
            number += 1
            continue
        node.stats.steps += 1
        return spec.shapes(skip=1)[1].read(raw)


def observed(
    activation: Activation, name: str, attempt: steps.Attempt
) -> AbstractContextManager[None]:
    """The time of an attempt at a step in a transaction, for who watches it."""
    telemetry = activation.node.telemetry
    return nullcontext() if telemetry is None else telemetry.attempt(activation, name, attempt)


def bound(
    function: Callable[..., Any],
    attempt: steps.Attempt,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    done: Callable[[Any], Any],
) -> Callable[[Any], Any]:
    """`function` as work for `transact`, async as it is; `done` makes its record from its value."""

    def plain(given: Any) -> Any:
        steps.set_attempt(attempt)
        with steps.transacting() as carried:
            return *done(function(given, *args, **kwargs)), carried

    async def awaited(given: Any) -> Any:
        steps.set_attempt(attempt)
        with steps.transacting() as carried:
            return *done(await function(given, *args, **kwargs)), carried

    return awaited if inspect.iscoroutinefunction(function) else plain
