"""Callers' functions in the store's transaction: one flush for all that came while one was made.

    transact ──> waiting ──(the lane is free)──> BEGIN ─> each: savepoint, work, batch ─> COMMIT
                    ▲                                             │raises: back to its savepoint
                    └── what would keep the lock too long ────────┘

Opportunistic like the group commit. Each function sees what those before it wrote, and nobody is
told anything before the COMMIT, so what one was refused because of another is as durable as its
refusal. Where a function ends the whole transaction (`ON CONFLICT ROLLBACK`, a statement that was
interrupted, a failed disk), none of the group is written, and all are run again, each in a
transaction of its own; but not the one that took too long: it would keep everybody waiting twice.
So a function may run more than once before its rows are committed once, as it may when the process
dies.

Not promised: that a function runs as soon as it could. A group ends after `GROUP_SECONDS`, so that
other processes of the file come to write; what is left follows in the next.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import apsw
from msgspec import Struct

from outlive.clock import Clock
from outlive.errors import OutliveError, TransactTooLong
from outlive.model import Batch, Committed
from outlive.stores.sqlite_file import SQLiteFile
from outlive.stores.sqlite_group import Group
from outlive.stores.user_tables import WorkFailed

GROUP_WORKS_MAX = 64
GROUP_SECONDS = 0.02
"""After this no further function is begun in a group: it holds the file's write lock."""

Outcome = Committed | BaseException


class Work(Struct, eq=False):
    """A function that waits for its turn, and the future of whoever asked for it."""

    function: Callable[[Any], Batch]
    limit_seconds: float
    future: asyncio.Future[Committed]


class Works:
    """The callers' functions of one store, used from one event loop.

    `write` runs a job in the writing lane, and sees to the log behind it; `clock` says when a
    group has lasted long enough.
    """

    def __init__(
        self,
        file: SQLiteFile,
        clock: Clock,
        write: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        self._file = file
        self._write = write
        self._waiting: deque[Work] = deque()
        self._task: asyncio.Task[None] | None = None
        self._clock = clock

    def run(
        self, function: Callable[[Any], Batch], limit_seconds: float
    ) -> asyncio.Future[Committed]:
        """Run `function` in its turn; the future gives the receipt, or raises why nothing was
        written."""
        loop = asyncio.get_running_loop()
        work = Work(function, limit_seconds, loop.create_future())
        self._waiting.append(work)
        if self._task is None:
            self._task = loop.create_task(self._run_all())
        return work.future

    async def _run_all(self) -> None:
        try:
            while self._waiting:
                for work, outcome in await self._write(self._run_some):
                    _tell(work, outcome)
        except BaseException as error:  # the store was closed, or the loop ends
            while self._waiting:
                _tell(self._waiting.popleft(), error)
            if not isinstance(error, OutliveError):
                raise
        finally:
            self._task = None

    # --- in the writing lane ----------------------------------------------------------------------

    def _run_some(self) -> list[tuple[Work, Outcome]]:
        """Run the first of those that wait, as many as one group holds."""
        waiting, taken = self._waiting, list[Work]()
        while waiting and len(taken) < GROUP_WORKS_MAX:
            taken.append(waiting.popleft())
        done = self._together(taken) if len(taken) > 1 else [self._alone(work) for work in taken]
        waiting.extendleft(reversed(taken[len(done) :]))
        return list(zip(taken, done, strict=False))

    def _alone(self, work: Work) -> Outcome:
        """Run one in a transaction of its own."""
        try:
            return self._file.transaction(
                lambda connection: self._perform(connection, work), users=True
            )
        except BaseException as error:
            return _theirs(error)

    def _together(self, works: list[Work]) -> list[Outcome]:
        """Run the first of `works` in one transaction; what is told of them holds once it is
        committed."""
        done: list[Outcome] = []
        try:
            self._file.transaction(
                lambda connection: self._perform_each(connection, works, done), users=True
            )
        except _Ended:
            late = {at for at, outcome in enumerate(done) if isinstance(outcome, TransactTooLong)}
            return [
                outcome if at in late else self._alone(works[at]) for at, outcome in enumerate(done)
            ]
        except BaseException as error:  # of the transaction: nothing of anyone's was written
            return [error] * (len(done) or len(works))
        return done

    def _perform_each(
        self, connection: apsw.Connection, works: list[Work], done: list[Outcome]
    ) -> None:
        """Fill `done` with what came of `works`. Raises `_Ended` when one ended the transaction."""
        ends = math.inf
        for work in works:
            now = self._clock.boot()
            if now >= ends:
                return
            ends = min(ends, now + GROUP_SECONDS)
            connection.execute("SAVEPOINT outlive_work")
            try:
                done.append(self._perform(connection, work))
            except BaseException as error:
                done.append(_theirs(error))
                if not connection.in_transaction:
                    raise _Ended from error
                self._file.forget_written()
                connection.execute("ROLLBACK TO outlive_work")
            connection.execute("RELEASE outlive_work")

    def _perform(self, connection: apsw.Connection, work: Work) -> Committed:
        """Run one inside the open transaction and write its batch. Raises what either raises."""
        file = self._file
        return settled(file, connection, file.users.run(work.function, work.limit_seconds))


class _Ended(Exception):
    """A function ended the transaction that it shared with others: nothing of it is written."""


def settled(file: SQLiteFile, connection: apsw.Connection, batch: Batch) -> Committed:
    """Write one batch inside the open transaction. Raises its refusal."""
    group = Group((batch,))
    result = group.results[0]
    if result is None:
        version, now = file.move(connection, group.versions_wanted((0,)))
        result = group.settle_alone(file, connection, (0,), version, now)[0][1]
    if isinstance(result, OutliveError):
        raise result
    return result


def _theirs(error: BaseException) -> BaseException:
    """What the caller is told: of an error of the engine's that is theirs, the error itself."""
    if not isinstance(error, WorkFailed):
        return error
    found = error.error
    found.__cause__, found.__suppress_context__ = None, True
    return found


def _tell(work: Work, outcome: Outcome) -> None:
    future = work.future
    if future.done():  # nobody waits any more
        return
    if isinstance(outcome, Committed):
        future.set_result(outcome)
    elif isinstance(outcome, StopIteration):  # no future takes it
        future.set_exception(RuntimeError(f"A function in a transaction raised {outcome!r}."))
    else:
        future.set_exception(outcome)
