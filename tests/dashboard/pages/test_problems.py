"""The pages of codes."""

from __future__ import annotations

from tests.web.fake import Fake

from outlive.clock import ManualClock
from outlive.dashboard.pages.problems import problem, problems
from outlive.dashboard.rendering import Desk, Sight
from outlive.errors import Draining, NoSuchProcess


def test_a_code_says_what_happened_and_what_to_do() -> None:
    desk = Desk(Fake(), ManualClock())  # type: ignore[arg-type]
    text = problem(desk, Sight(), NoSuchProcess, "There is no <x>.")
    assert NoSuchProcess.code in text and NoSuchProcess.remedy[:20] in text
    assert "There is no &lt;x&gt;." in text


def test_codes_are_listed_in_order() -> None:
    desk = Desk(Fake(), ManualClock())  # type: ignore[arg-type]
    text = problems(desk, Sight(root="/x"), [NoSuchProcess, Draining])
    codes = sorted((NoSuchProcess.code, Draining.code))
    assert text.index(codes[0]) < text.index(codes[1])
    assert '"/x/outlive/problems/no-such-process"' in text
