"""Branches: parts of a body that run beside each other, each with an order and names of its own.

    paid, sent = await run.gather(pay, ship)        all of them, or the first failure
    answer = await run.first(confirmed, late)       the first that returns; the others are undone

A branch is a function that takes a run. The run it is given puts the branch's path (`pay/`) before
the identity of every step, wait and sleep, so they are counted for each branch and found again in
whatever order the branches interleave.

    gather    all return        nothing is recorded but their steps
              one raises        the others are cancelled; the failure is recorded, then raised
    first     one returns       the others are cancelled; the winner is recorded; what the others
                                had done is undone, the last first; then its result is given
              all raise         the first failure is recorded, then raised

What decides is one record (`Decided`), so a replay comes out the same whatever is faster then; of
the branches it runs only the one that decided. A step that a branch was in when it was ended is
interrupted like one whose time is up, and counts as possibly done: its undo gets `Unknown`.

Not promised: that a synchronous step ends when its branch does (a thread cannot be stopped; its
result is refused), or that a signal taken by a branch that has lost is there for another wait.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from outlive.errors import Cancelled, Discarded
from outlive.kinds.processes.vocabulary import Armed, Decided, SleepBegan, WaitBegan
from outlive.runtime import offspring
from outlive.runtime.activation import failure_of
from outlive.runtime.rollback import undo_part

if TYPE_CHECKING:
    from outlive.runtime.activation import Activation
    from outlive.runtime.run import Run

BRANCHES_MAX = 1000
"""Branches of one call; for more items use `run.all`."""


class Fork:
    """One branch of a body, and what comes of it."""

    __slots__ = ("_function", "path", "run", "task")

    def __init__(self, run: Run, function: Callable[[Run], Awaitable[Any]]) -> None:
        self._function = function
        self.run = run.branch(_name_of(function))
        self.path = self.run._course.path
        self.task: asyncio.Task[Any] | None = None

    def begin(self) -> asyncio.Task[Any]:
        """Run beside the body, in a task of its own."""
        self.task = asyncio.get_running_loop().create_task(self._go())
        self.task.add_done_callback(self._ended)
        self.run._course.home = self.task
        return self.task

    def _ended(self, _: object) -> None:
        self.run._activation.active -= 1

    async def _go(self) -> Any:
        return await self._function(self.run)

    async def replay(self) -> Any:
        """Run in the body's own task: the others are not run again."""
        self.run._course.home = asyncio.current_task()
        return await self._function(self.run)

    @property
    def error(self) -> BaseException | None:
        """What it has raised; None while it runs, and when it has returned or was cancelled."""
        task = self.task
        if task is None or not task.done() or task.cancelled():
            return None
        return task.exception()

    @property
    def returned(self) -> bool:
        task = self.task
        return task is not None and task.done() and not task.cancelled() and self.error is None


def _name_of(function: Any) -> str:
    """What a branch is called in the journal: its function's name, `branch` when it has none."""
    function = getattr(function, "func", function)  # of a functools.partial
    name = str(getattr(function, "__name__", "branch"))
    return "branch" if name == "<lambda>" else name


def _forks(run: Run, functions: Sequence[Any]) -> list[Fork]:
    for function in functions:
        if not callable(function):
            for each in functions:
                if inspect.iscoroutine(each):
                    each.close()
            raise TypeError(
                f"a branch is a function that takes a run, such as `lambda run: run(step, …)`, "
                f"not {function!r}; nothing was begun"
            )
    if not 1 <= len(functions) <= BRANCHES_MAX:
        raise ValueError(f"{len(functions)} branches; 1 to {BRANCHES_MAX} run beside each other")
    forks = [Fork(run, function) for function in functions]
    if run._activation.loaded:
        for fork in forks:
            run._activation.journal.fork(fork.path, run._branch())
    return forks


@contextmanager
def beside(activation: Activation, count: int) -> Iterator[None]:
    """While this lasts, `count` tasks go on in the place of the one that waits for them; each
    counts itself out."""
    activation.active += count - 1
    activation.joins += 1
    try:
        yield
    finally:
        activation.active += 1
        activation.joins -= 1


async def gather(run: Run, functions: Sequence[Any]) -> tuple[Any, ...]:
    """See `Run.gather`."""
    id = run._identify("gather")
    forks = _forks(run, functions)
    decided = await decision(run, id, "gather")
    if decided is not None:
        return (await _again(run, forks, decided),)
    with beside(run._activation, len(forks)):
        return await _gather(run, id, forks)


