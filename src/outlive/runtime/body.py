"""The life of a process's body: called, replayed, ended, or handed to the rollback.

    live ── compensating already ──> undo what is armed
      └──── else ──> the body ──returns──> done
                         └────raises───> rolled back, stuck, or cancelled (rollback.py)

Whatever else goes wrong on the way throws the activation away, and the journal has the truth.
"""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Raw

from outlive import codec
from outlive.errors import DeadlineExceeded, Discarded, Drift
from outlive.kinds.processes import Failure
from outlive.runtime import offspring, rollback
from outlive.runtime.activation import Activation, failure_of
from outlive.runtime.blocking import call_blocking
from outlive.runtime.run import Run


async def live(activation: Activation, value: Any, decoded: bool) -> None:
    """Run the body of `activation` to its end, or to where it is thrown away; never raises.

    `value` is its input if that is `decoded` already, else it is read from the journal.
    """
    node = activation.node
    try:
        if activation.journal.compensating is not None:
            await rollback.undo_all(activation)
        else:
            await _forward(activation, value, decoded)
    except Discarded:
        pass
    except asyncio.CancelledError as error:
        node.lost(activation, error)
    except Exception as error:
        node.broken(activation, error)
    finally:
        node.left(activation)


async def _forward(activation: Activation, value: Any, decoded: bool) -> None:
    started, definition = activation.journal.started, activation.definition
    assert started is not None
    try:
        if not decoded:
            value = await input_of(activation, started.input)
        run, args = Run(activation), (value,) if definition.takes_input else ()
        if activation.journal.forked is not None:
            run.begin_at(activation.journal.forked.began)
        if definition.is_async:
            result = await definition.body(run, *args)
        else:
            result = await call_blocking(activation.node, definition.body, run, args)
        if activation.loaded and (against := activation.journal.forgotten()):
            await activation.drift(against)
        if activation.journal.family is not None:
            await offspring.stay(activation)
        raw = Raw(codec.encode(result))
    except Discarded:
        raise
    except BaseException as error:
        await _fail(activation, error)
    else:
        if _is_cancelled(activation):
            await _roll_back(activation)
        else:
            # what it began beside itself and awaits no more begins nothing: no record would be kept
            activation.shielded = activation.halted = True
            await activation.end("done", result=raw)


async def input_of(activation: Activation, raw: Raw) -> Any:
    """What the process was started with; code that cannot read it any more is no reason to roll
    back what was done with it."""
    made = activation.definition
    try:
        return made.input_type.read(raw)
    except ValueError as error:
        if not activation.loaded:
            raise
        raise Drift(f"the recorded input does not fit {made.label}: {str(error)[:500]}") from error


async def _fail(activation: Activation, error: BaseException) -> None:
    """The body has raised `error`: what that means depends on what was asked of it."""
    if activation.gone or activation.journal.paused is not None:
        raise Discarded from error
    if isinstance(error, Drift):
        await activation.drift(error.detail)
    if _is_cancelled(activation):
        await _roll_back(activation)
        return
    task = asyncio.current_task()
    ended = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling()
    if ended or isinstance(error, (KeyboardInterrupt, SystemExit)):
        raise error
    await rollback.begin(activation, failure_of(error), error=error)


def _is_cancelled(activation: Activation) -> bool:
    """A cancel that was taken holds, whatever the body made of it."""
    return activation.journal.cancel is not None and not activation.journal.pivoted


async def _roll_back(activation: Activation) -> None:
    """Undo what was done, because somebody asked for it or the deadline has passed."""
    cancel = activation.journal.cancel
    if cancel is not None and cancel.deadline is not None:
        late = DeadlineExceeded()
        failure = Failure("DeadlineExceeded", late.detail, late.code, retryable=False)
    else:
        reason = cancel.reason if cancel is not None else ""
        failure = Failure("Cancelled", reason or "cancelled", retryable=False)
    cancelled = failure.type == "Cancelled"
    await rollback.begin(activation, failure, cancelled=cancelled)
