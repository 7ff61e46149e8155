"""Signs of life through the server: they end with the connection, and are given again."""

from __future__ import annotations

from tests.postgres_server import Pooler
from tests.stores.servers import line_to, session_at, store_at, until


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
