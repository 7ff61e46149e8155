"""What Redis loses and when is said; what it must not lose it does not."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis
from tests.cell_servers import CellServer, valkey_server

from outlive import ids
from outlive.errors import (
    BadAddress,
    OutcomeUnknown,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from outlive.model import Append, Batch, Lease, Put, Ref
from outlive.stores import redis, redis_line
from outlive.stores.address import cells_at
from outlive.stores.redis import RedisStore


@pytest.fixture
def own() -> Iterator[CellServer]:
    server = valkey_server()
    server.start()
    yield server
    server.kill()


def put(key: str, value: bytes = b"v", due: int | None = None) -> Batch:
    return Batch(put=(Put(Ref("kept", key), value, due),), storage="volatile")


async def test_versions_rise_over_a_server_that_lost_everything(
    own: CellServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_line, "RESOLVE_SECONDS", 0.2)
    store = RedisStore(own.address)
    await store.open()
    (before,) = (await store.commit(put("a"))).versions
    time = await store.now()
    own.kill()
    with pytest.raises((StoreUnavailable, OutcomeUnknown)):
        await store.commit(put("a"))
    own.start()
    assert await store.read([Ref("kept", "a")]) == [None]
    assert (await store.commit(put("a"))).versions[0] > before
    assert await store.now() >= time
    await store.close()


async def test_a_full_server_refuses_and_keeps_what_it_has() -> None:
    server = valkey_server("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    server.start()
    store = RedisStore(server.address)
    await store.open()
    await store.commit(put("a"))

    async def fill() -> None:
        for number in range(100):
            await store.commit(put(f"large {number}", bytes(500_000), 7))

    with pytest.raises(StoreFull):
        await fill()
    mixed = replace(put("b", bytes(500_000)), drop=(Ref("kept", "a"),))
    with pytest.raises(StoreFull):
        await store.commit(mixed)
    assert (await store.read([Ref("kept", "a")]))[0] is not None, "nothing of it was written"
    due = await store.claim(["kept"], 100, 60)
    drops = [Batch(drop=(cell.ref,), storage="volatile") for cell in due]
    assert drops, "what is due can be dropped when the server is full"
    await store.commit_group(drops)
    await store.commit(put("large", bytes(500_000)))
    await store.close()
    server.kill()


async def test_what_is_lost_and_when_is_said_at_the_start(
    own: CellServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisStore(own.address)
    with caplog.at_level(logging.INFO):
        await store.open()
    assert "a crash or restart loses what its own persistence had not written" in caplog.text
    levels = {finding.name: finding.level for finding in await store.doctor()}
    assert levels == {"durability": "warn", "eviction": "ok"}
    await store.close()


async def test_a_cell_that_was_evicted_and_made_again_is_not_found_by_its_old_mark(
    own: CellServer,
) -> None:
    store = RedisStore(own.address)
    await store.open()

    async def whose(who: str) -> list[str]:
        found = await store.select(["kept"], "whose", who, who)
        return [cell.key for _, cell in found]

    def marked(who: str) -> Batch:
        made = Put(Ref("kept", "a"), b"v", None, (("whose", who),))
        return Batch(put=(made,), storage="volatile")

    await store.commit(marked("ann"))
    async with Redis.from_url(own.address) as server:
        (cell,) = [name async for name in server.scan_iter("*c:*")]
        await server.delete(cell)  # as a full server does
        await store.commit(marked("ben"))
        assert (await whose("ann"), await whose("ben")) == ([], ["a"])
        (marks,) = [name async for name in server.scan_iter("*m:*")]
        assert await server.zcard(marks) == 1, "what was evicted leaves nothing for ever"
    await store.close()


async def test_a_server_that_evicts_is_warned_of() -> None:
    server = valkey_server("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru")
    server.start()
    store = RedisStore(server.address)
    await store.open()
    (_, finding) = await store.doctor()
    assert (finding.level, "single cells may go at any time" in finding.text) == ("warn", True)
    await store.close()
    server.kill()


async def test_a_cell_that_the_server_has_evicted_is_absent_to_every_verb(own: CellServer) -> None:
    store, refs = RedisStore(own.address), [Ref("kept", str(number)) for number in range(6)]
    await store.open()
    puts = tuple(Put(ref, b"v", 7, (("mark", ref.key),)) for ref in refs)
    await store.commit(Batch(put=puts, storage="volatile"))
    gone, left = refs[:5:2], ["1", "3", "5"]
    async with Redis.from_url(own.address) as shell:
        names = [f"{{outlive}}:c:{ref.space}\0{ref.key}" for ref in gone]
        assert await shell.delete(*names) == 3  # as an eviction does: the cell, and nothing else
    assert await store.read(gone) == [None] * 3
    assert [cell.key for cell in await store.scan("kept")] == left
    assert [cell.key for cell in await store.scan("kept", "", 3)] == left, "not the end"
    assert [cell.key for cell in await store.scan("kept", "1", 1)] == ["3"]
    assert [value for value, _ in await store.select(["kept"], "mark", "", "9", 3)] == left
    assert [cell.key for cell in await store.claim(["kept"], 10, 60)] == left
    assert await store.read(gone) == [None] * 3, "no claim makes it again"
    async with Redis.from_url(own.address) as shell:
        assert await shell.zcard("{outlive}:d:kept") == await shell.zcard("{outlive}:k:kept") == 3
    await store.close()


async def test_an_old_server_is_refused(own: CellServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "RELEASE_MIN", 99)
    with pytest.raises(StoreRefused, match="too old: 99 is needed"):
        await RedisStore(own.address).open()


async def test_two_prefixes_share_a_server_and_nothing_else(valkey: CellServer) -> None:
    names = [ids.token(40) for _ in range(2)]
    one, other = (cells_at(f"{valkey.address}/0?prefix={name}") for name in names)
    await one.open()
    await other.open()
    await one.commit(put("a"))
    assert await other.read([Ref("kept", "a")]) == [None]
    await one.close()
    await other.close()


async def test_it_keeps_no_journal(valkey: CellServer) -> None:
    store = RedisStore(valkey.address, prefix=ids.token(40))
    await store.open()
    with pytest.raises(ValueError, match="keeps cells only"):
        await store.commit(Batch(Lease(0, "a", 1), append=(Append("s", 0, "k", b""),)))
    await store.close()


def test_an_address_that_means_nothing_is_refused() -> None:
    for address in ("redis://host:port", "redis://host?prefx=a", "rediss://h?ssl_cert_reqs=some"):
        with pytest.raises(BadAddress, match="Redis store is not understood"):
            cells_at(address)


@pytest.mark.parametrize("address", ["redis://ada:se#cret@host", "rediss://ada:se/cret@host:1/0"])
def test_what_is_said_of_an_address_tells_nothing_of_its_password(address: str) -> None:
    with pytest.raises(BadAddress) as refused:
        cells_at(address)
    assert "'se'" not in str(refused.value) and "cret" not in str(refused.value)
    assert refused.value.__suppress_context__, "a traceback would tell it"


async def test_the_time_goes_on_between_answers_and_is_not_later_than_the_servers(
    valkey: CellServer,
) -> None:
    store, other = (RedisStore(valkey.address, prefix=ids.token(40)) for _ in range(2))
    await store.open()
    await other.open()
    first, trips = await store.now(), store._line.trips
    seen = [first]
    while store._line.trips == trips:
        seen.append(await store.now())
        other._line.heard_at = float("-inf")
        assert seen[-1] <= await other.now() + 1000
    assert seen == sorted(seen) and seen[-1] >= first + 900_000
    await store.close()
    await other.close()
