"""Who waits for news gets it: at once from this node, soon from others, never too late."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from outlive.clock import Clock
from outlive.model import Append, Batch
from outlive.runtime.watchers import Watchers
from outlive.stores.memory import MemoryStore


async def opened() -> tuple[MemoryStore, Watchers]:
    store = MemoryStore()
    await store.open()
    return store, Watchers(store, Clock())


async def append(store: MemoryStore, n: int) -> None:
    shard = (await store.owners())[0]
    lease = await store.take(0, shard.epoch, "me")
    await store.commit(Batch(lease=lease, append=(Append("stream", n, "x", b"1"),)))


async def test_news_of_another_node_ends_the_wait() -> None:
    store, watchers = await opened()
    wait = asyncio.ensure_future(watchers.changed("id", "stream", 0, 60.0))
    await asyncio.sleep(0.01)
    await append(store, 0)
    assert await asyncio.wait_for(wait, 30) == 1
    watchers.close()


class Overtaken(MemoryStore):
    """Somebody else appends right after the first look at the lengths."""

    overtaken = False

    async def lengths(self, streams: Sequence[str]) -> dict[str, int]:
        found = await super().lengths(streams)
        if not self.overtaken:
            self.overtaken = True
            await append(self, 0)
        return found


async def test_news_between_two_looks_are_not_missed() -> None:
    store = Overtaken()
    await store.open()
    watchers = Watchers(store, Clock())
    async with asyncio.timeout(30):
        assert await watchers.changed("id", "stream", 0, 60.0) == 1
    watchers.close()


async def test_what_is_longer_already_is_answered_at_once() -> None:
    store, watchers = await opened()
    await append(store, 0)
    assert await watchers.changed("id", "stream", 0, 60.0) == 1


async def test_without_news_the_wait_ends_in_time() -> None:
    _, watchers = await opened()
    assert await watchers.changed("id", "stream", 0, 0.02) == 0
    assert not watchers._waiting and not watchers._streams and not watchers._known
    watchers.close()


async def test_a_hundred_waits_for_one_process_are_told_together() -> None:
    store, watchers = await opened()
    waits = [asyncio.ensure_future(watchers.changed("id", "stream", 0, 60.0)) for _ in range(100)]
    await asyncio.sleep(0.01)
    await append(store, 0)
    watchers.tell("id")
    assert set(await asyncio.gather(*waits)) == {1}
    watchers.close()


async def test_closing_ends_every_wait() -> None:
    _, watchers = await opened()
    wait = asyncio.ensure_future(watchers.changed("id", "stream", 0, 60.0))
    await asyncio.sleep(0.01)
    watchers.close()
    assert await asyncio.wait_for(wait, 30) == 0
