"""The list, and when many can be asked."""

from __future__ import annotations

import pytest
from tests.web.fake import Fake

from outlive.clock import ManualClock
from outlive.dashboard.pages.processes import VERBS, Asked, many, many_refused, processes
from outlive.dashboard.rendering import Desk, Sight
from outlive.doors.bulk import BULK_VERBS
from outlive.kinds.processes.bulk import Preview

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
        ({"status": "stuck", "tag.customer": "c"}, "take away: tag.customer"),
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


def test_a_preview_escapes_and_asks_for_a_reason() -> None:
    desk = Desk(Fake(), ManualClock())  # type: ignore[arg-type]
    text = many(desk, Sight(seal="s"), Preview("t", "retry_now", 12, ("a<b",), False, 0))
    assert "a&lt;b" in text and "Retry now 12 processes?" in text
    assert "and 11 more" in text and 'name="why" required' in text
