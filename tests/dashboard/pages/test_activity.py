"""The log as a page."""

from __future__ import annotations

from typing import Any

from tests.web.fake import Fake

from outlive.clock import ManualClock
from outlive.dashboard.pages.activity import activity
from outlive.dashboard.rendering import Desk, Sight
from outlive.kinds.processes.activity import Noted


class Log(Fake):
    def __init__(self, *lines: Noted) -> None:
        super().__init__()
        self.lines = list(lines)

    async def activity(self, limit: int = 50, cursor: str = "") -> tuple[list[Noted], str]:
        return self.lines, "" if cursor else "0123"


async def test_a_line_says_who_what_and_why_and_leads_to_the_process() -> None:
    app: Any = Log(Noted(7, "ann", "skip", "ord_1", "pay", "<by telephone>"))
    text = await activity(Desk(app, ManualClock()), Sight())
    assert "&lt;by telephone&gt;" in text and "/outlive/processes/ord_1" in text
    assert "?cursor=0123" in text and "Newest" not in text
    assert "Newest" in await activity(Desk(app, ManualClock()), Sight(), "0123")


async def test_what_was_asked_of_no_process_leads_to_the_page_of_its_kind() -> None:
    app: Any = Log(
        Noted(7, "ann", "sign out", what="ada", why="lost", kind="sessions"),
        Noted(7, "ann", "pause"),
    )
    text = await activity(Desk(app, ManualClock()), Sight())
    assert 'href="/outlive/sessions">sessions</a>' in text and "<td>many</td>" in text


async def test_an_empty_log_says_how_it_is_filled() -> None:
    app: Any = Log()
    assert "outlive process pause" in await activity(Desk(app, ManualClock()), Sight())
