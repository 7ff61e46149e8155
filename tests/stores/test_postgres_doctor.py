"""What the doctor says of a PostgreSQL store: what durable means, and what is broken."""

from __future__ import annotations

from typing import Any

import pytest
from tests.postgres_server import Pooler, server_of_its_own
from tests.stores.servers import line_to, note, session_at, store_at

from outlive import ids
from outlive.stores.moving import place_at
from outlive.stores.postgres import PostgresStore


async def levels(store: PostgresStore) -> dict[str, str]:
    return {finding.name: finding.level for finding in await store.doctor()}


async def test_a_well_store_is_well_but_for_a_server_that_does_not_flush(postgres: str) -> None:
    async with store_at(postgres) as store:
        found = {finding.name: finding for finding in await store.doctor()}
        assert found.pop("durability").level == "fail"  # the tests' server keeps nothing
        assert {finding.level for finding in found.values()} == {"ok"}
        assert "primary" in found["server"].text


async def test_what_a_pooler_costs_is_said(postgres: str, pooler: Pooler) -> None:
    async with store_at(pooler.address) as store:
        (session,) = [found for found in await store.doctor() if found.name == "session"]
        assert session.level == "warn" and "direct=host:port" in session.remedy
        async with store_at(pooler.address, schema=store.schema, direct=pooler.direct) as straight:
            assert (await levels(straight))["session"] == "ok"
        async with line_to(postgres) as line:
            line.is_open = False
            nowhere = f"127.0.0.1:{line.port}"
            async with store_at(pooler.address, schema=store.schema, direct=nowhere) as lost:
                assert (await levels(lost))["session"] == "warn"


async def test_an_edited_event_is_named(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        lease = await store.take(2, 0, "n")
        for n in range(4):
            await store.commit(note(lease, "s", n))
        await store.release(lease)
        assert (await levels(store))["chain"] == "ok"
        await session.execute(f"UPDATE {store.schema}.event SET data = 'x' WHERE seq = 3")
        (chain,) = [finding for finding in await store.doctor() if finding.name == "chain"]
        assert chain.level == "fail" and "shard 2 from event 3" in chain.text
        assert (await levels(store))["owners"] == "warn"


@pytest.mark.parametrize("right", ["SELECT", "INSERT", "UPDATE", "DELETE"])
async def test_a_right_that_the_role_lacks_on_a_table_is_a_fault(postgres: str, right: str) -> None:
    role = f"app_{ids.token(40)}"
    async with store_at(postgres) as store, session_at(postgres) as session:
        await session.execute(f"CREATE ROLE {role} LOGIN")
        async with place_at(f"{postgres}?schema={store.schema}") as place:
            await place.grant(role)
        as_role = postgres.replace("postgres@", f"{role}@")
        async with store_at(as_role, schema=store.schema) as served:
            assert (await levels(served))["access"] == "ok"
            await session.execute(f"REVOKE {right} ON {store.schema}.mark FROM {role}")
            assert (await levels(served))["access"] == "fail"


async def test_a_pinned_horizon_is_a_warning(postgres: str) -> None:
    from outlive.stores import postgres_doctor

    async with store_at(postgres) as store, session_at(postgres) as session:
        await session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await session.fetchval("SELECT 1")
        limit, postgres_doctor.HORIZON_SECONDS_WARN = postgres_doctor.HORIZON_SECONDS_WARN, 0.0
        try:
            assert (await levels(store))["horizon"] == "warn"
        finally:
            postgres_doctor.HORIZON_SECONDS_WARN = limit
        await session.execute("ROLLBACK")


async def test_a_foreign_schema_is_a_finding_and_not_an_error(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        await session.execute(f"UPDATE {store.schema}.migration SET checksum = 'x'")
        assert (await levels(store))["schema"] == "fail"
        await session.execute(f"DROP TABLE {store.schema}.migration")
        assert (await levels(store))["schema"] == "warn"


async def test_the_doctor_says_what_durable_means_here() -> None:
    with server_of_its_own("fsync=on", "full_page_writes=on") as server:
        await server.answering()
        async with store_at(server.address) as store:
            found = {finding.name: finding for finding in await store.doctor()}["durability"]
            assert found.level == "ok" and "flushed to one disk" in found.text
            for setting in ("fsync on", "synchronous_commit on", "no synchronous standby"):
                assert setting in found.text
        async with session_at(server.address) as session:
            await session.execute("ALTER ROLE postgres SET synchronous_commit = off")
        async with store_at(server.address) as store:
            found = {finding.name: finding for finding in await store.doctor()}["durability"]
            assert found.level == "fail" and "synchronous_commit is off" in found.text


@pytest.mark.parametrize(
    ("commit", "said"),
    [("on", "and on a standby before the answer"), ("remote_write", "not flushed on one_of_them")],
)
async def test_a_standby_counts_when_commits_wait_for_its_disk(
    postgres: str, monkeypatch: pytest.MonkeyPatch, commit: str, said: str
) -> None:
    async with store_at(postgres) as store:
        read = store.read_rows

        async def as_configured(name: str, *values: Any) -> list[Any]:
            if name == "doctor_durability":
                return [(commit, "on", "on", "one_of_them")]
            return await read(name, *values)

        monkeypatch.setattr(store, "read_rows", as_configured)
        found = {finding.name: finding for finding in await store.doctor()}["durability"]
    assert found.level == "ok" and said in found.text
