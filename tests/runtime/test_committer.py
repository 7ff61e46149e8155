"""Group commit: one sync for many, nothing leaves before it, and a full disk is only a pause."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Sequence
from typing import Any

import pytest
from tests.service import Dying, Outside, Place, check_grammar, until

from outlive import Outlive, Run, attempt, step
from outlive.errors import (
    Conflict,
    OutcomeUnknown,
    OutliveError,
    Refused,
    StoreFull,
    StoreUnavailable,
)
from outlive.model import Batch, Committed, Put, Ref, Require
from outlive.runtime.committer import GROUP_BYTES_MAX, Committer
from outlive.store import GROUP_BATCHES_MAX
from outlive.stores.memory import MemoryStore

world = Outside()


class Unwell(Dying):
    """A store that raises `error` from its commits while it has one."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.error: OutliveError | None = None
        self.reads: OutliveError | None = None
        self.lost = False
        self.refused = 0
        self.groups: list[int] = []

    def __getattr__(self, name: str) -> Any:
        if name in ("read", "events", "select") and self.reads is not None:
            raise self.reads
        return super().__getattr__(name)

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        self.groups.append(len(batches))
        if (error := self.error) is not None:
            self.refused += 1
            if self.lost:
                await self._inner.commit_group(batches)
            raise error
        return await super().commit_group(batches)


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    global world
    world = outside


def put(key: str, size: int = 1) -> Batch:
    return Batch(put=(Put(Ref("s", key), b"1" * size),))


async def opened() -> tuple[Unwell, Committer]:
    store = Unwell(MemoryStore())
    await store._inner.open()
    return store, Committer(store)


async def test_what_one_turn_writes_goes_in_one_commit_and_is_refused_alone() -> None:
    store, committer = await opened()
    wrong = Batch(require=(Require(Ref("s", "x"), 7),))
    futures = [committer.submit(found) for found in (put("a"), wrong, put("b"))]
    with pytest.raises(Conflict):
        await futures[1]
    assert isinstance(await futures[2], Committed)
    assert store.groups == [3] and (committer.commits, committer.refused) == (1, 1)


async def test_what_comes_during_a_commit_is_the_next_group() -> None:
    store, committer = await opened()
    first = committer.submit(put("a"))
    await asyncio.sleep(0)
    rest = [committer.submit(put(str(n))) for n in range(5)]
    await asyncio.gather(first, *rest)
    assert sum(store.groups) == 6 and len(store.groups) <= 3


async def test_a_group_is_bounded_in_bytes_and_in_batches_and_keeps_the_order() -> None:
    store, committer = await opened()
    third = GROUP_BYTES_MAX // 3 + 1
    futures = [committer.submit(put(str(n), third)) for n in range(7)]
    receipts = await asyncio.gather(*futures)
    assert store.groups == [3, 3, 1]
    versions = [receipt.versions for receipt in receipts]
    assert versions == sorted(versions)
    store.groups.clear()
    await asyncio.gather(*(committer.submit(put("a")) for _ in range(GROUP_BATCHES_MAX + 1)))
    assert store.groups == [GROUP_BATCHES_MAX, 1]


async def test_what_is_told_off_by_a_full_disk_counts_no_more_for_the_next_group() -> None:
    store, committer = await opened()
    store.error = StoreFull()
    patient = committer.submit(put("a"), patient=True)
    told = committer.submit(put("b", GROUP_BYTES_MAX))
    with pytest.raises(StoreFull):
        await told
    store.error = None
    await patient
    store.groups.clear()
    await asyncio.gather(*(committer.submit(put(str(n))) for n in range(3)))
    assert store.groups == [3]


async def test_a_transaction_goes_alone_in_its_turn() -> None:
    store, committer = await opened()
    futures = [committer.submit(put("a")), committer.submit(put("b"))]
    alone = committer.transact(lambda tables: put("c"), 1.0)
    behind = committer.submit(put("d"))
    receipts = await asyncio.gather(*futures, alone, behind)
    assert store.groups == [2, 1]
    versions = [receipt.versions for receipt in receipts]
    assert versions == sorted(versions)


async def test_what_waits_behind_a_transaction_that_cancels_itself_is_committed() -> None:
    _, committer = await opened()

    def gives_up(_tables: object) -> Batch:
        raise asyncio.CancelledError

    alone = committer.transact(gives_up, 1.0)
    behind = committer.submit(put("d"))
    with pytest.raises(asyncio.CancelledError):
        await alone
    async with asyncio.timeout(60):
        await behind


class Unusual(BaseException):
    """What no `except Exception` catches."""


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, Unusual])
async def test_what_waits_behind_a_transaction_that_raises_no_exception_is_committed(
    raised: type[BaseException],
) -> None:
    _, committer = await opened()

    def fails(_tables: object) -> Batch:
        raise raised

    alone = committer.transact(fails, 1.0)
    behind = committer.submit(put("d"))
    with pytest.raises(raised):
        await alone
    async with asyncio.timeout(60):
        await behind


