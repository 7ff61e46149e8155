"""Group commit and the gate: many batches, one sync, and nothing leaves before its commit.

    submit ──> pending ──(no commit in flight)──> store.commit_group ──> futures
                  ▲                                     │
                  └──── what comes meanwhile waits <────┘

Opportunistic: while one commit is in flight the next group collects; there is no timer and no
linger. The first batch of an idle committer leaves at the end of the event loop's turn, so what one
turn writes goes in one trip.

The gate is the future: whoever depends on a batch awaits it before it answers anybody. A *patient*
batch (the record of a step whose effect has happened) is kept and tried again while the store says
it is unavailable; others are told.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from outlive.clock import Clock
from outlive.errors import Fenced, OutliveError, StoreUnavailable
from outlive.kinds.processes import COMMIT_SECONDS
from outlive.model import Batch, Committed
from outlive.store import GROUP_BATCHES_MAX, Store

GROUP_BYTES_MAX = 256 * 1024
PENDING_BATCHES_MAX = 100_000
CROWDED_BATCHES = 10_000
CROWDED_BYTES = 64 * 1024 * 1024
"""Batches, and bytes of them, that wait to be committed, beyond which no process is started."""
STALL_SECONDS_MIN = 0.1
STALL_SECONDS_MAX = 2.0
_NOTHING = Batch()


_Work = tuple[Callable[[Any], Batch], float]
"""What runs in a transaction of its own, and for how many seconds at most."""
_Waiting = tuple[Batch, "asyncio.Future[Committed]", bool, _Work | None]
"""A batch, its gate, whether it is patient, and the work in its place: a plain tuple, because there
is one for every step."""


class Committer:
    """The group commit of one node on one store; used from one event loop."""

    def __init__(
        self,
        store: Store,
        clock: Clock | None = None,
        hear: Callable[[int], None] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock or Clock()
        self._hear = hear
        """Is told the store's time by each commit."""
        self._pending: deque[_Waiting] = deque()
        self._pending_bytes = 0
        self._pending_works = 0
        self._running = False
        self._task: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop it is used from, once it was: asking for it each time costs a system call."""
        self.stalled: StoreUnavailable | None = None
        """Why the store takes nothing right now; None while it does."""
        self.commits = 0
        self.batches = 0
        self.refused = 0
        self.fenced = 0
        self.seconds = 0.0
        self.latency = [0] * (len(COMMIT_SECONDS) + 1)

    def submit(self, batch: Batch, *, patient: bool = False) -> asyncio.Future[Committed]:
        """Hand `batch` over; the future is the gate: it gives the receipt, or raises why it was
        refused.

        Raises `StoreUnavailable` at once when too many batches wait, or when the store takes
        nothing right now and the batch is not `patient`. Batches are committed in the order they
        are handed over.
        """
        loop = self.loop
        if loop is None:
            loop = self.loop = asyncio.get_running_loop()
        future: asyncio.Future[Committed] = loop.create_future()
        if not patient:
            self._demand_room()
        self._pending.append((batch, future, patient, None))
        append = batch.append  # of most, the one thing there is
        small = len(append) == 1 and not batch.put
        self._pending_bytes += len(append[0].data) if small else _size(batch)
        if not self._running:
            self._begin(loop)
        return future

    def transact(
        self, work: Callable[[Any], Batch], limit_seconds: float
    ) -> asyncio.Future[Committed]:
        """Run `work(tables)` in a transaction of its own, in its turn; see `Store.transact`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Committed] = loop.create_future()
        self._demand_room()
        self._pending.append((_NOTHING, future, False, (work, limit_seconds)))
        self._pending_works += 1
        if not self._running:
            self._begin(loop)
        return future

    def is_crowded(self) -> bool:
        """Whether so much waits that nothing new should be begun: what runs would wait behind."""
        waiting = len(self._pending)
        return waiting >= CROWDED_BATCHES or self._pending_bytes >= CROWDED_BYTES

    @property
    def pending(self) -> int:
        """How many batches wait for their group."""
        return len(self._pending)

    @property
    def pending_bytes(self) -> int:
        """How many bytes they write."""
        return self._pending_bytes

    def _demand_room(self) -> None:
        if self.stalled is not None:
            raise self.stalled.with_traceback(None)  # or it would grow by each who is told
        if len(self._pending) >= PENDING_BATCHES_MAX:
            raise StoreUnavailable("Too many writes are waiting; nothing was written.")

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._running = True
        self._idle.clear()
        self._task = loop.create_task(self._commit_all())

    async def settle(self) -> None:
        """Wait until everything handed over is committed or refused."""
        await self._idle.wait()

    async def _commit_all(self) -> None:
        pause = STALL_SECONDS_MIN
        try:
            while self._pending:
                group = self._next_group()
                try:
                    began = self._clock.boot()
                    results = await self._write(group)
                    took = self._clock.boot() - began
                    self.seconds += took
                    self.latency[bisect_left(COMMIT_SECONDS, took)] += 1
                except StoreUnavailable as error:
                    self._keep_patient(group, error)
                    if self.stalled is not None:
                        await asyncio.sleep(pause)
                        pause = min(pause * 2, STALL_SECONDS_MAX)
                    continue
                except Exception as error:
                    _fail(group, error)
                    continue
                except asyncio.CancelledError as error:
                    _fail(group, error)
                    if self._task is None or self._task.cancelling():
                        raise
                    continue  # the work was cancelled by itself
                except BaseException as error:
                    told = group[0][3] is not None and not group[0][1].done()
                    _fail(group, error)
                    if told:
                        continue  # the work raised it: whoever asked for it has it to raise
                    raise
                self.stalled, pause = None, STALL_SECONDS_MIN
                self._answer(group, results)
        finally:
            self.stalled = None  # nothing waits that would find out when the store takes writes
            self._running = False
            self._idle.set()

    async def _write(self, group: Sequence[_Waiting]) -> list[Committed | OutliveError]:
        work = group[0][3]
        if work is None:
            return await self._store.commit_group([batch for batch, _, _, _ in group])
        return [await self._store.transact(work[0], limit_seconds=work[1])]

    def _next_group(self) -> list[_Waiting]:
        pending = self._pending
        few = self._pending_bytes < GROUP_BYTES_MAX and len(pending) <= GROUP_BATCHES_MAX
        if not few or self._pending_works:
            return self._part_of_pending()
        group = list(pending)
        pending.clear()
        self._pending_bytes = 0
        return group

    def _part_of_pending(self) -> list[_Waiting]:
        """As much as one group may hold; what runs in a transaction of its own goes alone."""
        group: list[_Waiting] = []
        size = 0
        pending = self._pending
        while pending and len(group) < GROUP_BATCHES_MAX and size < GROUP_BYTES_MAX:
            batch, _, _, work = pending[0]
            if work is not None:
                if not group:
                    group.append(pending.popleft())
                    self._pending_works -= 1
                break
            group.append(pending.popleft())
            size += _size(batch)
        self._pending_bytes -= size
        return group

    def _answer(
        self, group: Sequence[_Waiting], results: Sequence[Committed | OutliveError]
    ) -> None:
        self.commits += 1
        self.batches += len(group)
        for (_, future, _, _), result in zip(group, results, strict=True):
            if future.done():
                continue
            if type(result) is Committed:
                future.set_result(result)
            elif isinstance(result, OutliveError):
                self.refused += 1
                self.fenced += isinstance(result, Fenced)
                future.set_exception(result)
        if self._hear is not None and type(results[-1]) is Committed:
            self._hear(results[-1].time)

    def _keep_patient(self, group: Sequence[_Waiting], error: StoreUnavailable) -> None:
        """Nothing of `group` was written: keep the patient ones in front, tell the others."""
        waiting = [*group, *self._pending]
        kept = [found for found in waiting if found[2]]
        self._pending = deque(kept)
        self._pending_works = 0
        self._pending_bytes = sum(_size(batch) for batch, *_ in kept)
        self.stalled = error if kept else None
        _fail([found for found in waiting if not found[2]], error)


def _size(batch: Batch) -> int:
    """Bytes of what `batch` writes; loops, because it is asked for every step."""
    size = 0
    for append in batch.append:
        size += len(append.data)
    for put in batch.put:
        size += len(put.value)
    return size


def _fail(group: Sequence[_Waiting], error: BaseException) -> None:
    for _, future, _, _ in group:
        if not future.done():
            if isinstance(error, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(error)
                future.exception()  # whoever waits gets it; nobody waiting is no fault
