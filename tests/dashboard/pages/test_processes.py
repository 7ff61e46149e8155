"""The list, and when many can be asked."""

from __future__ import annotations

import pytest
from tests.web.fake import Fake

from outlive.clock import ManualClock
from outlive.dashboard.pages.processes import VERBS, Asked, many, many_refused, processes
from outlive.dashboard.rendering import Desk, Sight
from outlive.doors.bulk import BULK_VERBS
from outlive.kinds.processes.bulk import Preview, Report

NONE = dict.fromkeys(("status", "type", "version", "startedSince", "startedUntil"), "")


def test_every_verb_of_many_is_offered() -> None:
    assert {verb for verb, _ in VERBS} == set(BULK_VERBS)


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({}, "everything at once"),
        ({"version": "2"}, "everything at once"),
        ({"status": "stuck"}, ""),
        ({"type": "order", "version": "2"}, ""),
        ({"tag.customer": "c", "startedSince": "2026-11-22T07:00:00Z"}, ""),
        ({"startedSince": "2026-11-22T07:00:00Z"}, "everything at once"),
        ({"status": "stuck", "unfinished": "1"}, "not chosen by unfinished"),
    ],
)
def test_many_are_asked_only_by_what_a_bulk_call_takes(kept: dict[str, str], said: str) -> None:
    found = many_refused(kept)
    assert said in found if said else found == ""


async def test_unfinished_processes_of_every_status_are_merged_newest_first() -> None:
    fake = Fake()
    for number, status in enumerate(("waiting", "done", "stuck", "running")):
        fake.add(f"reg_{number}", "register", status=status)
    desk = Desk(fake, ManualClock())  # type: ignore[arg-type]
    asked = Asked(None, None, 50, "", {**NONE, "unfinished": "1"}, {})
    text = await processes(desk, Sight(), asked)
    places = [text.index(f">reg_{number}<") for number in (3, 2, 0)]
    assert places == sorted(places) and ">reg_1<" not in text


async def test_what_was_sought_and_not_found_is_no_choice_of_many() -> None:
    fake = Fake()
    fake.add("reg_0", "register", status="stuck")
    desk = Desk(fake, ManualClock())  # type: ignore[arg-type]
    given = {**NONE, "status": "stuck", "q": "nobody", "tag": "city=rome"}
    asked = Asked("stuck", None, 50, "", given, {}, "nobody")
    text = await processes(desk, Sight(), asked)
    assert "Nothing is called" in text and ">reg_0<" not in text
    assert "Many are not chosen by" in text and 'action="/outlive/many"' not in text
    assert "outlive process list" not in text, "it would list what the page does not"
    found = Asked("stuck", None, 50, "", {**NONE, "status": "stuck"}, {})
    assert 'action="/outlive/many"' in await processes(desk, Sight(), found)


async def test_a_status_chosen_among_the_unfinished_shows_that_status_alone() -> None:
    fake = Fake()
    for number, status in enumerate(("waiting", "stuck")):
        fake.add(f"reg_{number}", "register", status=status)
    desk = Desk(fake, ManualClock())  # type: ignore[arg-type]
    every = Asked(None, None, 50, "", {**NONE, "unfinished": "1"}, {})
    text = await processes(desk, Sight(), every)
    assert 'href="/outlive/processes?status=stuck"' in text
    assert '<a href="/outlive/processes">any status</a>' in text, "it leads to all of them"
    one = Asked("stuck", None, 50, "", {**NONE, "unfinished": "1", "status": "stuck"}, {})
    text = await processes(desk, Sight(), one)
    assert ">reg_1<" in text and ">reg_0<" not in text


@pytest.mark.parametrize(("limit", "is_cut"), [(1, True), (2, True), (3, False)])
async def test_a_list_of_the_unfinished_says_when_it_is_cut(limit: int, is_cut: bool) -> None:
    fake = Fake()
    for number, status in enumerate(("waiting", "stuck", "stuck", "done")):
        fake.add(f"reg_{number}", "register", status=status)
    desk = Desk(fake, ManualClock())  # type: ignore[arg-type]
    asked = Asked(None, None, limit, "", {**NONE, "unfinished": "1"}, {})
    assert ("choose a status" in await processes(desk, Sight(), asked)) is is_cut


def test_a_preview_escapes_and_asks_for_a_reason() -> None:
    desk = Desk(Fake(), ManualClock())  # type: ignore[arg-type]
    text = many(desk, Sight(seal="s"), Preview("t", "retry_now", 12, ("a<b",), False, 0))
    assert "a&lt;b" in text and "Retry now 12 processes?" in text
    assert "and 11 more" in text and 'name="why" required' in text


def test_what_is_not_asked_yet_is_shown_as_progress_with_a_way_to_go_on() -> None:
    desk = Desk(Fake(), ManualClock())  # type: ignore[arg-type]
    part, whole = (Report("t", "pause", 900, n, n - 1, 1, ()) for n in (500, 900))
    text = many(desk, Sight(seal="s"), report=part, why="a <strike>")
    assert '<progress max="900" value="500"' in text and 'action="/outlive/many/t"' in text
    assert "500 of 900 so far" in text and 'value="a &lt;strike&gt;"' in text
    assert "<progress" not in many(desk, Sight(), report=whole, why="x")