async def _gather(run: Run, id: str, forks: Sequence[Fork]) -> tuple[Any, ...]:
    await _wait(run, forks, asyncio.FIRST_EXCEPTION)
    ended = [fork for fork in forks if fork.task is not None and fork.task.done()]
    failed = [fork for fork in ended if not fork.returned]
    if not failed:
        _join(run, forks)
        return tuple(fork.task.result() for fork in forks if fork.task is not None)
    await _close(run, forks)
    _raise_fatal(run._activation, failed)
    others = [fork for fork in forks if fork is not failed[0]]
    await _fail(run, id, "gather", failed[0], others)
    raise AssertionError("a failed branch raises")


async def first(run: Run, functions: Sequence[Any]) -> Any:
    """See `Run.first`."""
    id = run._identify("first")
    forks = _forks(run, functions)
    decided = await decision(run, id, "first")
    if decided is not None:
        return await _again(run, forks, decided)
    with beside(run._activation, len(forks)):
        return await _first(run, id, forks)


async def _first(run: Run, id: str, forks: Sequence[Fork]) -> Any:
    earliest: Fork | None = None
    winner: Fork | None = None
    left = forks
    while winner is None and left:
        await _wait(run, left, asyncio.FIRST_COMPLETED)
        ended = [fork for fork in left if fork.task is not None and fork.task.done()]
        if any(not isinstance(fork.error, Exception) for fork in ended if not fork.returned):
            await _close(run, forks)
            _raise_fatal(run._activation, ended)
        winner = next((fork for fork in ended if fork.returned), None)
        earliest = earliest or next((fork for fork in ended if not fork.returned), None)
        left = [fork for fork in left if fork not in ended]
    await _close(run, forks)
    _raise_fatal(run._activation, forks)
    if winner is None:
        assert earliest is not None
        others = [fork for fork in forks if fork is not earliest]
        await _fail(run, id, "first", earliest, others)
        raise AssertionError("a failed branch raises")
    losers = tuple(fork.path for fork in forks if fork is not winner)
    await decide(run, id, "first", _under(losers), branch=winner.path, undo=_under(losers))
    _join(run, [winner])
    assert winner.task is not None
    return winner.task.result()


# --- running --------------------------------------------------------------------------------------


async def _wait(run: Run, forks: Sequence[Fork], until: str) -> None:
    """Wait for branches; whatever interrupts that ends them first."""
    tasks = [fork.task or fork.begin() for fork in forks]
    try:
        await asyncio.wait(tasks, return_when=until)
        if run._activation.leaving:  # each ends at its next durable point, a step under way first
            await asyncio.wait(tasks)
    except asyncio.CancelledError:
        await _close(run, forks)
        if run._activation.halted:
            run._activation.check()
        raise


async def _close(run: Run, forks: Sequence[Fork]) -> None:
    """Cancel the branches that still run, and wait for their end."""
    for fork in forks:
        fork.run._course.closed = True
        if fork.task is not None:
            fork.task.cancel()
    again: asyncio.CancelledError | None = None
    while left := [fork.task for fork in forks if fork.task is not None and not fork.task.done()]:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError as error:
            again = error
    for fork in forks:
        run._course.cut |= fork.run._course.cut
        _ = fork.error  # seen: not to be reported as never retrieved
    if again is not None:
        raise again


def _raise_fatal(activation: Activation, forks: Sequence[Fork]) -> None:
    """Raise what is no failure of a branch: the process was cancelled, is lost, or is ended."""
    if activation.halted:
        activation.check()
    for fork in forks:
        error = fork.error
        if error is not None and not isinstance(error, Exception):
            raise error
        if fork.task is not None and fork.task.cancelled() and not fork.run._course.closed:
            raise asyncio.CancelledError


def _join(run: Run, forks: Sequence[Fork]) -> None:
    """The body goes on behind these branches."""
    for fork in forks:
        run._course.pass_time(fork.run._course.time)
    if run._activation.loaded:
        run._activation.journal.join([fork.path for fork in forks], run._branch())


async def _fail(run: Run, id: str, what: str, failed: Fork, others: Sequence[Fork]) -> None:
    """Record that `failed` has failed first, and raise what it raised."""
    error = failed.error
    assert isinstance(error, Exception)
    paths = tuple(fork.path for fork in others)
    cut = set() if run._activation.forward else run._course.cut
    await decide(
        run, id, what, _under(paths), branch=failed.path, error=error, undo=cut.__contains__
    )
    run._course.cut.clear()
    _join(run, [failed])
    raise error


