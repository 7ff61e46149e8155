"""Leases and hints say who should own a shard; the shard's row says who may."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from outlive.clock import MICROS, ManualClock
from outlive.errors import Fenced, StoreUnavailable
from outlive.model import Lease
from outlive.runtime.ownership import LEAVING_SHARDS, QUICK_TICKS, TICK_SECONDS, Ownership, nodes_of
from outlive.stores.memory import MemoryStore
from outlive.testing.virtual import VirtualClock


class Peer:
    """One node's ownership, and what it was told."""

    def __init__(self, store: MemoryStore, clock: ManualClock, name: str) -> None:
        self.gained: list[tuple[int, bool]] = []
        self.lost: list[int] = []
        self.released: list[int] = []
        self.demotions = 0
        self.trusted = 0.0
        self.fails = False
        self.ownership = Ownership(
            store, name, clock, ("x v1",), self.gain, self.release, self.lost.append,
            self.demote, self.trust, 10.0,
        )  # fmt: skip

    async def gain(self, lease: Lease, crash: bool) -> None:
        if self.fails:
            raise StoreUnavailable
        self.gained.append((lease.shard, crash))

    async def release(self, shard: int) -> None:
        self.released.append(shard)

    def demote(self) -> None:
        self.demotions += 1

    def trust(self, until: float) -> None:
        self.trusted = until


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(clock: ManualClock) -> MemoryStore:
    made = MemoryStore(8, clock)
    await made.open()
    return made


async def settle(*peers: Peer) -> None:
    for _ in range(6):
        for peer in peers:
            await peer.ownership.tick()
        await asyncio.sleep(0)


async def test_one_node_takes_every_shard_and_none_counts_as_a_crash(
    store: MemoryStore, clock: ManualClock
) -> None:
    peer = Peer(store, clock, "a")
    await peer.ownership.join()
    await settle(peer)
    assert peer.gained == [(shard, False) for shard in range(8)]
    assert [node.shards for node in await nodes_of(store)] == [8]


async def test_a_second_node_gets_its_half_handed_over_in_order(
    store: MemoryStore, clock: ManualClock
) -> None:
    a, b = Peer(store, clock, "a"), Peer(store, clock, "b")
    await a.ownership.join()
    await b.ownership.join()
    await settle(a, b)
    assert len(a.ownership.leases) == len(b.ownership.leases) == 4
    assert sorted(a.released) == sorted(shard for shard, _ in b.gained)
    assert not any(crash for _, crash in b.gained)


async def test_a_node_whose_lease_ran_out_loses_its_shards_to_the_living(
    store: MemoryStore, clock: ManualClock
) -> None:
    a, b = Peer(store, clock, "a"), Peer(store, clock, "b")
    await a.ownership.join()
    clock.advance(11)
    await b.ownership.join()
    await settle(b)
    assert len(b.ownership.leases) == 8 and all(crash for _, crash in b.gained)
    assert [node.id for node in await nodes_of(store)] == ["b"]
    stale = next(iter(a.ownership.leases.values()))
    with pytest.raises(Fenced):
        await store.take(stale.shard, stale.epoch, "a")


async def test_a_clock_that_jumps_over_every_lease_makes_nobody_dead(
    store: MemoryStore, clock: ManualClock
) -> None:
    """Found by the simulation: nodes took each other's shards in turns until the next renewals, and
    each time counted as a death of what was under way (seeds 10 and 12, 200 s)."""
    a, b = Peer(store, clock, "a"), Peer(store, clock, "b")
    await a.ownership.join()
    await b.ownership.join()
    await settle(a, b)
    for peer in (a, b):
        peer.gained.clear()
    boot = clock.boot()
    clock.boot = lambda: boot + 0.2  # type: ignore[method-assign]
    clock.advance(30)
    for _ in range(3):
        for peer in (a, b):
            await peer.ownership.tick()
    assert a.gained == b.gained == []
    assert len(a.ownership.leases) == len(b.ownership.leases) == 4


async def test_a_node_that_could_not_renew_stops_by_itself_before_others_may_begin(
    store: MemoryStore, clock: ManualClock
) -> None:
    peer = Peer(store, clock, "a")
    await peer.ownership.join()
    assert peer.trusted == clock.boot() + 6.0 < clock.boot() + 10.0
    clock.advance(6.5)
    await peer.ownership.tick()
    assert peer.demotions == 1
    assert len(peer.ownership.leases) == 8, "it takes them again, at a higher epoch"


