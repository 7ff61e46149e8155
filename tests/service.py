"""A service under test, and its death: the same declarations opened again on the same file.

`Dying` stands between an application and its store and lets it die before or after its k-th commit.
Death here is what kill -9 leaves behind: no record, no release, no answer; a presence file that is
there and that nobody locks. What a killed process cannot do, a dead application cannot do either:
its store never answers again.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from outlive import Outlive, Run
from outlive.clock import ManualClock
from outlive.errors import OutliveError
from outlive.kinds.processes import Entry
from outlive.model import Batch, Committed
from outlive.stores.sqlite import SQLiteStore

DEADLINE_SECONDS = 60.0

Declare = Callable[[Outlive], Any]
Body = Callable[[Run], Awaitable[Any]]


async def until(
    condition: Callable[[], Any], what: str = "the condition", seconds: float = DEADLINE_SECONDS
) -> Any:
    """The first true value of `condition` (which may be asynchronous), within the deadline."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.005)


async def has_status(app: Outlive, id: str, *wanted: str, clock: ManualClock | None = None) -> Any:
    """The view of a process as soon as it has one of the statuses `wanted`.

    A jump beyond its lease may find a node with a claim in its hand, which then lasts for a moment
    of the store's time: a `clock` that jumped must be given, and goes on meanwhile."""

    async def look() -> Any:
        if clock is not None:
            clock.advance(0.05)
        view = await app.view(id)
        if view.status in wanted:
            return view
        if view.final:
            raise AssertionError(f"{id} ended as {view.status}: {view.failure}, not {wanted}")
        return None

    return await until(look, f"{id} is {' or '.join(wanted)}")


async def never(condition: Callable[[], Any], looks: int = 20) -> None:
    """`condition` stays false while the loop turns and other work goes on."""
    for _ in range(looks):
        assert not condition()
        await asyncio.sleep(0.01)


def process(body: Body, version: int = 1, **options: Any) -> Declare:
    """Declares the process `thing`, whose body is `body`."""

    def declare(app: Outlive) -> None:
        async def thing(run: Run) -> Any:
            return await body(run)

        app.process("/things", version=version, **options)(thing)

    return declare


