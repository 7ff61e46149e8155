"""Commands on cells: decided in order, committed together, and again when others were faster."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from outlive.errors import Conflict, OutcomeUnknown, OutliveError, StoreRefused, StoreUnavailable
from outlive.kind import UNCOMMITTED, Decision, Kind, View
from outlive.model import Batch, Committed, Put, Ref, Require
from outlive.runtime import apply
from outlive.runtime.apply import Applier
from outlive.runtime.committer import Committer
from outlive.stores.memory import MemoryStore
from outlive.stores.sqlite import SQLiteStore


class Add(Struct, frozen=True):
    """Add to each of `keys`, and answer what all of them were before."""

    keys: tuple[str, ...]
    amount: int = 1


class Sums(Kind[Add, list[int]]):
    """Sums by key; an amount of 0 only reads, a negative one drops, one above 99 is refused."""

    name = "sums"
    spaces = {"sum": "relaxed", "quick": "volatile", "money": "durable"}  # noqa: RUF012

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.stray: Batch | None = None

    def refs(self, command: Add) -> Sequence[Ref]:
        return [_ref(key) for key in command.keys]

    def decide(self, view: View, command: Add, now: int) -> Decision[list[int]]:
        cells = [view[ref] for ref in self.refs(command)]
        found = [0 if cell is None else int(cell.value) for cell in cells]
        self.seen += [cell.version for cell in cells if cell is not None]
        if self.stray is not None:
            return Decision(self.stray, found)
        if command.amount > 99:
            raise ValueError("too much")
        if command.amount == 0:
            return Decision(Batch(), found)
        if command.amount < 0:
            return Decision(Batch(drop=tuple(map(_ref, command.keys))), found)
        puts = [
            Put(_ref(key), b"%d" % (n + command.amount))
            for key, n in zip(command.keys, found, strict=True)
        ]
        return Decision(Batch(put=tuple(puts)), found)


def _ref(key: str) -> Ref:
    space, _, name = key.rpartition(":")
    return Ref(space or "sum", name)


class Counting(MemoryStore):
    """A store that counts what is asked of it, and in which others may be faster."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[Sequence[Batch]] = []
        self.reads = 0
        self.faster = 0
        """How many more groups come after a commit of somebody else's."""
        self.trouble: OutliveError | None = None

    async def read(self, refs: Sequence[Ref]) -> list[Any]:
        self.reads += 1
        return await super().read(refs)

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        self.groups.append(batches)
        if self.trouble is not None:
            raise self.trouble
        if self.faster:
            self.faster -= 1
            (cell,) = await super().read([Ref("sum", "a")])
            value = b"%d" % (100 + int(cell.value if cell else b"0"))
            await super().commit_group([Batch(put=(Put(Ref("sum", "a"), value),))])
        return await super().commit_group(batches)


@pytest.fixture
async def store() -> Counting:
    made = Counting()
    await made.open()
    return made


async def value(store: MemoryStore, key: str) -> int:
    (cell,) = await store.read([_ref(key)])
    return 0 if cell is None else int(cell.value)


async def test_commands_of_one_turn_are_one_read_and_one_put(store: Counting) -> None:
    sums, applier = Sums(), Applier(store)
    replies = await asyncio.gather(*(applier.apply(sums, Add(("a",))) for _ in range(100)))
    assert sorted(replies) == [[number] for number in range(100)]
    ((batch,),) = store.groups
    assert (store.reads, batch.put) == (1, (Put(Ref("sum", "a"), b"100"),))
    assert set(sums.seen) == {UNCOMMITTED}


async def test_commands_on_different_cells_are_refused_apart(store: Counting) -> None:
    sums, applier = Sums(), Applier(store)
    store.faster = 1
    await asyncio.gather(*(applier.apply(sums, Add((key,))) for key in "abab"))
    assert [len(group) for group in store.groups] == [2, 1]
    assert (await value(store, "a"), await value(store, "b")) == (102, 2)


async def test_commands_that_share_a_cell_are_written_together(store: Counting) -> None:
    sums, applier = Sums(), Applier(store)
    asked = [Add(("a",)), Add(("b",)), Add(("c",)), Add(("a", "b"), 10), Add(("c",)), Add(("b",))]
    replies = await asyncio.gather(*(applier.apply(sums, one) for one in asked))
    assert replies == [[0], [0], [0], [1, 1], [1], [11]]
    ((first, second),) = store.groups
    assert {put.ref.key: put.value for put in first.put} == {"a": b"11", "b": b"12"}
    assert {need.ref.key for need in first.require} == {"a", "b"}
    assert {put.ref.key: put.value for put in second.put} == {"c": b"2"}