async def _again(run: Run, forks: Sequence[Fork], decided: Decided) -> Any:
    """What is recorded as decided comes out again: only the branch that decided is run."""
    activation = run._activation
    deciding = None
    for fork in forks:
        if fork.path == decided.branch:
            deciding = fork
        else:
            activation.journal.close(fork.path)
    if deciding is None:
        await activation.drift(
            f"{decided.id} is recorded as decided by {decided.branch.rstrip('/')}, "
            f"which is no branch of it any more"
        )
        raise AssertionError("drift raises")
    error = None
    try:
        value = await deciding.replay()
    except Exception as raised:
        error = raised
    if (error is None) is not (decided.error is None):
        recorded = "won" if decided.error is None else f"failed: {decided.error.message}"
        now = "returned" if error is None else f"raised {type(error).__name__}: {error}"
        await activation.drift(
            f"{decided.id} is recorded with {decided.branch.rstrip('/')} as the branch that "
            f"{recorded}; now it has {now}"
        )
    _join(run, [deciding])
    run._pass(decided.id)
    await undo_decided(run, decided)
    if error is not None:
        raise error
    return value


# --- deciding -------------------------------------------------------------------------------------


def _under(paths: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether an identity lies in one of these branches."""
    return lambda id: id.startswith(paths)


async def decision(run: Run, id: str, what: str) -> Decided | None:
    """What is recorded as decided about `id`; None when nothing is."""
    activation = run._activation
    if not activation.loaded or id not in activation.journal.records:
        return None
    record, against = activation.journal.find(id, Decided, branch=run._branch())
    if not against and record.what != what:
        against = f"{id} is recorded as a {record.what}, the code asks for a {what}"
    if against:
        await activation.drift(against)
    decided: Decided = record
    return decided


async def decide(
    run: Run,
    id: str,
    what: str,
    inside: Callable[[str], bool],
    *,
    branch: str = "",
    error: Exception | None = None,
    undo: Callable[[str], bool],
    needed: bool = True,
) -> Decided | None:
    """Record how a part of the body came out, close what is open `inside` of it, and undo those of
    its steps of which `undo` says so.

    Unless `needed`, nothing is recorded when nothing is open and nothing is to be undone.
    """
    activation = run._activation
    journal = activation.journal
    unknown = tuple(
        armed
        for armed in activation.started.values()
        if inside(armed.id) and armed.id not in journal.records
    )
    waits = tuple(_open_waits(activation, inside))
    undos = tuple(armed.id for armed in _armed(activation, unknown) if undo(armed.id))
    children, mail = tuple[str, ...](), None
    if journal.family is not None:
        children, mail = offspring.let_go(activation, inside)
        undos = (*offspring.to_take_back(activation, children, undo), *undos)
    if not (needed or unknown or waits or undos or mail):
        return None
    failure = None if error is None else failure_of(error)
    order = run._ask(id)
    decided = Decided(id, what, order, branch, failure, unknown, waits, undos, children)
    for armed in unknown:
        activation.started.pop(armed.id, None)
    waiting = activation.head.status == "waiting"
    head = activation.with_status("running") if waiting else None
    activation.journal.times[id] = await activation.record(decided, head=head, mail=mail)
    run._pass(id)
    await undo_decided(run, decided)
    return decided


def _armed(activation: Activation, unknown: tuple[Armed, ...]) -> list[Armed]:
    """What could be undone now, the last first: what was not recorded before what was."""
    return [*reversed(unknown), *activation.journal.armed()]


def _open_waits(activation: Activation, inside: Callable[[str], bool]) -> list[str]:
    journal = activation.journal
    return [
        record.id
        for record in journal.records.values()
        if isinstance(record, (WaitBegan, SleepBegan))
        and inside(record.id)
        and record.id not in journal.waited
        and record.id not in journal.woken
    ]


async def undo_decided(run: Run, decided: Decided) -> None:
    """Undo what is to be undone because of `decided`; what is left over when this branch is ended
    on the way is left to whoever ends it."""
    try:
        if decided.children:
            await offspring.ended_for_good(run._activation, decided.children)
        await undo_part(run._activation, frozenset(decided.undo))
    except asyncio.CancelledError:
        run._course.cut |= set(decided.undo)
        raise


INTERRUPTIONS = (asyncio.CancelledError, Cancelled, Discarded)
"""What ends a part of a body from outside: no failure of its own."""
