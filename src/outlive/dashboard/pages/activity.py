"""Who did what, and why: what somebody with a name has asked in the last 90 days."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outlive.dashboard.rendering import Desk, Sight

LINES = 100


async def activity(desk: Desk, sight: Sight, cursor: str = "") -> str:
    """The page, from `cursor` on."""
    lines, older = await desk.app.activity(LINES, cursor)
    return desk.render("activity.html", sight, lines=lines, older=older, first=not cursor)
