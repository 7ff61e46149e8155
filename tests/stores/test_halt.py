"""A store that may not be served says why, and where the other end is."""

from __future__ import annotations

import pytest

from outlive.errors import StoreIncomplete, StoreMoved, StoreNotEmpty
from outlive.stores.halt import (
    Halt,
    demand_filling,
    demand_mine,
    demand_service,
    frozen,
    halt_of,
)


def test_a_store_without_a_halt_is_served() -> None:
    demand_service("store.db", None)
    assert halt_of(None) is None


@pytest.mark.parametrize("reason", ["moving", "moved"])
def test_a_store_that_went_elsewhere_names_the_place(reason: str) -> None:
    with pytest.raises(StoreMoved, match=r"store\.db .*moved to postgresql://db/app"):
        demand_service("store.db", (reason, "postgresql://db/app", "t"))


@pytest.mark.parametrize("reason", ["filling", "filled"])
def test_a_store_that_is_not_whole_names_where_it_is_filled_from(reason: str) -> None:
    with pytest.raises(StoreIncomplete, match="from the archive monday"):
        demand_service("store.db", (reason, "the archive monday", "t"))


def test_a_frozen_store_says_that_nothing_was_written() -> None:
    assert "Nothing was written" in frozen("store.db").detail
    assert halt_of(("moved", "there", "t")) == Halt("moved", "there", "t")


def test_only_the_fill_that_was_begun_writes() -> None:
    demand_filling("here", ("filling", "there", "t"), "t")
    for row in (None, ("filling", "there", "other"), ("filled", "there", "t")):
        with pytest.raises(StoreNotEmpty, match="by somebody else meanwhile"):
            demand_filling("here", row, "t")


def test_a_move_freezes_what_is_free_and_ends_only_what_it_froze() -> None:
    demand_mine("here", None, "moving", "t")
    demand_mine("here", ("moving", "there", "t"), "moved", "t")
    with pytest.raises(StoreMoved, match="given up meanwhile"):
        demand_mine("here", None, "moved", "t")
    with pytest.raises(StoreMoved, match="already on its way to there"):
        demand_mine("here", ("moving", "there", "other"), "moving", "t")