@pytest.mark.parametrize("verb", ["now", "scan", "owners", "commit"])
async def test_a_node_whose_store_does_not_answer_stops_all_the_same(verb: str) -> None:
    """Found by cutting a node's line in a network namespace: a tick waited 28 seconds for a
    connection that was dead, and with a lease of five the node held itself for the owner."""
    clock = VirtualClock()
    store = MemoryStore(8, clock)
    await store.open()
    peer = Peer(store, clock, "a")
    await peer.ownership.join()
    clock.move_to(clock.wall() + 5 * MICROS)
    clock.fire()
    assert peer.demotions == 0
    answers = asyncio.Event()
    plain = getattr(store, verb)

    async def silent(*given: Any, **options: Any) -> Any:
        await answers.wait()
        return await plain(*given, **options)

    setattr(store, verb, silent)
    tick = asyncio.create_task(peer.ownership.tick())
    await asyncio.sleep(0)
    clock.move_to(clock.wall() + 8 * MICROS)
    clock.fire()
    assert peer.demotions == 1 and not peer.ownership.leases and not tick.done()
    answers.set()
    await tick
    await settle(peer)
    late = verb in ("now", "commit")  # then the answer to the renewal itself came too late
    assert peer.demotions == 1 + late and len(peer.ownership.leases) == 8
    assert peer.trusted > clock.boot()


async def test_a_node_that_leaves_is_not_demoted_while_its_last_steps_end(
    store: MemoryStore,
) -> None:
    clock = VirtualClock()
    peer = Peer(store, clock, "a")
    await peer.ownership.join()
    peer.ownership.stop_watching()
    clock.move_to(clock.wall() + 60 * MICROS)
    clock.fire()
    assert peer.demotions == 0


async def test_a_shard_that_was_taken_away_is_noticed(
    store: MemoryStore, clock: ManualClock
) -> None:
    peer = Peer(store, clock, "a")
    await peer.ownership.join()
    await store.take(3, 1, "thief")
    await peer.ownership.tick()
    assert peer.lost == [3]


async def test_a_shard_whose_processes_could_not_be_read_is_taken_again(
    store: MemoryStore, clock: ManualClock
) -> None:
    peer = Peer(store, clock, "a")
    peer.fails = True
    await peer.ownership.join()
    await asyncio.sleep(0)
    assert not peer.gained and not peer.ownership.leases
    peer.fails = False
    await settle(peer)
    assert sorted(shard for shard, _ in peer.gained) == list(range(8))


async def test_leaving_hands_everything_back_and_a_draining_node_takes_nothing(
    store: MemoryStore, clock: ManualClock
) -> None:
    a = Peer(store, clock, "a")
    await a.ownership.join()
    await a.ownership.say("draining")
    await a.ownership.leave()
    owners: list[Any] = await store.owners()
    assert {shard.owner for shard in owners} == {""}
    await a.ownership.tick()
    assert a.ownership.leases == {}
    b = Peer(store, clock, "b")
    await b.ownership.join()
    assert not any(crash for _, crash in b.gained)


class Hinting(MemoryStore):
    """A store that believes it knows who has died."""

    dead: frozenset[str] = frozenset()

    async def departed(self, nodes: Any) -> set[str]:
        return set(self.dead) & set(nodes)


async def test_a_node_without_a_sign_of_life_loses_its_shards_unless_it_renews_its_lease(
    clock: ManualClock,
) -> None:
    store = Hinting(8, clock)
    await store.open()
    a, b = Peer(store, clock, "a"), Peer(store, clock, "b")
    await a.ownership.join()
    await b.ownership.join()
    await settle(a, b)
    a.gained.clear()
    clock.advance(3)
    await a.ownership.tick()
    store.dead = frozenset("b")
    await a.ownership.tick()
    assert len(a.gained) == 4 and all(crash for _, crash in a.gained)
    await settle(b, a)
    assert len(a.ownership.leases) == len(b.ownership.leases) == 4, "it lives, and says so"


async def test_a_node_whose_sign_of_life_was_cut_says_so_and_keeps_its_shards(
    clock: ManualClock,
) -> None:
    told: dict[str, Any] = {}

    class Signs(Hinting):
        async def announce(self, node: str, tell: Any = None) -> None:
            told[node] = tell

    store = Signs(8, clock)
    await store.open()
    a, b = Peer(store, clock, "a"), Peer(store, clock, "b")
    await a.ownership.join()
    await b.ownership.join()
    await settle(a, b)
    a.gained.clear()
    told["b"](False)
    await asyncio.sleep(0)  # it says so at once, and is heard before its death is believed
    await asyncio.sleep(0)
    store.dead = frozenset("b")
    for _ in range(3):
        await a.ownership.tick()
        clock.advance(0.2)
    assert not a.gained and len(b.ownership.leases) == 4
    store.dead = frozenset()
    told["b"](True)
    await b.ownership.tick()
    await a.ownership.tick()
    store.dead = frozenset("b")
    await a.ownership.tick()
    assert len(a.gained) == 4, "a sign that was given again counts again"


