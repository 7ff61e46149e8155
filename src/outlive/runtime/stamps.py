"""The stamps of caches, read together: one look at the store for all that ask in one turn.

A look begins after whoever waits for it has asked, so what it sees is no older than any of their
calls; who asks while it is under way waits for the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from outlive.errors import StoreUnavailable
from outlive.kinds.caches.shared import version_of
from outlive.model import Batch, Put, Ref
from outlive.runtime.inherited import forgets_in_child
from outlive.store import KeyedCells

LOOK_SECONDS_MAX = 2.0
REFS_MAX = 4096
"""Stamps in one look."""

Asked = tuple[Sequence[Ref], "asyncio.Future[tuple[int, ...]]"]


class Generations:
    """Reads and writes stamps in the store that `store` gives; used from one event loop."""

    def __init__(self, store: Callable[[], Awaitable[KeyedCells]]) -> None:
        self._store = store
        self._waiting: list[Asked] = []
        self._task: asyncio.Task[None] | None = None
        self.looks = 0
        forgets_in_child(self)

    def forget(self) -> None:
        """See `inherited`."""
        self._waiting, self._task = [], None

    async def read(self, refs: Sequence[Ref]) -> tuple[int, ...]:
        """The versions of `refs`, all of one moment after this was asked. Raises what the store
        raises, `StoreUnavailable` after `LOOK_SECONDS_MAX`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[int, ...]] = loop.create_future()
        self._waiting.append((refs, future))
        if self._task is None:
            self._task = loop.create_task(self._looks())
        return await future

    async def commit(self, puts: Sequence[Put]) -> None:
        """Put stamps; durable when this returns. Raises what the store raises."""
        store = await self._store()
        await store.commit(Batch(put=tuple(puts)))

    async def _looks(self) -> None:
        try:
            while self._waiting:
                asked = self._next()
                try:
                    await self._look(asked)
                except Exception as error:
                    _fail(asked, error)
                except BaseException:
                    _fail(asked, StoreUnavailable("The look was ended; nothing was read."))
                    raise
        finally:
            self._task = None

    def _next(self) -> list[Asked]:
        asked: list[Asked] = []
        count = 0
        while self._waiting and (not asked or count + len(self._waiting[0][0]) <= REFS_MAX):
            count += len(self._waiting[0][0])
            asked.append(self._waiting.pop(0))
        return [one for one in asked if not one[1].done()]

    async def _look(self, asked: list[Asked]) -> None:
        refs = list(dict.fromkeys(ref for wanted, _ in asked for ref in wanted))
        if not refs:
            return
        self.looks += 1
        try:
            async with asyncio.timeout(LOOK_SECONDS_MAX):
                store = await self._store()
                cells = await store.read(refs)
        except TimeoutError:
            raise StoreUnavailable("The stamps of a cache could not be read in time.") from None
        versions = {ref: version_of(cell) for ref, cell in zip(refs, cells, strict=True)}
        for wanted, future in asked:
            if not future.done():
                future.set_result(tuple(versions[ref] for ref in wanted))


def _fail(asked: list[Asked], error: Exception) -> None:
    for _, future in asked:
        if not future.done():
            future.set_exception(error)
            future.exception()
