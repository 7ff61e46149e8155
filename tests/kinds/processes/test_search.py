"""Searches as values: what holds of a line, and by which marks it is looked up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from outlive.errors import TagInvalid
from outlive.kinds.processes import Summary
from outlive.kinds.processes.search import FOREVER, Page, Search, search_of

LINE = Summary("t_1", "t", 2, "done", 100, 200, "", None, {"who": "a", "where": "b"})


@pytest.mark.parametrize(
    "search",
    [
        Search(),
        Search(status="done", type="t", version=2, tags=(("where", "b"), ("who", "a"))),
        Search(started=(100, 101), changed=(200, 201)),
    ],
)
def test_it_holds_when_all_of_it_does(search: Search) -> None:
    assert search.holds(LINE)


@pytest.mark.parametrize(
    "search",
    [
        Search(status="failed"),
        Search(type="u"),
        Search(version=1),
        Search(tags=(("who", "b"),)),
        Search(tags=(("what", "a"),)),
        Search(started=(101, FOREVER)),
        Search(started=(0, 100)),
        Search(changed=(0, 200)),
        Search(changed=(201, FOREVER)),
    ],
)
def test_one_thing_that_does_not_hold_is_enough(search: Search) -> None:
    assert not search.holds(LINE)


def test_a_tag_is_looked_up_before_a_status_and_a_status_before_a_type() -> None:
    assert Search(type="t").marks() == [("process.type", "t ")]
    assert Search(type="t", status="done").marks() == [("process.status", "done ")]
    both = Search(type="t", status="done", tags=(("who", "a b"),)).marks()
    assert both == [("process.tag.who", "a%20b "), ("process.status", "done ")]
    assert Search(version=2).marks() == []


def test_what_has_not_changed_since_a_time_was_started_before_it() -> None:
    assert Search(changed=(0, 50)).bounds() == (0, 49)
    assert Search(started=(3, 40), changed=(0, 50)).bounds() == (3, 39)


def test_a_page_is_a_pair_with_two_names() -> None:
    items, cursor = page = Page([LINE], "c", bounded=True)
    assert (items, cursor) == (page.items, page.cursor) == ([LINE], "c")
    assert page.bounded and not Page([], "").bounded


def test_times_have_a_zone() -> None:
    moment = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    found = search_of(started_since=moment, changed_until=moment + timedelta(seconds=1))
    assert (found.started[0], found.changed[1]) == (1_000_000, 2_000_000)
    with pytest.raises(ValueError, match="has no time zone"):
        search_of(started_since=datetime(2026, 1, 1))
    with pytest.raises(TagInvalid):
        search_of(tags={"who": 1.5})
    assert search_of(tags={"who": "a\nb"}).marks() == [("process.tag.who", "a%0Ab ")]
