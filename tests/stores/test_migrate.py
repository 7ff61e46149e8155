"""Migrations go forward, once, and never over something another release has written."""

from __future__ import annotations

import pytest

from outlive.errors import NewerSchema, SchemaAltered
from outlive.stores import sql
from outlive.stores.migrate import pending
from outlive.stores.sql import Migration

ONE, TWO = Migration(1, "one", "aa", "-- 1"), Migration(2, "two", "bb", "-- 2")


def test_an_empty_store_needs_all_in_order() -> None:
    assert pending([ONE, TWO], []) == [ONE, TWO]


def test_a_store_needs_what_it_has_not() -> None:
    assert pending([ONE, TWO], [(1, "one", "aa")]) == [TWO]
    assert pending([ONE, TWO], [(2, "two", "bb")]) == [ONE]
    assert pending([ONE, TWO], [(1, "one", "aa"), (2, "two", "bb")]) == []


def test_a_store_of_a_later_release_is_refused_and_the_number_named() -> None:
    with pytest.raises(NewerSchema, match=r"schema 3 \(three\).*up to 2"):
        pending([ONE, TWO], [(1, "one", "aa"), (3, "three", "cc")])


def test_an_edited_migration_is_refused_and_named() -> None:
    with pytest.raises(SchemaAltered, match=r"1 \(one\)"):
        pending([ONE, TWO], [(1, "one", "edited")])


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_shipped_migrations_are_numbered_without_a_hole(database: str) -> None:
    shipped = sql.migrations(database)
    assert [migration.number for migration in shipped] == list(range(1, len(shipped) + 1))
