"""What a code means and what to do: the pages that every problem's `type` leads to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outlive.dashboard.rendering import Desk, Sight
    from outlive.errors import OutliveError


def problem(desk: Desk, sight: Sight, kind: type[OutliveError], detail: str = "") -> str:
    """One kind of problem; `detail` is what happened just now, if this is an answer."""
    told = (kind.__doc__ or "").strip().split("\n\n")[1:]
    paragraphs = [" ".join(text.split()) for text in told]
    return desk.render("problem.html", sight, kind=kind, paragraphs=paragraphs, detail=detail)


def problems(desk: Desk, sight: Sight, kinds: Iterable[type[OutliveError]]) -> str:
    """The list of every kind of problem."""
    found = sorted(kinds, key=lambda kind: kind.code)
    return desk.render("problems.html", sight, kinds=found)
