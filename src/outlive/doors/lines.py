"""A start that must stand in line, and where it stands: on any node, and without one.

What waits in a line is counted about once in `COUNT_SECONDS`, by each process of the operating
system for itself; between two counts it counts its own starts. So a backlog may pass its limit by
what the others have started in that time, and by no more.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from outlive.errors import Overloaded, QuotaExceeded
from outlive.kinds.processes import Definition, View, limits
from outlive.kinds.processes.cells import Head
from outlive.kinds.processes.limits import Standing, lines_of
from outlive.kinds.processes.pending import PLAIN, Wish, queued
from outlive.model import Batch, Put, Ref, Require

if TYPE_CHECKING:
    from typing import Any

    from outlive.app import Outlive
    from outlive.doors.opened import Opened

COUNT_SECONDS = 1.0
COUNT_SECONDS_PER_TICKET = 1 / 20_000
"""A long line is counted more seldom, so that counting stays cheap."""
COUNTS_MAX = 10_000
"""Lines whose length a process remembers."""
AHEAD_MAX = 1000
"""How many before one that waits are counted when it is looked at."""
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 5.0, 300.0


class Count(Struct):
    """How many waited in a line when it was counted last, and what was put into it here since."""

    counted: int = 0
    at: float = -inf
    made: int = 0
    """Tickets that were put into it here, ever."""
    since: int = 0
    """How many of them when the counting began: some of the others may be counted twice."""
    coming: int = 0
    """Tickets that are being put into it."""

    @property
    def tickets(self) -> int:
        return self.counted + self.made - self.since + self.coming


async def in_line(
    app: Outlive,
    made: Definition,
    ref: Ref,
    raw: bytes,
    value: Any,
    request: Put | None,
    wish: Wish = PLAIN,
) -> None:
    """Put a process into the first of its lines; durable when this returns.

    Raises `Overloaded` or `QuotaExceeded` when too many wait in one of them, `Conflict` when
    `request` is there already; then nothing was stored.
    """
    runtime, lines = app._runtime, lines_of(made, value)
    counts = [await _counted(app, line, made.backlog_max) for line in lines]
    for at, count in enumerate(counts):  # from here to `coming` nobody else looks
        if count.tickets >= made.backlog_max:
            if runtime is not None:
                why = "backlog" if made.limits[at].per is None else "quota"
                runtime.activations.count_refused(why)
            raise _refusal(made, at, lines[at], count.tickets)
    counts[0].coming += 1
    try:
        await _put(app, made, ref, raw, lines[0], request, wish)
        counts[0].made += 1
    finally:
        counts[0].coming -= 1


async def _put(
    app: Opened, made: Definition, ref: Ref, raw: bytes, first: str, request: Put | None, wish: Wish
) -> None:
    store, runtime = app.store, app._runtime
    here = runtime.activations.lines if runtime is not None else None
    puts = queued(
        made,
        ref.key,
        raw,
        await store.now(),
        store.shards,
        wish,
        bell_due=None if here is None else here.bell_due(first),
        ringer="" if runtime is None else runtime.name,
    )
    requires = [Require(ref, 0)]
    if request is not None:
        puts = (*puts, request)
        requires.append(Require(request.ref, 0))
    batch = Batch(require=tuple(requires), put=puts)
    if runtime is None or here is None:
        await store.commit(batch)
    else:
        runtime.activations.demand_room()
        await runtime.committer.submit(batch)
        here.ring(first)


async def _counted(app: Opened, line: str, most: int) -> Count:
    """How many wait in `line`.

    Counted again now and then; and when it seems full only because of what was put into it here,
    for others have had their turn since. A line that was found full is full for `COUNT_SECONDS`.
    """
    counts, now = app._counts, app._clock.boot()
    found = counts.get(line)
    if found is None:
        if len(counts) >= COUNTS_MAX:
            counts.clear()
        found = counts[line] = Count()
    age, cost = now - found.at, found.counted * COUNT_SECONDS_PER_TICKET
    seems_full = found.tickets >= most > found.counted
    again = age >= cost or most <= AHEAD_MAX if seems_full else age >= COUNT_SECONDS + cost
    if again:
        begun = found.made
        found.counted = await count_of(app, line)
        found.since, found.at = begun, now
    return found


async def count_of(app: Opened, line: str) -> int:
    """How many tickets there are in `line`."""
    after, found = "", 0
    while page := await app.store.scan(limits.tickets_of(line), after, AHEAD_MAX):
        found += len(page)
        after = page[-1].key
        if len(page) < AHEAD_MAX:
            break
    return found


def _refusal(made: Definition, at: int, line: str, waiting: int) -> Overloaded | QuotaExceeded:
    limit = made.limits[at]
    seconds = RETRY_SECONDS_MIN
    if limit.rate is not None:  # when a tenth of them will have had their turn
        seconds = waiting / 10 / limit.rate.count * limit.rate.per_seconds
    seconds = min(max(seconds, RETRY_SECONDS_MIN), RETRY_SECONDS_MAX)
    if limit.per is None:
        said = f"{waiting} processes of type {made.name} wait for their turn; nothing was started."
        return Overloaded(said, retry_after=round(seconds))
    said = f"{waiting} processes of type {made.name} wait under this key; nothing was started."
    return QuotaExceeded(said, retry_after=round(seconds))


async def with_standing(app: Opened, view: View, head: Head) -> View:
    """`view` with the place of a process that stands in line."""
    if view.status != "queued" or not head.lines:
        return view
    return replace(view, standing=await standing(app, view.id, head))


async def standing(app: Opened, id: str, head: Head) -> Standing | None:
    """Where a process stands; None when it has its turn."""
    store, place = app.store, f"{head.place}/{id}"
    refs = [Ref(limits.tickets_of(line), place) for line in head.lines]
    for line, cell in zip(head.lines, await store.read(refs), strict=True):
        if cell is None:
            continue
        ticket = limits.read_ticket(cell.value)
        made = [made for made in app._all.values() if made.name == head.type]
        newest = max(made, key=lambda made: made.version, default=None)
        declared = newest is not None and ticket.at < len(newest.limits)
        terms = ticket.terms[ticket.at] if ticket.at < len(ticket.terms) else limits.Terms()
        if newest is not None and declared:
            terms = newest.limits[ticket.at].terms
        ahead = await store.scan(limits.tickets_of(line), limit=AHEAD_MAX)
        running = 0
        if terms.concurrency is not None:
            places = await store.scan(limits.places_of(line), limit=terms.concurrency)
            running = len(places)
        return limits.standing_of(line, place, ahead, AHEAD_MAX, running, terms)
    return None
