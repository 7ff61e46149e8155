"""Fan-out: one step for each of many items, a few at a time, with the failures reported.

    done = await run.all(orders, charge, limit=50, key=lambda order: order.id)
    done.results        what the step gave, in the order of the items
    done.failures       the items whose step gave up, each with its error

Each item is a step of its own (`charge:17`), with its retries, its undo and its one record: nothing
is recorded beside them, and steps that end together share a commit. After a crash the recorded
items are answered from the journal before the rest is begun. At most `limit` items are under way,
and there are no more tasks than that, however many items there are.

In the place of a step a declared process may stand: then each item is a child (`start charge:17`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from outlive import steps
from outlive.codec import fingerprint
from outlive.errors import ChildFailed, StepFailed
from outlive.kinds.processes import Definition
from outlive.kinds.processes.vocabulary import ChildStarted, StepDone
from outlive.runtime import attempts, children
from outlive.runtime.branches import beside

if TYPE_CHECKING:
    from outlive.runtime.run import Run

T = TypeVar("T")
R = TypeVar("R")

ITEMS_MAX = 100_000
"""Items of one call: a process keeps all of their records in memory while it runs."""
LIMIT_MAX = 1000
"""Items under way at once."""


class Missed(Struct, Generic[T], frozen=True):
    """An item whose step gave up, and why."""

    item: T
    key: str
    error: StepFailed | ChildFailed


class Outcomes(Struct, Generic[T, R], frozen=True):
    """What came of all items."""

    done: tuple[tuple[T, R], ...]
    """The items whose step gave something, each with that, in the order they were given."""
    failures: tuple[Missed[T], ...]
    """The others, in the order they were given."""

    @property
    def results(self) -> tuple[R, ...]:
        """What the step gave for the items that went well, in their order."""
        return tuple(result for _, result in self.done)


class _Item(Struct):
    """One item: the identity of its step, and what came of it."""

    item: Any
    key: str
    id: str
    hashed: str
    result: Any = None
    error: StepFailed | ChildFailed | None = None
    child: children.Child[Any] | None = None


async def perform_all(
    run: Run,
    items: Iterable[Any],
    step: Callable[..., Any],
    limit: int,
    key: Callable[[Any], Any] | None,
) -> Outcomes[Any, Any]:
    """See `Run.all`."""
    if not 1 <= limit <= LIMIT_MAX:
        raise ValueError(f"limit is {limit}; it must be 1 to {LIMIT_MAX}")
    activation, here = run._activation, run._branch()
    made = children.declared(activation.node, step)
    if made is None:
        spec = steps.spec_of(step)
        found = _identified(run, list(items), spec.name, key)
        left = await _replayed(run, found, spec, here) if activation.loaded else found
        work = partial(_work, run, spec, iter(left), here)
    else:
        left = found = _identified(run, list(items), f"start {made.name}", key)
        if activation.loaded:
            await _started(run, found, here)
        work = partial(_call, run, made, iter(left), here)
    loop = asyncio.get_running_loop()
    workers = [loop.create_task(work()) for _ in range(min(limit, len(left)))]

    def ended(_: object) -> None:
        activation.active -= 1

    with beside(activation, len(workers)):
        for worker in workers:
            worker.add_done_callback(ended)
        try:
            if workers:
                await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            if workers and activation.leaving:
                await asyncio.wait(workers)
        finally:
            await _end(workers)
    errors = [worker.exception() for worker in workers if not worker.cancelled()]
    for error in errors:
        if error is not None:
            raise error
    if len(errors) < len(workers):
        raise asyncio.CancelledError
    if activation.loaded:
        activation.journal.join(workers, here)
    return Outcomes(
        tuple((one.item, one.result) for one in found if one.error is None),
        tuple(Missed(one.item, one.key, one.error) for one in found if one.error is not None),
    )


def _identified(
    run: Run, items: list[Any], name: str, key: Callable[[Any], Any] | None
) -> list[_Item]:
    """The items with their keys. Raises `ValueError` before anything is begun."""
    if len(items) > ITEMS_MAX:
        raise ValueError(f"{len(items)} items; at most {ITEMS_MAX} are taken by one call")
    keys = [str(at if key is None else key(item)) for at, item in enumerate(items)]
    if len(set(keys)) < len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        raise ValueError(f"two items have the key {twice[:64]!r}; nothing was begun")
    return [
        _Item(item, one, run.keyed(one)._identify(name), fingerprint((item,)))
        for item, one in zip(items, keys, strict=True)
    ]


async def _replayed(run: Run, found: list[_Item], spec: steps.Spec, here: object) -> list[_Item]:
    """Answer the recorded items from the journal; gives the others.

    They were begun in turn and recorded as they ended, and after a crash the rest came behind: each
    has its own place behind what the body had done, and none among the others.
    """
    journal = run._activation.journal
    places, left = [], []
    for one in found:
        if one.id not in journal.records:
            left.append(one)
            continue
        journal.fork(one.id, here)
        done, against = journal.find(one.id, StepDone, one.hashed, one.id)
        if against:
            await run._activation.drift(against)
        places.append(one.id)
        if one.id in journal.closed:
            left.append(one)
            continue
        try:
            one.result = run._replay(done, spec.shapes()[1])
        except StepFailed as error:
            one.error = error
    against = ""
    if left:
        against = journal.renamed(left[0].id, steps.names(), here, run._course.path)
    if against:
        await run._activation.drift(against)
    journal.join(places, here)
    return left


async def _work(run: Run, spec: steps.Spec, left: Iterator[_Item], here: object) -> None:
    """Perform one item after the other until there is none left."""
    activation, course = run._activation, run._course
    if activation.loaded:
        activation.journal.fork(run._branch(), here)
    for one in left:
        if one.id in activation.journal.closed:
            await run._never(one.id)
        order = run._ask(one.id)
        try:
            one.result = await attempts.perform(
                activation, course, spec, one.id, order, one.hashed, (one.item,), {}
            )
        except StepFailed as error:
            one.error = error


async def _started(run: Run, found: list[_Item], here: object) -> None:
    """Find the children that were started for items before; what they came to is waited for."""
    journal, places = run._activation.journal, []
    for one in found:
        if one.id not in journal.records:
            continue
        journal.fork(one.id, here)
        started, against = journal.find(one.id, ChildStarted, fingerprint(one.item), one.id)
        if against:
            await run._activation.drift(against)
        one.child = children.Child(run, started)
        places.append(one.id)
    journal.join(places, here)


async def _call(run: Run, made: Definition, left: Iterator[_Item], here: object) -> None:
    """Let one child after the other do an item until there is none left."""
    activation = run._activation
    if activation.loaded:
        activation.journal.fork(run._branch(), here)
    for one in left:
        child = one.child or await children.begin(run, one.id, made, one.item)
        try:
            one.result = await child
        except ChildFailed as error:
            one.error = error


async def _end(workers: list[asyncio.Task[None]]) -> None:
    """Cancel the workers that still run, and wait for their end."""
    again: asyncio.CancelledError | None = None
    for worker in workers:
        worker.cancel()
    while left := [worker for worker in workers if not worker.done()]:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError as error:
            again = error
    for worker in workers:
        if not worker.cancelled():
            worker.exception()
    if again is not None:
        raise again
