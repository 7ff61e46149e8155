"""An address names a store, or says what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from outlive.clock import ManualClock
from outlive.errors import BadAddress
from outlive.stores.address import (
    cells_at,
    postgres_place,
    sqlite_path,
    store_at,
    without_password,
)
from outlive.stores.memory import MemoryStore
from outlive.stores.postgres import PostgresStore
from outlive.stores.postgres_hosts import each_of
from outlive.stores.sqlite import SQLiteStore


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("sqlite:////var/lib/store.db", "/var/lib/store.db"),
        ("sqlite:////var/a%20b.db", "/var/a b.db"),
        ("sqlite:///store.db", "store.db"),
        ("sqlite:///folder/store.db", "folder/store.db"),
    ],
)
def test_a_file_is_absolute_with_four_slashes_and_relative_with_three(
    address: str, path: str
) -> None:
    store = store_at(address)
    assert isinstance(store, SQLiteStore)
    assert store.path == Path(path).resolve()


async def test_memory_is_a_store_too_and_takes_the_clock() -> None:
    clock = ManualClock()
    store = store_at("memory://", clock)
    assert isinstance(store, MemoryStore)
    await store.open()
    assert await store.now() == clock.wall()


def test_a_database_is_named_with_the_place_of_the_store_in_it() -> None:
    store = store_at("postgresql://u:p@host:1/db?schema=own&shards=8&sslmode=require")
    assert isinstance(store, PostgresStore)
    assert (store.schema, store.shards) == ("own", 8)
    assert store._dsn == "postgresql://u:p@host:1/db?sslmode=require"
    store = store_at("postgresql:///db?host=/run/postgresql")
    assert isinstance(store, PostgresStore)
    assert (store.schema, store.shards) == ("outlive", 64)
    assert store._dsn == "postgresql:///db?host=%2Frun%2Fpostgresql"
    assert (store._direct, store._cache_size) == ("", None)


def test_beside_a_pooler_the_server_itself_is_named() -> None:
    store = store_at("postgresql://u:p@pooler:6432/db?direct=host:5432&statement_cache_size=9")
    assert isinstance(store, PostgresStore)
    assert store._dsn == "postgresql://u:p@pooler:6432/db"
    assert (store._direct, store._cache_size) == ("postgresql://u:p@host:5432/db", 9)


@pytest.mark.parametrize(
    "query", ["", "db?schema=A-B", "db?shards=x", "db?shards=0", "db?direct=host"]
)
def test_a_refused_address_does_not_show_its_password(query: str) -> None:
    with pytest.raises(BadAddress) as refusal:
        store_at(f"postgresql://u:secret@host/{query}")
    assert "secret" not in str(refusal.value)


def test_a_missing_driver_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in list(sys.modules):
        if module.startswith("outlive.stores.postgres"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(BadAddress, match=r"pip install 'outlive\[postgres\]'"):
        store_at("postgresql://host/db")


@pytest.mark.parametrize(
    "address",
    ["", "store.db", "sqlite://", "sqlite:///", "sqlite://host/x.db", "mysql://x", "sqlite:///x?y"],
)
def test_what_is_not_understood_is_refused(address: str) -> None:
    with pytest.raises(BadAddress):
        store_at(address)


def test_what_is_kept_of_an_address_has_no_password() -> None:
    told = without_password("postgresql://me:s3cret@db:5433/app?shards=4&password=s3cret")
    assert told == "postgresql://db:5433/app?schema=outlive"
    told = without_password("postgresql:///app?host=/run/pg&user=me&schema=mine")
    assert told == "postgresql:///run/pg/app?schema=mine"
    assert without_password("sqlite:////srv/app.db") == "sqlite:////srv/app.db"


def test_work_on_a_store_as_such_goes_past_a_pooler() -> None:
    dsn, schema = postgres_place(
        "postgresql://me:pw@pool:6432/p?direct=db:5432/app&sslmode=require"
    )
    assert (dsn, schema) == ("postgresql://me:pw@db:5432/app?sslmode=require", "outlive")
    with pytest.raises(BadAddress, match="names no database"):
        postgres_place("postgresql://host")
    for wrong in ("sqlite:///", "sqlite://host/x", "sqlite:///x?y=1"):
        with pytest.raises(BadAddress, match="names no file"):
            sqlite_path(wrong)


def test_an_address_may_name_several_servers() -> None:
    address = "postgresql://u:p@one:1,two:2/db?target_session_attrs=read-write&schema=s"
    store = store_at(address)
    assert isinstance(store, PostgresStore)
    assert store.schema == "s"
    assert each_of(store._dsn) == ("postgresql://u:p@one:1/db", "postgresql://u:p@two:2/db")
    assert without_password(address) == "postgresql://one:1,two:2/db?schema=s"


@pytest.mark.parametrize("place", ["ann:s3/cret@db:5432", "db:99999", "db:port", "a:1,b:99999"])
def test_a_port_that_is_none_is_refused_and_shows_no_part_of_a_password(place: str) -> None:
    with pytest.raises(BadAddress, match="percent-encoded") as refusal:
        store_at(f"postgresql://{place}/x")
    assert "s3" not in str(refusal.value)


def test_hosts_of_every_form_are_taken() -> None:
    for place in ("db", "db:5432", "[::1]:5432", "ann:s3@cret@a:1,b:2", "", "%2Frun%2Fpg"):
        store_at(f"postgresql://{place}/x")


@pytest.mark.parametrize(
    "address", ["postgresql://[::1/db", "redis://ada:secret@[::1", "sqlite://["]
)
def test_what_is_no_url_is_refused_and_not_repeated(address: str) -> None:
    for open_at in (store_at, cells_at, without_password, sqlite_path, postgres_place):
        with pytest.raises(BadAddress) as refused:
            open_at(address)
        assert "secret" not in str(refused.value)


def test_a_kind_of_store_that_there_is_not_is_named_without_a_password() -> None:
    with pytest.raises(BadAddress, match=r"'signup\.db' is no kind of store"):
        store_at("signup.db")
    with pytest.raises(BadAddress) as refused:
        store_at("my_postgres://ada:secret@host/db")
    assert "secret" not in str(refused.value)
