"""Child processes, as a body starts and awaits them.

    parcel = await run.start(ship, order)       one commit: our record, and its cells
    await run(thank, order)                     goes on beside it
    number = await parcel                       its result; ChildFailed when it ended otherwise
    number = await run.call(ship, order)        both in one

A child is a process of its own: an id, a journal, retries and undos of its own, on whichever node
its shard lives. What came of it is one record of the parent's, written by the commit that takes the
child's news out of the parent's inbox. A wait for a child costs no record; when it lasts longer
than a second the parent leaves memory.

Not promised: on which node a child runs, or that two children begin in the order of their starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Raw

from outlive import codec, ids, steps
from outlive.codec import fingerprint
from outlive.errors import Discarded, TooLarge, TooManyChildren
from outlive.kinds.processes import Definition
from outlive.kinds.processes.definition import input_error
from outlive.kinds.processes.vocabulary import ChildStarted
from outlive.runtime import offspring
from outlive.runtime.mail import Mail

if TYPE_CHECKING:
    from outlive.runtime.activations import Activations
    from outlive.runtime.run import Run

R = TypeVar("R", covariant=True)

OPEN_MAX = 10_000
"""Attached children of one process that have not ended: all of them are told to cancel by one
commit."""
INPUT_BYTES_MAX = 1024 * 1024


class Child(Generic[R]):
    """A process that was started by the body that holds this: `await` it for its result."""

    __slots__ = ("_run", "_started")

    def __init__(self, run: Run, started: ChildStarted) -> None:
        self._run = run
        self._started = started

    @property
    def id(self) -> str:
        """Its public id: the same on every replay."""
        return self._started.child

    def __await__(self) -> Generator[Any, None, R]:
        return self.result().__await__()

    async def result(self) -> R:
        """Wait for its end; gives its result, at every call. Raises `ChildFailed` when it ended
        otherwise, `RuntimeError` when it was started detached."""
        run, started = self._run, self._started
        activation = run._activation
        if started.detached:
            raise RuntimeError(f"{started.child} was started detached: nobody waits for it here")
        if activation.shielded:
            raise Discarded  # the body has failed: what it does beside that does not count
        if activation.halted:
            activation.check()
        if run._course.closed:
            raise asyncio.CancelledError
        offspring.of(activation).asked.add(started.child)
        if started.id in activation.journal.closed:
            await run._never(started.id)
        ended = await offspring.end_of(activation, started.child)
        run._pass(started.child)
        if ended.status != "done":
            raise offspring.failed(ended)
        made = activation.node.definitions.get((started.type, started.version))
        shape = codec.ANYTHING if made is None else made.output_type
        return shape.read(ended.result)  # type: ignore[no-any-return]


def declared(node: Activations, body: Callable[..., Any]) -> Definition | None:
    """What is declared about `body` as a process; None when it is not one."""
    for made in node.definitions.values():
        if made.body is body:
            return made
    return None


def start(
    run: Run,
    body: Callable[..., Any],
    value: Any,
    key: str | int | None,
    detached: bool,
    undo: Callable[..., Any] | None,
) -> Coroutine[Any, Any, Child[Any]]:
    """See `Run.start`."""
    made = declared(run._activation.node, body)
    if made is None:
        raise TypeError(f"{body!r} is not declared as a process of this application")
    if detached and undo is not None:
        raise TypeError("a child that was started detached is not taken back: leave out undo=")
    run = run if key is None else run.keyed(key)
    return begin(run, run._identify(f"start {made.name}"), made, value, detached, undo)


async def begin(
    run: Run,
    id: str,
    made: Definition,
    value: Any,
    detached: bool = False,
    undo: Callable[..., Any] | None = None,
) -> Child[Any]:
    """The child `id`: the one that is recorded, or a new one."""
    activation, hashed = run._activation, fingerprint(value)
    if activation.loaded and (found := await _recorded(run, id, hashed)) is not None:
        return Child(run, found)
    if activation.halted:
        activation.check()
    raw = _input(made, value)
    journal, node = activation.journal, activation.node
    under_way = 0 if journal.family is None else journal.family.under_way
    if under_way >= OPEN_MAX and not detached:
        raise TooManyChildren(
            f"{under_way} children of {activation.id} have not ended; {id} was not started."
        )
    named, given = ("", codec.NULL) if undo is None else (steps.spec_of(undo).name, raw)
    child = ids.public_id(made.prefix, node.store.shards)
    started = ChildStarted(
        id, run._ask(id), child, made.name, made.version, hashed, detached, named, given
    )  # fmt: skip
    mail = Mail(node, journal.times.get("", 0))
    mail.start(made, child, raw, parent=activation.id, detached=detached)
    waiting = activation.head.status == "waiting"
    head = activation.with_status("running") if waiting else None
    journal.times[id] = await activation.record(started, head=head, mail=mail)
    run._pass(id)
    return Child(run, started)


def _input(made: Definition, value: Any) -> Raw:
    """The input of a child as it is kept. Raises `TooLarge`, `InvalidInput`: nothing was begun."""
    raw = codec.encode(value)
    if len(raw) > INPUT_BYTES_MAX:
        raise TooLarge(f"The input has {len(raw)} bytes; at most {INPUT_BYTES_MAX} are taken.")
    try:
        made.input_type.read(raw)
    except ValueError as error:
        raise input_error(raw, error) from None
    return Raw(raw)


async def _recorded(run: Run, id: str, hashed: str) -> ChildStarted | None:
    """The child that was started here before."""
    activation, branch = run._activation, run._branch()
    journal = activation.journal
    record, against = journal.find(id, ChildStarted, hashed, branch)
    if record is None and not against:
        against = journal.renamed(id, steps.names(), branch, run._course.path)
    if against:
        await activation.drift(against)
    found: ChildStarted | None = record
    if found is not None:
        run._pass(id)
    return found
