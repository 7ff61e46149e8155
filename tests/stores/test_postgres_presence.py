"""Signs of life through the server: they end with the connection, and are given again."""

from __future__ import annotations

import asyncio

import pytest
from tests.postgres_server import Pooler
from tests.stores.servers import DEADLINE_SECONDS, line_to, session_at, store_at, until

from outlive.stores import postgres_presence
from outlive.stores.postgres import PostgresStore
from outlive.stores.postgres_presence import MISSED_SECONDS


async def test_a_node_whose_connection_is_gone_has_departed(postgres: str) -> None:
    async with line_to(postgres) as line, store_at(postgres) as watcher:
        async with store_at(line.address, schema=watcher.schema) as store:
            await store.announce("n")
            await store.announce("n")
            assert await watcher.departed(["n", "never"]) == set()
            line.is_open = False
            assert store.session._link is not None
            store.session._link.terminate()

            async def departed() -> bool:
                return await watcher.departed(["n", "never"]) == {"n"}

            await until(departed, "the sign of life ends")
            line.is_open = True

            async def is_back() -> bool:
                return await watcher.departed(["n"]) == set()

            await until(is_back, "the sign of life is given again")


async def test_a_node_that_ended_in_order_is_not_reported(postgres: str) -> None:
    async with store_at(postgres) as watcher:
        async with store_at(postgres, schema=watcher.schema) as store:
            await store.announce("n")
        assert await watcher.departed(["n"]) == set()
        async with session_at(postgres) as session:
            assert await session.fetchval(f"SELECT count(*) FROM {watcher.schema}.node") == 0


async def test_behind_a_pooler_the_sign_is_given_on_the_direct_address(pooler: Pooler) -> None:
    async with store_at(pooler.address) as watcher:
        own = watcher.schema
        await watcher.announce("unseen")  # no session, no sign, and so none to miss
        async with store_at(pooler.address, schema=own, direct=pooler.direct) as store:
            await store.announce("n")
            assert await watcher.departed(["n", "unseen"]) == set()
            async with session_at(pooler.server) as session:
                assert store.session._link is not None
                backend = store.session._link.get_server_pid()
                store.session.restores.clear()
                await session.execute("SELECT pg_terminate_backend($1)", backend)

                async def departed() -> bool:
                    return await watcher.departed(["n", "unseen"]) == {"n"}

                await until(departed, "the sign of life ends")


async def test_a_sign_that_is_given_again_at_once_is_not_missed(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_presence, "MISSED_SECONDS", DEADLINE_SECONDS)
    async with store_at(postgres) as watcher, store_at(postgres, schema=watcher.schema) as store:
        await store.announce("n")
        await watcher.departed(["n"])
        for _ in range(3):
            link = store.session._link
            assert link is not None
            link.terminate()

            async def is_back(cut: object = link) -> bool:
                assert await watcher.departed(["n"]) == set(), "nobody died"
                return store.session._link is not cut and not await watcher.missed(["n"])

            await until(is_back, "the sign of life is given again")


async def test_a_node_is_told_when_its_sign_ends_and_when_it_is_given_again(postgres: str) -> None:
    said: list[bool] = []
    async with store_at(postgres) as store:
        await store.announce("n", said.append)
        assert store.session._link is not None
        store.session._link.terminate()

        async def is_told() -> bool:
            return said == [False, True]

        await until(is_told, "it is told")
    assert said == [False, True], "its end in order is no news"


async def test_who_was_cut_off_itself_believes_in_no_death_for_a_while(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_presence, "DOUBT_SECONDS", 2 * DEADLINE_SECONDS)
    async with store_at(postgres) as watcher, line_to(postgres) as line:
        async with store_at(line.address, schema=watcher.schema) as store:
            await watcher.announce("w")
            await store.announce("n")
            line.is_open = False
            assert watcher.session._link is not None and store.session._link is not None
            watcher.session._link.terminate()
            store.session._link.terminate()

            async def missed_for_long() -> bool:
                assert await watcher.departed(["n"]) == set()
                return await watcher.missed(["n"]) == {"n"} and bool(await looked_long(watcher))

            async def looked_long(store: PostgresStore) -> bool:
                await asyncio.sleep(2 * MISSED_SECONDS / 10)
                looks.append(await store.departed(["n"]))
                return len(looks) > 10

            looks: list[set[str]] = []
            await until(missed_for_long, "the sign of life ends")
            assert not any(looks)
            line.is_open = True