async def test_refusals_while_the_store_is_full_are_not_remembered_in_the_error() -> None:
    store, committer = await opened()
    store.error = StoreFull()
    patient = committer.submit(put("a"), patient=True)
    while committer.stalled is None:
        await asyncio.sleep(0)
    for _ in range(100):
        with pytest.raises(StoreUnavailable):
            committer.submit(put("c"))
    assert len(list(traceback.walk_tb(committer.stalled.__traceback__))) < 10
    store.error = None
    await patient


@pytest.mark.parametrize("error", [OutcomeUnknown, Refused])
async def test_a_stall_is_over_when_nothing_waits_any_more(error: type[OutliveError]) -> None:
    store, committer = await opened()
    store.error = StoreFull()
    patient = committer.submit(put("a"), patient=True)
    while committer.stalled is None:
        await asyncio.sleep(0)
    store.error = error("the store refused the call")
    with pytest.raises(error):
        await patient
    await committer.settle()
    assert committer.stalled is None
    store.error = None
    await committer.submit(put("b"))


async def test_a_patient_batch_waits_for_space_and_an_impatient_one_is_told() -> None:
    store, committer = await opened()
    store.error = StoreFull()
    patient = committer.submit(put("a"), patient=True)
    told = committer.submit(put("b"))
    with pytest.raises(StoreFull):
        await told
    assert isinstance(committer.stalled, StoreFull) and not patient.done()
    with pytest.raises(StoreUnavailable):
        committer.submit(put("c"))
    store.error = None
    await patient
    assert committer.stalled is None
    await committer.submit(put("c"))


async def test_an_unknown_outcome_is_told_to_everybody_of_its_group_and_to_nobody_else() -> None:
    store, committer = await opened()
    store.error = OutcomeUnknown()
    first = committer.submit(put("a"), patient=True)
    with pytest.raises(OutcomeUnknown):
        await first
    store.error = None
    await committer.submit(put("b"))
    await committer.settle()


# --- under a process ------------------------------------------------------------------------------


@step
async def work(name: str, seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    return world.do(attempt().key, name)


def declare(app: Outlive) -> None:
    @app.process("/things", version=1)
    async def thing(run: Run) -> list[str]:
        found = [await run(work, "a"), await run(work, "b", 0.05), await run(work, "c")]
        return [*found, str(await run.wait("go"))]


async def test_a_full_disk_is_only_a_pause_and_no_step_runs_twice_for_it(place: Place) -> None:
    store = Unwell(place.store())
    app = await place.open(declare, store=store)
    begun = await app.begin("thing", b"null")
    await until(lambda: "a" in world.log)
    store.error = StoreFull()
    await until(lambda: store.refused > 1)
    with pytest.raises(StoreUnavailable):
        await app.begin("thing", b"null")
    with pytest.raises(StoreUnavailable):
        await app.signal(begun.id, "go", b"1")
    store.error = None
    await signal(app, begun.id)
    assert await app.result(begun.id, within=60) == ["a", "b", "c", "1"]
    assert world.calls == {"a": 1, "b": 1, "c": 1}
    check_grammar(await app.journal(begun.id))


async def signal(app: Outlive, id: str) -> None:
    async def sent() -> bool:
        try:
            await app.signal(id, "go", b"1", key="once")
        except StoreUnavailable:
            return False
        return True

    await until(sent)


@pytest.mark.parametrize("written", [True, False])
async def test_after_an_unknown_outcome_the_journal_has_the_truth(
    place: Place, written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.runtime.activations.REVIVE_SECONDS", 0.02)
    store = Unwell(place.store())
    app = await place.open(declare, store=store)
    begun = await app.begin("thing", b"null")
    await until(lambda: "a" in world.log)
    store.lost, store.error = written, OutcomeUnknown()
    await until(lambda: store.refused >= 1)
    store.error = None
    await signal(app, begun.id)
    assert await app.result(begun.id, within=60) == ["a", "b", "c", "1"]
    assert len(world.effects) == 3
    if written:
        assert world.calls["a"] == 1
    check_grammar(await app.journal(begun.id))


async def test_a_store_that_cannot_be_read_for_a_while_forgets_no_process(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.runtime.activations.REVIVE_SECONDS", 0.02)
    store = Unwell(place.store())
    app = await place.open(declare, store=store)
    begun = await app.begin("thing", b"null")
    await until(lambda: "a" in world.log)
    store.reads, store.error = StoreUnavailable(), OutcomeUnknown()
    await until(lambda: store.refused >= 1)
    runtime = app._runtime
    assert runtime is not None
    await until(lambda: not runtime.activations.live)
    await asyncio.sleep(0.1)  # several revivals fail
    store.reads = store.error = None
    await until(lambda: "c" in world.log, "it goes on by itself")
    await signal(app, begun.id)
    await app.result(begun.id, within=60)