class Outside:
    """The world, deduplicating by key: what was asked, how often, and what came of it."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.effects: dict[str, str] = {}
        self.log: list[str] = []

    def do(self, key: str, what: str) -> str:
        self.calls[what] += 1
        self.log.append(what)
        self.effects.setdefault(key, what)
        return what

    def made(self, what: str) -> int:
        """How many effects `what` has: one for each key it was asked with."""
        return list(self.effects.values()).count(what)


class Dying:
    """A store that dies with its application `before` or `after` commit number `at`."""

    def __init__(self, inner: Any, at: int = 0, when: str = "after") -> None:
        self._inner = inner
        self._at, self._when = at, when
        self.commits = 0
        self.died = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(found) or name in ("open", "close"):
            return found

        async def alive(*args: Any, **kwargs: Any) -> Any:
            await self.stay_alive()
            return await found(*args, **kwargs)

        return alive

    async def stay_alive(self) -> None:
        if self.died.is_set():
            await asyncio.get_running_loop().create_future()

    async def _dies(self, work: Callable[[], Awaitable[Any]]) -> Any:
        await self.stay_alive()
        self.commits += 1
        last = self.commits == self._at
        if last and self._when == "before":
            self.died.set()
        await self.stay_alive()
        result = await work()
        if last:
            self.died.set()
        await self.stay_alive()
        return result

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        found: list[Committed | OutliveError] = await self._dies(
            lambda: self._inner.commit_group(batches)
        )
        return found

    async def transact(self, work: Any, *, limit_seconds: float = 5.0) -> Committed:
        found: Committed = await self._dies(
            lambda: self._inner.transact(work, limit_seconds=limit_seconds)
        )
        return found


async def crash(app: Outlive) -> None:
    """End `app` as kill -9 does: nothing is recorded, nothing is handed back."""
    runtime, store = app._runtime, getattr(app.store, "_store", app.store)
    assert runtime is not None
    store = getattr(store, "_inner", store)
    tasks = [*runtime._loops, *runtime.activations._tasks, *runtime.ownership._beginning]
    tasks += [found for found in (runtime.committer._task, runtime.watchers._task) if found]
    activations = list(runtime.activations.live.values())
    tasks += [found.task for found in activations if found.task is not None]
    runtime.activations.draining = True
    for activation in activations:
        activation.gone = activation.halted = True
    for task in tasks:
        task.cancel()
    for _, gate, _, _ in runtime.committer._pending:
        gate.cancel()  # a body in `run.transact` waits for its gate, whatever cancels it
    runtime.timers.stop()
    await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(store, SQLiteStore):
        for handle in store._presence._mine.values():
            os.close(handle)
        store._presence._mine.clear()
    runtime.activations.threads.shutdown(wait=False, cancel_futures=True)
    app._phase, app._runtime, app._store = "stopped", None, None
    await store.close()


class Place:
    """One store file, and the applications that are opened on it; all are closed at the end."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "store.db"
        self.apps: list[Outlive] = []

    def store(self, **options: Any) -> SQLiteStore:
        return SQLiteStore(self.path, shards=4, **options)

    async def open(self, declare: Declare, *, store: Any = None, **options: Any) -> Outlive:
        app = self.new(declare, store=store, **options)
        await app.open()
        return app

    def new(self, declare: Declare, *, store: Any = None, **options: Any) -> Outlive:
        made = self.store(clock=options.get("clock")) if store is None else store
        app = Outlive(made, **options)
        declare(app)
        self.apps.append(app)
        return app

    async def client(self, declare: Declare) -> Outlive:
        app = self.new(declare)
        await app.open_client()
        return app

    async def again(self, app: Outlive, declare: Declare, **options: Any) -> Outlive:
        """Kill `app` and open another in its place."""
        await crash(app)
        return await self.open(declare, **options)

    async def close(self) -> None:
        for app in self.apps:
            if app._store is not None:
                await app.close()


def recorded(entries: Iterable[Entry]) -> list[str]:
    """The steps that are recorded, in order."""
    return [entry.text.split(" done at")[0] for entry in entries if entry.kind == "step"]


def check_grammar(entries: Sequence[Entry]) -> None:
    """A journal is a sentence: begun once, ended once and last, undone in reverse of done."""
    import msgspec

    kinds = [entry.kind for entry in entries]
    assert [entry.n for entry in entries] == list(range(len(entries)))
    assert kinds.count("started") == 1 and kinds.count("ended") <= 1
    assert "ended" not in kinds or kinds[-1] == "ended", kinds
    done: list[str] = []
    undone: list[str] = []
    unknown: list[str] = []
    parts: list[list[str]] = []
    rolling = False
    for entry in entries:
        data = msgspec.json.decode(entry.data)
        if entry.kind == "step":
            assert not rolling, f"{data['id']} was recorded while rolling back: {kinds}"
            assert data["id"] not in done, f"{data['id']} was recorded twice: {kinds}"
            if data.get("undo"):
                done.append(data["id"])
        elif entry.kind == "compensating":
            assert not rolling
            rolling = True
            unknown = [armed["id"] for armed in data.get("unknown", [])]
        elif entry.kind == "decided":
            done += [armed["id"] for armed in data.get("unknown", [])]
            parts.append(data.get("undo", []))
        elif entry.kind == "undone" and not rolling:
            part = next(part for part in parts if part[:1] == [data["id"]])
            done.remove(part.pop(0))
        elif entry.kind == "undone":
            undone.append(data["id"])
    expected = [*reversed([*done, *unknown])]
    assert undone == expected[: len(undone)], f"undone {undone}, done {done}, unknown {unknown}"
    if "ended" in kinds and rolling:
        assert undone == expected
