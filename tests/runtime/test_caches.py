"""A cache in one instance and in several: how often the source is asked, how old an answer is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from outlive.clock import Later, ManualClock
from outlive.codec import shapes
from outlive.errors import Conflict, LoadTooLong, NotCacheable, StoreUnavailable
from outlive.kinds.caches.rule import (
    Bounds,
    Holds,
    Life,
    best_effort,
    bounded,
    exact,
    never_authoritative,
)
from outlive.model import Batch, Put, Ref
from outlive.runtime import caches
from outlive.runtime.apply import Applier
from outlive.runtime.caches import ENTRY_BYTES, Cache, Terms
from outlive.runtime.stamps import Generations
from outlive.steps import transacting
from outlive.stores.memory import MemoryStore

PLAIN = Life(ttl=60.0, jitter=0.0, early=0.0)


class Skipping(ManualClock):
    """A clock that jumps to the time somebody waits for."""

    def call_later(self, seconds: float, call: Callable[[], None]) -> Later:
        self.advance(seconds)
        return asyncio.get_running_loop().call_soon(call)


class Source:
    """What is cached: the truth, how often it was asked for, and a gate in front of it."""

    def __init__(self) -> None:
        self.truth: dict[str, Any] = {}
        self.loads = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, key: str) -> Any:
        self.loads += 1
        found = self.truth.get(key, key.upper())
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return found


class World:
    """One source, one store, and instances that come and go."""

    def __init__(self) -> None:
        self.clock = Skipping()
        self.store = MemoryStore(clock=self.clock)
        self.source = Source()

    def cache(
        self,
        holds: Holds,
        life: Life = PLAIN,
        *,
        alone: bool = False,
        tags: Any = None,
        load: Callable[[str], Awaitable[Any]] | None = None,
        **terms: Any,
    ) -> Cache[str, Any]:
        async def store() -> MemoryStore:
            return self.store

        made = Applier(self.store, self.clock)

        async def applier() -> Applier:
            return made

        async def value(key: str) -> Any:
            return await self.source(key)

        declared = Terms(holds=holds, life=life, bounds=terms.pop("bounds", Bounds()), **terms)
        return Cache(
            "value", load or value, declared, tags=tags, shape=shapes(value)[1],
            clock=self.clock, generations=Generations(store), applier=None if alone else applier,
        )  # fmt: skip


@pytest.fixture
async def world() -> World:
    made = World()
    await made.store.open()
    return made


async def settled() -> None:
    while caches._running:
        await asyncio.gather(*caches._running, return_exceptions=True)


CLASSES = (exact, bounded(2.0), best_effort(2.0), never_authoritative)


@pytest.mark.parametrize("holds", CLASSES, ids=lambda holds: holds.name)
async def test_the_second_call_is_a_hit(world: World, holds: Holds) -> None:
    cache = world.cache(holds)
    assert [await cache("tea"), await cache("tea"), await cache("milk")] == ["TEA", "TEA", "MILK"]
    assert (world.source.loads, cache.policy.hits, cache.policy.misses) == (2, 1, 2)


async def test_an_exact_cache_sees_an_invalidation_at_once_and_on_every_instance(
    world: World,
) -> None:
    one, two = world.cache(exact), world.cache(exact)
    assert await one("tea") == await two("tea") == "TEA"
    world.source.truth["tea"] = "new"
    await one.invalidate("tea")
    assert (await two("tea"), await one("tea")) == ("new", "new")


async def test_a_bounded_cache_sees_it_within_its_bound_and_does_not_look_before(
    world: World,
) -> None:
    one, two = world.cache(bounded(2.0)), world.cache(bounded(2.0))
    await one("tea"), await two("tea")
    world.source.truth["tea"] = "new"
    await one.invalidate("tea")
    assert await one("tea") == "new", "who writes reads its own"
    world.clock.advance(1.9)
    assert (await two("tea"), two.counts.looks) == ("TEA", 0)
    world.clock.advance(0.2)
    assert await two("tea") == "new"


async def test_a_value_that_is_still_right_lives_on_after_a_look(world: World) -> None:
    cache = world.cache(bounded(2.0))
    for _ in range(10):
        await cache("tea")
        world.clock.advance(2.1)
    assert (world.source.loads, cache.counts.looks) == (1, 9)


async def test_best_effort_looks_behind_its_answers(world: World) -> None:
    one, two = world.cache(best_effort(2.0)), world.cache(best_effort(2.0))
    await one("tea"), await two("tea")
    world.source.truth["tea"] = "new"
    await one.invalidate("tea")
    world.clock.advance(2.1)
    assert await two("tea") == "TEA"
    await settled()
    assert await two("tea") == "new"


async def test_never_authoritative_knows_of_nobody_and_says_so(world: World) -> None:
    cache = world.cache(never_authoritative)
    with pytest.raises(NotCacheable, match="served elsewhere"):
        cache.stamps("tea")
    await cache("tea")
    assert world.store._cells == {}


async def test_a_tag_and_the_whole_are_made_old_together(world: World) -> None:
    cache = world.cache(exact, tags=lambda key: ("drinks", key[0]))
    for key in ("tea", "milk"):
        await cache(key)
    await cache.invalidate_tag("drinks")
    await cache("tea"), await cache("milk")
    assert world.source.loads == 4
    await cache.invalidate_tag("t")
    await cache("tea"), await cache("milk")
    assert world.source.loads in (5, 6)
    await cache.clear()
    before = world.source.loads
    await cache("tea"), await cache("milk")
    assert world.source.loads == before + 2


async def test_a_thousand_calls_on_eight_instances_load_once(world: World) -> None:
    instances = [world.cache(bounded(2.0)) for _ in range(8)]
    world.source.gate.clear()
    calls = [asyncio.ensure_future(one("tea")) for one in instances for _ in range(125)]
    while not world.source.loads:
        await asyncio.sleep(0)
    world.source.gate.set()
    assert set(await asyncio.gather(*calls)) == {"TEA"}
    assert world.source.loads == 1
    assert sum(one.counts.joined for one in instances) == 8 * 124


async def test_who_asked_first_may_leave_and_the_others_get_it(world: World) -> None:
    cache = world.cache(bounded(2.0))
    world.source.gate.clear()
    first, second = (asyncio.ensure_future(cache("tea")) for _ in range(2))
    while not world.source.loads:
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    world.source.gate.set()
    assert (await second, world.source.loads) == ("TEA", 1)


async def test_what_was_loaded_before_an_invalidation_is_never_served_after_it(
    world: World,
) -> None:
    slow, other = world.cache(exact), world.cache(exact)
    world.source.gate.clear()
    early = asyncio.ensure_future(slow("tea"))
    while not world.source.loads:
        await asyncio.sleep(0)
    world.source.truth["tea"] = "new"
    await other.invalidate("tea")
    late = asyncio.ensure_future(slow("tea"))  # joins the load that has read the old value
    await asyncio.sleep(0)
    world.source.gate.set()
    assert (await early, await late) == ("TEA", "new")
    assert (await slow("tea"), await other("tea")) == ("new", "new")


async def test_a_failing_load_fails_its_waiters_and_is_tried_again_later(world: World) -> None:
    cache = world.cache(exact)
    world.source.error = ConnectionError("down")
    found = await asyncio.gather(*(cache("tea") for _ in range(9)), return_exceptions=True)
    assert world.source.loads == 1 and {type(one) for one in found} == {ConnectionError}
    world.source.error = None
    assert await cache("tea") == "TEA"


async def test_behind_its_life_a_value_is_served_when_loading_fails_if_declared(
    world: World,
) -> None:
    cache = world.cache(bounded(100.0), Life(ttl=10.0, jitter=0.0, early=0.0, if_error=60.0))
    await cache("tea")
    world.source.error = ConnectionError("down")
    world.clock.advance(11.0)
    assert (await cache("tea"), cache.counts.stale) == ("TEA", 1)
    await cache.invalidate_tag("none of its")
    assert len(cache.policy) == 0  # a tag here drops what is here
    with pytest.raises(ConnectionError):
        await cache("tea")


async def test_a_value_known_to_be_old_is_not_served_though_loading_fails(world: World) -> None:
    life = Life(ttl=10.0, jitter=0.0, early=0.0, if_error=60.0)
    one, two = world.cache(exact, life), world.cache(exact, life)
    await one("tea"), await two("tea")
    await one.invalidate("tea")
    world.source.error = ConnectionError("down")
    with pytest.raises(ConnectionError):
        await two("tea")


async def test_behind_its_life_a_value_is_served_once_more_while_it_is_loaded(world: World) -> None:
    life = Life(ttl=10.0, jitter=0.0, early=0.0, while_revalidate=30.0)
    cache = world.cache(bounded(100.0), life)
    await cache("tea")
    world.source.truth["tea"] = "new"
    world.clock.advance(11.0)
    assert await cache("tea") == "TEA"
    await settled()
    assert (await cache("tea"), world.source.loads, cache.counts.stale) == ("new", 2, 1)


async def test_a_value_is_loaded_again_before_its_end_by_one_of_the_fleet(world: World) -> None:
    life = Life(ttl=10.0, jitter=0.0, early=1000.0)

    async def slowly(key: str) -> Any:
        world.clock.advance(1.0)
        return await world.source(key)

    cache = world.cache(bounded(100.0), life, load=slowly)
    await cache("tea")
    world.clock.advance(1.0)
    assert await cache("tea") == "TEA"
    await settled()
    assert world.source.loads == 2


async def test_none_is_kept_only_where_it_is_declared(world: World) -> None:
    world.source.truth["tea"] = None
    loose = world.cache(never_authoritative)
    kept = world.cache(never_authoritative, Life(negative=5.0, jitter=0.0))
    assert [await loose("tea"), await loose("tea")] == [None, None]
    assert world.source.loads == 2
    assert [await kept("tea"), await kept("tea"), world.source.loads] == [None, None, 3]
    world.clock.advance(5.1)
    await kept("tea")
    assert world.source.loads == 4


async def test_lives_are_spread_by_jitter_and_bounded_by_the_ttl(world: World) -> None:
    cache = world.cache(never_authoritative, Life(ttl=100.0, jitter=0.5))
    for number in range(200):
        await cache(str(number))
    ends = [entry.ends - world.clock.boot() for entry in cache.policy]
    assert min(ends) >= 50.0 and max(ends) <= 100.0 and max(ends) - min(ends) > 30.0


async def test_what_is_not_asked_for_goes_after_its_idle_time(world: World) -> None:
    cache = world.cache(never_authoritative, Life(ttl=1000.0, idle=10.0, jitter=0.0, early=0.0))
    for _ in range(5):
        await cache("tea")
        world.clock.advance(9.0)
    assert world.source.loads == 1
    world.clock.advance(2.0)
    await cache("tea")
    assert world.source.loads == 2


async def test_a_caller_cannot_change_what_is_cached(world: World) -> None:
    world.source.truth["tea"] = {"cents": [3]}
    cache = world.cache(bounded(2.0))
    first = await cache("tea")
    first["cents"].append(4)
    second = await cache("tea")
    second["cents"].append(5)
    assert await cache("tea") == {"cents": [3]}


async def test_without_the_store_what_must_be_checked_is_loaded_and_the_rest_served(
    world: World,
) -> None:
    strict, loose = world.cache(exact), world.cache(best_effort(2.0))
    await strict("tea"), await loose("tea")
    await world.store.close()
    world.clock.advance(2.1)
    assert (await strict("tea"), await strict("tea")) == ("TEA", "TEA")
    assert strict.counts.unkept == 2
    before = world.source.loads
    assert await loose("tea") == "TEA"
    await settled()
    assert (await loose("tea"), world.source.loads) == ("TEA", before)
    with pytest.raises(StoreUnavailable):
        await strict.invalidate("tea")


async def test_a_load_that_takes_too_long_is_given_up_and_gives_its_lease_back() -> None:
    world = World()
    await world.store.open()
    one, two = (world.cache(bounded(2.0), load_seconds=0.02) for _ in range(2))
    world.source.gate.clear()
    with pytest.raises(LoadTooLong):
        await one("tea")
    await settled()
    world.source.gate.set()
    assert await two("tea") == "TEA"


async def test_a_dead_loader_is_followed_when_its_lease_ends(world: World) -> None:
    dead, alive = world.cache(bounded(2.0)), world.cache(bounded(2.0))
    world.source.gate.clear()
    stuck = asyncio.ensure_future(dead("tea"))
    while not world.source.loads:
        await asyncio.sleep(0)
    began = world.clock.boot()
    world.source.gate = asyncio.Event()
    world.source.gate.set()
    assert await alive("tea") == "TEA"
    assert world.source.loads == 2 and world.clock.boot() - began >= 9.9
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    for task in list(caches._running):
        task.cancel()
    await settled()


async def test_who_waits_for_another_instance_takes_nobodys_place(world: World) -> None:
    other, ours = world.cache(bounded(2.0)), world.cache(bounded(2.0), loads_max=1)
    world.source.gate.clear()
    stuck = asyncio.ensure_future(other("tea"))
    while not world.source.loads:
        await asyncio.sleep(0)
    world.source.gate = asyncio.Event()
    world.source.gate.set()
    began = world.clock.boot()
    waiting = asyncio.ensure_future(ours("tea"))
    await asyncio.sleep(0)
    assert await ours("milk") == "MILK"
    assert world.clock.boot() - began < 5.0 and not waiting.done()
    assert await waiting == "TEA"
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    for task in list(caches._running):
        task.cancel()
    await settled()


async def test_a_commit_that_rests_on_a_value_is_refused_when_it_was_made_old(
    world: World,
) -> None:
    cache = world.cache(exact)
    value, requires = await cache.checked("tea")
    await world.store.commit(Batch(require=requires, put=(Put(Ref("own", "a"), b"1"),)))
    await cache.invalidate("tea")
    with pytest.raises(Conflict):
        await world.store.commit(Batch(require=requires, put=(Put(Ref("own", "a"), b"2"),)))
    assert value == "TEA"
    with pytest.raises(NotCacheable, match="nothing may rest on it"):
        await world.cache(bounded(2.0)).checked("tea")


async def test_an_invalidation_goes_with_a_commit_or_not_at_all(world: World) -> None:
    cache = world.cache(exact)
    await cache("tea")
    with transacting() as carried:
        cache.invalidate_in(None, "tea")
        cache.invalidate_tag_in(None, "drinks")
        with pytest.raises(NotCacheable, match="ask before"):
            await cache("tea")
    assert len(carried.puts) == 2 and world.source.loads == 1
    assert await cache("tea") == "TEA" and world.source.loads == 1
    await world.store.commit(Batch(put=tuple(carried.puts.values())))
    await cache("tea")
    assert world.source.loads == 2
    with pytest.raises(NotCacheable, match="outside of one"):
        cache.invalidate_in(None, "tea")


async def test_another_schema_is_another_space_of_keys(world: World) -> None:
    old, new = world.cache(bounded(2.0)), world.cache(bounded(2.0), schema="2")
    await old("tea"), await new("tea")
    assert world.source.loads == 2


async def test_what_is_no_key_is_refused(world: World) -> None:
    cache: Any = world.cache(exact)
    for wrong in (1.5, None, True, ["a"], "x" * 2000):
        with pytest.raises((NotCacheable, TypeError)):
            await cache(wrong)
    assert world.source.loads == 0
    many = world.cache(exact, tags=lambda key: [str(n) for n in range(9)])
    with pytest.raises(NotCacheable, match="9 tags"):
        await many("tea")


async def test_dropping_everything_at_any_moment_changes_no_answer(world: World) -> None:
    cache = world.cache(bounded(2.0))
    for number in range(200):
        key = str(number % 7)
        world.clock.advance(0.1)
        if number % 3 == 0:
            cache.policy.clear("dropped")
        if number % 5 == 0:
            world.store._cells.clear()
        assert await cache(key) == key
    assert cache.peek("1") in (None, "1")


async def test_loads_under_way_are_bounded(world: World) -> None:
    cache = world.cache(never_authoritative, loads_max=3)
    world.source.gate.clear()
    calls = [asyncio.ensure_future(cache(str(number))) for number in range(20)]
    for _ in range(50):
        await asyncio.sleep(0)
    assert world.source.loads == 3
    world.source.gate.set()
    await asyncio.gather(*calls)
    assert world.source.loads == 20


async def test_a_value_that_is_no_json_fails_at_once_and_gives_its_lease_back(
    world: World,
) -> None:
    one, two = (world.cache(bounded(2.0)) for _ in range(2))
    world.source.truth["tea"] = object()
    with pytest.raises(NotImplementedError):
        await one("tea")
    await settled()
    del world.source.truth["tea"]
    began = world.clock.boot()
    assert await two("tea") == "TEA"
    assert world.clock.boot() - began < 5.0  # it waited for no lease of 10 s


async def test_the_size_of_keys_is_counted_as_they_are(world: World) -> None:
    cache: Any = world.cache(never_authoritative)
    for key in (10**4000, "\U0001f375" * 257):
        with pytest.raises(NotCacheable):
            await cache(key)
    assert world.source.loads == 0
    before = cache.policy.bytes
    await cache("\U0001f375" * 256)
    assert cache.policy.bytes - before > ENTRY_BYTES + 2 * 1024  # the key, and the value like it
