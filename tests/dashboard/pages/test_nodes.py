"""Who owns what, as a page."""

from __future__ import annotations

from tests.web.fake import Fake

from outlive.clock import ManualClock
from outlive.dashboard.pages.nodes import nodes
from outlive.dashboard.rendering import Desk, Sight


async def test_a_shard_whose_node_is_gone_is_said_to_be_and_the_ledger_says_from_whom() -> None:
    desk = Desk(Fake(), ManualClock())  # type: ignore[arg-type]
    text = await nodes(desk, Sight())
    assert 'class="owner-gone"' in text and 'class="alert">gone' in text
    assert "taken from" in text and "6-gone" in text