async def test_a_node_that_was_demoted_proves_its_sign_of_life_before_it_counts(
    clock: ManualClock,
) -> None:
    proven = asyncio.Event()
    proven.set()

    class Proves(Hinting):
        async def announce(self, node: str, tell: Any = None) -> None:
            await proven.wait()

    store = Proves(8, clock)
    await store.open()
    a, b = Peer(store, clock, "a"), Peer(store, clock, "b")
    await a.ownership.join()
    await b.ownership.join()
    await settle(a, b)
    proven.clear()
    store.dead = frozenset("b")  # the server let its line go, and b will never be told
    clock.advance(7)
    await a.ownership.keep(0)
    await b.ownership.tick()
    a.gained.clear()
    await a.ownership.tick()
    assert not a.gained, "it is back, and its sign says nothing yet"
    proven.set()
    await settle(a, b)
    store.dead = frozenset()
    await settle(a, b)
    store.dead = frozenset("b")
    await a.ownership.tick()
    assert a.gained, "now it does"


async def test_ticks_are_quick_while_shards_move_and_slow_again_after(
    store: MemoryStore, clock: ManualClock
) -> None:
    a, b = Peer(store, clock, "a"), Peer(store, clock, "b")

    async def pass_quietly(*peers: Peer) -> None:
        for _ in range(QUICK_TICKS):
            for peer in peers:
                await peer.ownership.tick()
        assert [peer.ownership.pause_seconds for peer in peers] == [TICK_SECONDS] * len(peers)

    await a.ownership.join()
    await settle(a)
    await pass_quietly(a)
    await b.ownership.join()
    await a.ownership.tick()
    assert a.ownership.pause_seconds < TICK_SECONDS
    await settle(a, b)
    await pass_quietly(a, b)


async def test_a_leaving_node_hands_over_every_shard_a_few_at_a_time(
    store: MemoryStore, clock: ManualClock
) -> None:
    a, b = Peer(store, clock, "a"), Peer(store, clock, "b")
    await a.ownership.join()
    await settle(a)
    await b.ownership.join()
    await a.ownership.say("draining")
    at_once: list[int] = []

    async def release(shard: int) -> None:
        at_once.append(len(a.ownership._leaving))
        await b.ownership.tick()
        a.released.append(shard)

    a.ownership._releasing = release
    await a.ownership.hand_over()
    await settle(b)
    assert sorted(a.released) == list(range(8)) and max(at_once) == LEAVING_SHARDS
    assert len(b.ownership.leases) == 8 and not any(crash for _, crash in b.gained)


async def test_a_leaving_node_keeps_its_shards_when_there_is_nobody_else(
    store: MemoryStore, clock: ManualClock
) -> None:
    a = Peer(store, clock, "a")
    await a.ownership.join()
    await a.ownership.say("draining")
    await a.ownership.hand_over()
    assert not a.released and len(a.ownership.leases) == 8


async def test_an_older_build_hands_back_what_only_a_newer_one_runs(
    store: MemoryStore, clock: ManualClock
) -> None:
    old, new = Peer(store, clock, "old"), Peer(store, clock, "new")

    async def needs() -> dict[int, frozenset[str]]:
        return {0: frozenset(("x v2",)), 7: frozenset(("x v2",))}

    old.ownership._needs_now = new.ownership._needs_now = needs
    new.ownership._runs = ("x v1", "x v2")
    await old.ownership.join()
    await settle(old)
    assert len(old.ownership.leases) == 8, "nobody could do better"
    await new.ownership.join()
    await settle(old, new)
    assert {0, 7} <= new.ownership.leases.keys()
    assert len(old.ownership.leases) == len(new.ownership.leases) == 4


async def test_a_shard_that_is_ours_by_its_row_alone_finds_an_owner(
    store: MemoryStore, clock: ManualClock
) -> None:
    """A hand-over that failed leaves such a one, and nobody else may take it while we live."""
    a, b = Peer(store, clock, "a"), Peer(store, clock, "b")
    await a.ownership.join()
    await b.ownership.join()
    await settle(a, b)
    theirs = min(b.ownership.leases)
    row = (await store.owners())[theirs]
    await store.take(theirs, row.epoch, "a")
    await settle(b, a)
    owners = [shard.owner for shard in await store.owners()]
    assert owners.count("a") == owners.count("b") == 4
    assert len(a.ownership.leases) == len(b.ownership.leases) == 4


async def test_leaving_hands_back_what_was_taken_while_the_ticks_ended(
    store: MemoryStore, clock: ManualClock
) -> None:
    peer = Peer(store, clock, "a")
    await peer.ownership.join()
    del peer.ownership.leases[3]
    await peer.ownership.leave()
    assert {shard.owner for shard in await store.owners()} == {""}


async def test_a_node_whose_own_clock_is_ahead_takes_nothing_from_the_living(
    store: MemoryStore, clock: ManualClock
) -> None:
    ahead = ManualClock()
    ahead.advance(3600)
    a, b = Peer(store, clock, "a"), Peer(store, ahead, "b")
    await a.ownership.join()
    await settle(a)
    await b.ownership.join()
    await settle(a, b)
    assert not any(crash for _, crash in b.gained)
    assert len(a.ownership.leases) == len(b.ownership.leases) == 4
