"""The list of processes: filters that are the address, counts up to a bound, and asking many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from outlive.dashboard.copying import copies_of_list
from outlive.kinds.processes import STATUSES
from outlive.kinds.processes.census import UNFINISHED

if TYPE_CHECKING:
    from outlive.dashboard.rendering import Desk, Sight
    from outlive.errors import OutliveError
    from outlive.kinds.processes.bulk import Preview, Report
    from outlive.kinds.processes.search import Narrowed

PAGE_ITEMS = 50
VERBS = (
    ("cancel", "cancel"),
    ("pause", "pause"),
    ("resume", "resume"),
    ("retry", "retry what gave up"),
    ("retry_now", "retry at once"),
    ("deadline", "change the deadline"),
)
"""What many can be asked, and how it is said."""
BULK_TAKES = frozenset(
    "status type version limit startedSince startedUntil changedSince changedUntil".split()
)
"""By what many are chosen, beside tags."""


class Asked(Struct, frozen=True):
    """What the list is asked for. `given`: as it stands in the address."""

    status: str | None
    type: str | None
    limit: int
    cursor: str
    given: dict[str, str]
    narrowed: Narrowed
    sought: str = ""
    """What was searched for and is nowhere."""


async def processes(
    desk: Desk,
    sight: Sight,
    asked: Asked,
    lessons: Callable[[], list[str]] = list,
    refusal: OutliveError | None = None,
) -> str:
    """The page. Raises what `Outlive.processes` raises."""
    census = await desk.census()
    items, cursor = list[Any](), ""
    bounded = cut = False
    if asked.sought:
        pass  # it is nowhere
    elif asked.given.get("unfinished") and not asked.status:
        items, cut = await _unfinished(desk, asked)
    else:
        page = await desk.app.processes(
            asked.status, asked.type, asked.limit, asked.cursor, **asked.narrowed
        )
        items, cursor = page
        bounded = getattr(page, "bounded", False)
    kept = {n: value for n, value in asked.given.items() if value and n not in ("cursor", "q")}
    tags = [f"{n.removeprefix('tag.')}={v}" for n, v in kept.items() if n.startswith("tag.")]
    return desk.render(
        "processes.html",
        sight,
        asked=asked,
        items=items,
        more=cursor,
        bounded=bounded,
        cut=cut,
        first=not asked.cursor,
        kept=kept,
        tag=tags[0] if tags else "",
        narrowed=bool(kept),
        sought=asked.sought,
        facets=[(s, census.counts[s]) for s in STATUSES if census.counts[s].number],
        statuses=STATUSES,
        types=sorted({*desk.app.definitions, *(one.type for one in census.standing)}),
        lessons=[] if items else lessons(),
        copied=[] if asked.sought else copies_of_list(sight, kept, desk.app),
        verbs=VERBS,
        many_refused=many_refused({**kept, "q": asked.sought} if asked.sought else kept),
        refusal=refusal,
    )


async def _unfinished(desk: Desk, asked: Asked) -> tuple[list[Any], bool]:
    """The newest that have not ended: of each status so many as fit on a page, and whether there
    are more."""
    found, more = list[Any](), False
    for status in UNFINISHED:
        page = await desk.app.processes(status, asked.type, asked.limit, "", **asked.narrowed)
        items, cursor = page
        found += items
        more = more or bool(cursor)
    found.sort(key=lambda item: item.started, reverse=True)
    return found[: asked.limit], more or len(found) > asked.limit


def many_refused(kept: Mapping[str, str]) -> str:
    """Why all that match cannot be asked as they are filtered; empty: they can."""
    tagged = any(name.startswith("tag.") for name in kept)
    if not kept.get("status") and not kept.get("type") and not tagged:
        return "Filter by a status, a type or a tag first: everything at once is asked of nobody."
    beside = not_chosen_by(kept)
    return f"Many are not chosen by {', '.join(beside)}; take that away." if beside else ""


def not_chosen_by(given: Iterable[str]) -> list[str]:
    """Those of the parameters of a list by which a bulk call cannot choose."""
    return sorted(it for it in given if it not in BULK_TAKES and not it.startswith("tag."))


def many(
    desk: Desk,
    sight: Sight,
    preview: Preview | None = None,
    report: Report | None = None,
    refusal: OutliveError | None = None,
    why: str = "",
) -> str:
    """Which would be asked, or what came of it; where that is not all, `why` is said again."""
    verb = preview.verb if preview is not None else report.verb if report is not None else ""
    return desk.render(
        "many.html", sight, preview=preview, report=report, refusal=refusal, verb=verb, why=why
    )
