"""The end of an era and the beginning of the next: one commit, and no recursion.

    body of era 1 ── run.again(value) ──> Discarded: nothing of it runs any more
                          │ commit
                          └──> body of era 2, in a task and an activation of its own

From the moment of the decision the next era stands in memory in the place of the old one, so that
a signal that comes meanwhile is appended behind its beginning, and is in it whatever the commit
brings. Its body begins when that is durable. When it is refused both are thrown away, and the
journal says which era it is.

What an era has done is not rolled back by a later one: the undos that were armed are let go, as at
the end of a process, and their number stands in its last event.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

from msgspec import Raw

from outlive import codec
from outlive.errors import Discarded, EraNotOver, InvalidInput, OutliveError, TooLarge
from outlive.kinds.processes import Definition, Journal
from outlive.kinds.processes.eras import farewell, next_head, opening
from outlive.model import Batch
from outlive.runtime.activation import Activation

if TYPE_CHECKING:
    from outlive.runtime.run import Run

INPUT_BYTES_MAX = 1024 * 1024
"""Bytes of what an era begins with, as of the input of a start."""


async def begin_next(run: Run, value: Any) -> NoReturn:
    """See `Run.again`."""
    activation = run._activation
    while activation.transacting is not None:
        await asyncio.shield(activation.transacting)
    activation.check()
    _demand_end(run)
    if activation.loaded and (against := activation.journal.forgotten()):
        await activation.drift(against)
    raw = Raw(codec.encode(value))
    definition, value = _read(activation, raw, value)
    later, batch = _change_over(activation, definition, raw)
    node = activation.node
    try:
        committed = await node.committer.submit(batch, patient=True)
    except OutliveError as error:
        raise later.refused(error) from error
    finally:
        later.task = None
    node.tell(later.id)
    node.ended.leave(later.lease, later.head)
    later.journal.times[""] = committed.time
    if later.leaving:
        node.forget(later)  # it was to be put down meanwhile: whoever takes it up begins the era
    else:
        later.run(value, decoded=True)
    raise Discarded


def _demand_end(run: Run) -> None:
    """Raise `EraNotOver` where something would be cut off, or the body is not the one to say."""
    activation = run._activation
    if run._course.path or activation.joins:
        raise EraNotOver("run.again was called in a branch, or beside one; the era goes on.")
    if activation.scopes:
        raise EraNotOver("run.again was called inside of a scope; the era goes on.")
    begun = [id for id in activation.started if id not in activation.journal.records]
    family = activation.journal.family
    children = [] if family is None else [one.id for one in family.open()]
    left = [*begun, *activation.parking, *children]
    if left or activation.interrupts:
        named = f": {', '.join(left)}" if left else ""
        raise EraNotOver(f"Something is under way beside run.again{named}; the era goes on.")


def _read(activation: Activation, raw: Raw, value: Any) -> tuple[Definition, Any]:
    """Who runs the next era, and its input as it is read back: the newest version declared here
    that takes it, and none that is older than this era's. Raises `TooLarge`, `InvalidInput`."""
    size = len(bytes(raw))
    if size > INPUT_BYTES_MAX:
        raise TooLarge(f"The next era would begin with {size} bytes; at most {INPUT_BYTES_MAX}.")
    own = activation.definition
    newer = [
        found
        for (name, version), found in activation.node.definitions.items()
        if name == own.name and version == found.version > own.version
    ]
    why = ""
    for made in (*sorted(newer, key=lambda found: found.version, reverse=True), own):
        try:
            return made, made.input_type.again(value, bytes(raw))
        except ValueError as error:
            why = why or str(error)
    raise InvalidInput(f"The next era cannot begin with this: {why[:500]}; nothing was recorded.")


def _change_over(
    activation: Activation, definition: Definition, raw: Raw
) -> tuple[Activation, Batch]:
    """Decide it: the next era takes the place of `activation`, and the write that makes it so."""
    node, journal = activation.node, activation.journal
    last = farewell(journal, activation.head.era + 1)
    before = activation.tagged(activation.head) or activation.head
    extras, activation.extras = activation.extras, []
    end = activation.batch((*extras, last), None, None, ())
    head = next_head(before, definition.version, journal.next_n, node.clock.wall())
    later = Activation(node, definition, activation.ref, head, activation.lease, Journal())
    begun = later.batch(tuple(opening(later.id, head, raw, node.name, journal)), head, None, ())
    later.endings, activation.endings = activation.endings, []
    later.task = activation.task  # not to be run before its beginning is durable
    activation.discard()
    node._adopt(later)
    return later, Batch(lease=activation.lease, append=(*end.append, *begun.append), put=begun.put)
