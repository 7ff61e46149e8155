"""The other kinds of state, a page each: sessions, requests, limits, breakers, caches.

What a page shows was looked at by `outlive.doors.excerpts`, in one read of a named number of cells;
here it is put into words and columns. A kind that the application does not declare has its page
too, which says in a few lines how it would be declared.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from outlive.clock import MICROS

if TYPE_CHECKING:
    from outlive.dashboard.rendering import Desk, Sight
    from outlive.errors import OutliveError

ENTRIES_LOOKED_AT = 1000
"""Values of a cache whose age is looked at."""
USES_SHOWN = 20
NOTES_SHOWN = 20
DONE = {
    "sessions/revoke": "The session is signed out; what is under way with it is refused.",
    "sessions/revoke-all": "All sessions of the subject are signed out.",
    "requests/happened": "The answer is recorded; repetitions get it.",
    "requests/free": "The key is free: the next request with it is a first one.",
    "requests/expire": "The key is forgotten: the next request with it is a first one.",
    "limits/reset": "What was used under the key is forgotten.",
    "breakers/force-open": "Nobody calls it, on any instance, until it is released.",
    "breakers/force-closed": "Everybody calls it, whatever happens, until it is released.",
    "breakers/release": "It is held no longer, and stands as its calls go.",
    "breakers/reset": "It is closed, and counts anew.",
    "caches/key": "The value is invalidated everywhere: the next call loads it.",
    "caches/tag": "All values with the tag are invalidated everywhere: the next calls load them.",
    "caches/all": "All values are invalidated everywhere: the next calls load them.",
}
"""What a page says after an action."""


class Shown(Struct, frozen=True, kw_only=True):
    """What every one of these pages is told beside what it shows."""

    refusal: OutliveError | None = None
    """Why the last action was not done."""
    done: str = ""
    """Which action was done."""
    missing: str = ""
    """Why the store could not be looked at."""


class RouteLine(Struct, frozen=True):
    """The keys of one route among those that were looked at."""

    route: str
    mode: str
    running: int
    done: int
    unknown: int
    oldest: int
    """When the oldest that has no answer was made; 0: there is none."""


class CacheLine(Struct, frozen=True):
    """One cache as this instance has it."""

    name: str
    holds: str
    signature: str
    asked: int
    rate: float | None
    """Hits among questions; None: nobody has asked."""
    entries: int
    entries_max: int
    bytes: int
    bytes_max: int
    oldest: float | None
    """Seconds since the oldest value that was looked at was loaded."""
    stale: int
    joined: int
    loads: int
    failed: int
    found: int
    gone: tuple[tuple[str, int], ...]
    is_stamped: bool
    has_tags: bool
    lives: float


def _page(desk: Desk, sight: Sight, kind: str, shown: Shown, **context: Any) -> str:
    return desk.render(
        f"{kind}.html", sight, refusal=shown.refusal, missing=shown.missing,
        done=DONE.get(f"{kind}/{shown.done}", ""), **context,
    )  # fmt: skip


def sessions(
    desk: Desk,
    sight: Sight,
    shown: Shown,
    doors: Sequence[Any],
    lines: Sequence[Any],
    asked: Mapping[str, str],
    more: str,
    first: bool,
    kept: Sequence[int],
    place: int,
) -> str:
    """Who is signed in: the sessions of a subject, or the first of all. `kept`: which of `doors`
    keep them in a store, `place` the one that is shown."""
    return _page(
        desk, sight, "sessions", shown, doors=doors, lines=lines, subject=asked["subject"],
        asked=asked, more=more, first=first, kept=kept, place=place,
    )  # fmt: skip


def requests(
    desk: Desk,
    sight: Sight,
    shown: Shown,
    doors: Sequence[Any],
    unknown: Sequence[Any],
    lines: Sequence[Any],
    asked: Mapping[str, str],
    more: str,
) -> str:
    """Idempotency keys: what nobody knows the outcome of, and the first of all others."""
    told = sum((door.counts for door in doors[1:]), doors[0].counts) if doors else {}
    return _page(
        desk, sight, "requests", shown, doors=doors, unknown=unknown, lines=lines, asked=asked,
        more=more, routes=routes_of(lines), told=told,
    )  # fmt: skip


def routes_of(lines: Sequence[Any]) -> list[RouteLine]:
    """How many of `lines` each route has, in flight, answered and unknown."""
    found: dict[tuple[str, str], list[Any]] = {}
    for line in lines:
        place = line.record.place
        route = f"{place.method} {place.route}".strip() or "app.once"
        found.setdefault((route, line.record.mode), []).append(line.record)
    made = []
    for (route, mode), records in sorted(found.items()):
        counts = Counter(one.state for one in records)
        oldest = min((one.made for one in records if one.state != "done"), default=0)
        numbers = counts["running"], counts["done"], counts["unknown"]
        made.append(RouteLine(route, mode, *numbers, oldest))
    return made


def limits(
    desk: Desk, sight: Sight, shown: Shown, limiters: Sequence[Any], keepers: Sequence[Any]
) -> str:
    """Rate limits and slots: pairs of what is declared and the fullest keys of it."""
    return _page(
        desk, sight, "limits", shown, limiters=limiters, keepers=keepers, uses_shown=USES_SHOWN
    )


def breakers(
    desk: Desk, sight: Sight, shown: Shown, parts: Mapping[str, Sequence[Any]]
) -> str:  # fmt: skip
    """What is called and may be down."""
    found = [
        (desk.app.dependencies[name], lines, audit_of(lines))
        for name, lines in sorted(parts.items())
    ]
    return _page(desk, sight, "breakers", shown, found=found)


def audit_of(lines: Sequence[Any]) -> list[tuple[str, Any]]:
    """What operators did and how it changed by itself, the newest first, with the part's name."""
    notes = [
        (line.part, note)
        for line in lines
        for note in (*line.standing.controls, *line.standing.turns)
    ]
    return sorted(notes, key=lambda pair: -pair[1].time)[:NOTES_SHOWN]


def caches(desk: Desk, sight: Sight, shown: Shown) -> str:
    """The caches of this instance."""
    now = desk.clock.boot()
    found = [cache_line(cache, now) for _, cache in sorted(desk.app.caches.items())]
    return _page(desk, sight, "caches", shown, caches=found, looked_at=ENTRIES_LOOKED_AT)


def cache_line(cache: Any, now: float) -> CacheLine:
    """What there is to say of one cache at `now`."""
    policy, counts, terms = cache.policy, cache.counts, cache.terms
    asked = policy.hits + policy.misses
    some = policy.some(ENTRIES_LOOKED_AT)
    holds = terms.holds
    seconds = f"({holds.seconds:g} s)" if holds.seconds else ""
    return CacheLine(
        cache.name, f"{holds.name}{seconds}", signature_of(cache), asked,
        policy.hits / asked if asked else None, len(policy), terms.bounds.entries, policy.bytes,
        terms.bounds.bytes, max((now - entry.began for entry in some), default=None),
        counts.stale, counts.joined, counts.loads, counts.failed, counts.found,
        tuple(sorted(policy.gone.items())), holds.is_stamped, cache.has_tags,
        terms.life.ttl * MICROS,
    )  # fmt: skip


def signature_of(cache: Any) -> str:
    """How a cached function is called; annotations stand as they are written."""
    return f"{cache.name}{inspect.signature(cache)}".replace("'", "")