async def test_what_comes_while_a_round_is_under_way_is_the_next_round(store: Counting) -> None:
    sums, applier = Sums(), Applier(store)
    entered, leave = asyncio.Event(), asyncio.Event()
    commit = store.commit_group

    async def slow(batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        entered.set()
        await leave.wait()
        return await commit(batches)

    store.commit_group = slow  # type: ignore[method-assign]
    first = applier.submit(sums, Add(("a",)))
    await entered.wait()
    rest = [applier.submit(sums, Add(("a",))) for _ in range(5)]
    assert not first.done()
    leave.set()
    assert await asyncio.gather(first, *rest) == [[number] for number in range(6)]
    assert (len(store.groups), applier.rounds) == (2, 2)


async def test_a_reply_comes_only_after_the_commit_it_depends_on(store: Counting) -> None:
    sums, applier = Sums(), Applier(store)
    store.trouble = StoreUnavailable()
    asked = [applier.submit(sums, Add(("a",), amount)) for amount in (1, 0)]
    asked.append(applier.submit(sums, Add(("b",), 0)))
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert list(map(type, results)) == [StoreUnavailable, StoreUnavailable, list]
    store.trouble = OutcomeUnknown()
    with pytest.raises(OutcomeUnknown):
        await applier.apply(sums, Add(("a",)))
    store.trouble = None
    assert await applier.apply(sums, Add(("a",))) == [0]


async def test_when_another_was_faster_it_is_decided_again_on_what_is_there(
    store: Counting,
) -> None:
    sums, applier = Sums(), Applier(store)
    store.faster = 3
    replies = await asyncio.gather(*(applier.apply(sums, Add(("a",))) for _ in range(3)))
    assert replies == [[300], [301], [302]]
    assert applier.conflicts == 3


async def test_who_is_never_fast_enough_is_told_after_a_bound(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "ATTEMPTS_MAX", 5)
    store.faster = 1000
    with pytest.raises(Conflict):
        await Applier(store).apply(Sums(), Add(("a",)))
    assert len(store.groups) == 5


async def test_an_error_of_one_decision_concerns_no_other(store: Counting) -> None:
    sums, applier = Sums(), Applier(store)
    asked = [applier.submit(sums, Add(("a",), amount)) for amount in (1, 100, 1)]
    first, second, third = await asyncio.gather(*asked, return_exceptions=True)
    assert (first, third) == ([0], [1])
    assert isinstance(second, ValueError)


async def test_what_only_reads_commits_nothing(store: Counting) -> None:
    assert await Applier(store).apply(Sums(), Add(("a",), 0)) == [0]
    assert store.groups == []


async def test_a_cell_made_and_dropped_in_one_turn_was_never_there(store: Counting) -> None:
    sums, applier = Sums(), Applier(store)
    asked = [Add(("a",)), Add(("a",), -1), Add(("a",), 0)]
    assert await asyncio.gather(*(applier.apply(sums, one) for one in asked)) == [[0], [1], [0]]
    assert store.groups == []
    await applier.apply(sums, Add(("a",)))
    await applier.apply(sums, Add(("a",), -1))
    assert await store.read([Ref("sum", "a")]) == [None]


@pytest.mark.parametrize(
    "stray",
    [
        Batch(put=(Put(Ref("sum", "other"), b""),)),
        Batch(drop=(Ref("sum", "other"),)),
        Batch(require=(Require(Ref("sum", "a"), 1),)),
    ],
    ids=["put", "drop", "require"],
)
async def test_a_decision_writes_only_what_it_looked_at(store: Counting, stray: Batch) -> None:
    sums = Sums()
    sums.stray = stray
    with pytest.raises(ValueError, match="a decision of sums"):
        await Applier(store).apply(sums, Add(("a",)))
    assert store.groups == []


async def test_a_command_never_mixes_classes(store: Counting) -> None:
    sums, applier = Sums(), Applier(store)
    with pytest.raises(ValueError, match="a command of sums mixes"):
        applier.submit(sums, Add(("a", "money:a")))
    await asyncio.gather(*(applier.apply(sums, Add((key,))) for key in ("a", "quick:a", "money:a")))
    ((*batches,),) = store.groups
    assert [batch.storage for batch in batches] == ["relaxed", "volatile", "durable"]


async def test_a_store_keeps_a_class_or_a_stronger_one_or_refuses(store: Counting) -> None:
    sums = Sums()
    store.keeps = ("volatile",)
    applier = Applier(store)
    with pytest.raises(StoreRefused, match="Space sum of sums is relaxed"):
        applier.check(sums)
    with pytest.raises(StoreRefused):
        applier.submit(sums, Add(("a",)))
    assert await applier.apply(sums, Add(("quick:a",))) == [0]
    store.keeps = ("relaxed", "durable")
    await Applier(store).apply(sums, Add(("quick:a",)))
    assert store.groups[-1][0].storage == "relaxed"


async def test_a_running_node_commits_it_with_its_own(store: Counting) -> None:
    committer = Committer(store)
    sums, applier = Sums(), Applier(store, committer=lambda: committer)
    replies = asyncio.gather(*(applier.apply(sums, Add((key,))) for key in "aab"))
    while applier.rounds == 0:
        await asyncio.sleep(0)
    own = committer.submit(Batch(put=(Put(Ref("own", "a"), b""),)))
    assert await replies == [[0], [1], [0]]
    await own
    assert [len(group) for group in store.groups] == [3]
    store.faster = 1
    assert await applier.apply(sums, Add(("a",))) == [102]


async def test_a_closed_one_takes_nothing_and_leaves_nobody_waiting(store: Counting) -> None:
    sums, applier = Sums(), Applier(store)
    waiting = applier.submit(sums, Add(("a",)))
    await applier.close()
    with pytest.raises(StoreUnavailable):
        await waiting
    with pytest.raises(StoreUnavailable):
        applier.submit(sums, Add(("a",)))
    assert store.groups == []


async def test_a_caller_who_left_stops_nobody_else(store: Counting) -> None:
    sums, applier = Sums(), Applier(store)
    left, stayed = (applier.submit(sums, Add(("a",))) for _ in range(2))
    left.cancel()
    assert await stayed == [0]


async def test_two_processes_on_one_file_lose_no_update(tmp_path: Path) -> None:
    sums = Sums()
    stores = [SQLiteStore(tmp_path / "store.db") for _ in range(2)]
    for one in stores:
        await one.open()
    appliers = [Applier(one) for one in stores]

    async def many(applier: Applier) -> list[int]:
        found: list[int] = []
        for _ in range(10):
            replies = await asyncio.gather(*(applier.apply(sums, Add(("a",))) for _ in range(10)))
            found += [number for (number,) in replies]
        return found

    async with asyncio.timeout(60):
        seen = await asyncio.gather(*map(many, appliers))
    assert sorted(number for part in seen for number in part) == list(range(200))
    for applier, one in zip(appliers, stores, strict=True):
        await applier.close()
        await one.close()


async def test_what_this_process_wrote_last_is_believed_and_not_read(store: Counting) -> None:
    sums, applier = Sums(), Applier(store)
    for number in range(5):
        assert await applier.apply(sums, Add(("a",))) == [number]
    assert store.reads == 1
    await applier.apply(sums, Add(("a",), -1))
    assert await applier.apply(sums, Add(("a",))) == [0]


async def test_a_belief_that_is_wrong_is_refused_and_read_again(store: Counting) -> None:
    sums, applier = Sums(), Applier(store)
    await applier.apply(sums, Add(("a",)))
    await store.commit(Batch(put=(Put(Ref("sum", "a"), b"50"),)))
    assert await applier.apply(sums, Add(("a",))) == [50]
    reads = store.reads
    for _ in range(3):
        await applier.apply(sums, Add(("a",)))
    assert store.reads == reads + 3, "where others write too, it is read"


async def test_what_writes_nothing_is_never_answered_from_a_belief(store: Counting) -> None:
    sums, applier = Sums(), Applier(store)
    await applier.apply(sums, Add(("a",)))
    await store.commit(Batch(put=(Put(Ref("sum", "a"), b"50"),)))
    looks = (applier.apply(sums, Add((key,), 0)) for key in "aab")
    assert await asyncio.gather(*looks) == [[50], [50], [0]]
    await store.commit(Batch(drop=(Ref("sum", "a"),)))
    assert await applier.apply(sums, Add(("a",), 0)) == [0]


async def test_a_large_value_is_not_kept_in_memory_to_spare_a_read() -> None:
    store = Counting()
    await store.open()
    applier = Applier(store)
    sums = Sums()
    large = "9" * (apply.BELIEVED_BYTES_MAX + 1)
    await store.commit(Batch(put=(Put(_ref("a"), large.encode()),)))
    for _ in range(3):
        await applier.apply(sums, Add(("a",)))
    assert store.reads == 3
    await applier.close()


class Fresh(Sums):
    """Refuses where there is anything yet."""

    def decide(self, view: View, command: Add, now: int) -> Decision[list[int]]:
        if any(view[ref] is not None for ref in self.refs(command)):
            raise LookupError("there is something")
        return super().decide(view, command, now)


async def test_a_refusal_is_never_given_from_a_belief(store: Counting) -> None:
    fresh, applier = Fresh(), Applier(store)
    await applier.apply(fresh, Add(("a",)))
    await store.commit(Batch(drop=(Ref("sum", "a"),)))
    assert await applier.apply(fresh, Add(("a",))) == [0], "another process has dropped it"
    with pytest.raises(LookupError):
        await applier.apply(fresh, Add(("a",)))
    await applier.close()


class Away(MemoryStore):
    """A store that is out of reach, to who reads or to who writes."""

    reads = False

    async def read(self, refs: Sequence[Ref]) -> list[Any]:
        if self.reads:
            return await super().read(refs)
        raise StoreUnavailable("away")

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        raise StoreUnavailable("away")


@pytest.mark.parametrize("reads", [False, True])
async def test_an_outage_leaves_no_command_in_memory(reads: bool) -> None:
    store, kind = Away(), Sums()
    await store.open()
    store.reads = reads
    applier = Applier(store)
    waiting = [applier.submit(kind, Add((f"k{at}",))) for at in range(50)]
    left = [weakref.ref(future) for future in waiting]
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in told] == [StoreUnavailable] * 50
    del told, waiting
    await asyncio.sleep(0)  # the loop lets go of what woke this up
    gc.collect()
    assert not any(one() for one in left)
