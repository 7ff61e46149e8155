"""Excerpts: what sessions, requests, limits and breakers keep, as far as somebody looks at it.

A space of cells may have millions of them, and who looks at a page wants the first few and one that
can be named. So each look here is one read of a named number of cells, from a place on:

    sessions_listed · requests_listed     the first in the order of their keys, which are digests:
                                          a sample, and every one of them page by page
    requests_unknown · requests_of        by the marks that the kind keeps: those nobody knows the
                                          outcome of, those of one principal
    limit_uses · slot_uses · breaker_lines    the first keys of what is declared

What a line shows of a session is a *hint*: the first characters of what its id hashes to. By a
longer one (`NAMED_CHARACTERS`) it is named to `session_key`. Attributes, and what was answered to a
request, are counted and never shown.

Not promised: that a list is of one moment, or that it is complete; each says where it goes on.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from outlive.clock import MICROS
from outlive.errors import OutliveError
from outlive.kinds.breakers.standing import (
    BREAKERS,
    NEW,
    SPACE,
    Note,
    Standing,
    read,
    ref_of,
    state_of,
)
from outlive.kinds.ratelimits.algorithms import read_state, used
from outlive.kinds.ratelimits.deciding import SPACES
from outlive.kinds.ratelimits.slots import read_holders
from outlive.kinds.requests.decisions import ONCE, UNKNOWN_MARK, WHO_MARK
from outlive.kinds.requests.decisions import Place as RequestPlace
from outlive.kinds.requests.decisions import Record as Request
from outlive.kinds.requests.decisions import read_record as read_request
from outlive.kinds.sessions.decisions import SESSIONS, Load, Look, Record, hint_of, read_record

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.doors.ratelimits import RateLimiter, SlotKeeper
    from outlive.doors.requests import Requests
    from outlive.doors.sessions import Sessions
    from outlive.runtime.dependencies import Dependency, Part
    from outlive.store import CellStore

LINES_MAX = 50
"""Sessions or requests of one look."""
USES_MAX = 200
"""Keys of one quota, slots of one name, and parts of all dependencies, that are looked at."""
NAMED_CHARACTERS = 16
"""Characters of a session's key by which it is named in an address or a form."""
_BEHIND = "g"
"""Comes behind every hexadecimal digit."""


class SessionLine(Struct, frozen=True):
    """One session, without anything by which somebody could be it. Times are microseconds."""

    hint: str
    named: str
    subject: str
    made: int
    seen: int
    idle: int
    """When it ends if it is not seen again."""
    end: int
    """When it ends at the latest."""
    agent: str
    place: str
    attributes: int
    bytes: int


class RequestLine(Struct, frozen=True):
    """One idempotency key: who asked for what, and what is known of it; not what was answered."""

    name: str
    record: Request
    is_over: bool
    """Whether it says `running` and its lease has ended: nobody carries it out any more."""
    bytes: int


class UseLine(Struct, frozen=True):
    """What is used of a quota, or held of slots, under one key."""

    key: str
    used: int
    most: int
    clear: int | None
    """When nothing of it is left, by the store's clock; None: not known."""


class BreakerLine(Struct, frozen=True):
    """How a dependency, or one part of it, stands for all instances, and what this one has seen."""

    key: str
    part: str
    standing: Standing
    state: str
    since: Note | None
    """The last time it changed by itself."""
    probing: int
    window: tuple[int, int, int]
    """Calls, failures and slow ones that all instances have reported lately."""
    lately: tuple[int, int, int]
    """The same, of this instance."""
    passed: int
    refused: int
    under_way: int
    alone: str


# --- sessions -------------------------------------------------------------------------------------


async def sessions_listed(sessions: Sessions, after: str = "") -> tuple[list[SessionLine], str]:
    """The first `LINES_MAX` sessions behind `after`, and where to go on (empty: at the end).

    Raises `StoreRefused` where the store cannot look through a space, and what it raises.
    """
    store = await sessions._ground.demand("scan")
    cells = await store.scan(SESSIONS, after + _BEHIND if after else "", LINES_MAX + 1)
    lines = [_session(sessions, cell.key, read_record(cell.value)) for cell in cells[:LINES_MAX]]
    return lines, lines[-1].named if len(cells) > LINES_MAX else ""


async def sessions_of(sessions: Sessions, subject: str) -> list[SessionLine]:
    """The open sessions of `subject`, the last seen first; in two reads, however many they are."""
    keys = (await sessions.ask(Look(subject))).keys
    replies = await asyncio.gather(*(sessions.ask(Load(key)) for key in keys))
    found = [
        _session(sessions, key, reply.found)
        for key, reply in zip(keys, replies, strict=True)
        if reply.found is not None
    ]
    return sorted(found, key=lambda line: -line.seen)


async def session_key(sessions: Sessions, named: str) -> str:
    """The key of the session that a line has `named`; empty when there is none, or not one."""
    store = await sessions._ground.demand("scan")
    found = [cell.key for cell in await store.scan(SESSIONS, named, 2)]
    found = [key for key in found if key.startswith(named)]
    return found[0] if len(found) == 1 and len(named) >= NAMED_CHARACTERS else ""


def _session(sessions: Sessions, key: str, record: Record) -> SessionLine:
    size = sum(len(name.encode()) + len(bytes(raw)) for name, raw in record.data.items())
    kind = sessions.kind
    end = min(record.end, record.made + kind.absolute)
    return SessionLine(
        hint_of(key), key[:NAMED_CHARACTERS], record.subject, record.made, record.seen,
        kind.ends(record), end, record.agent, record.place, len(record.data), size,
    )  # fmt: skip


# --- requests -------------------------------------------------------------------------------------


async def requests_listed(requests: Requests, after: str = "") -> tuple[list[RequestLine], str]:
    """The first `LINES_MAX` keys behind `after`, and where to go on (empty: at the end)."""
    store = await requests._ground.demand("scan")
    cells = await store.scan(ONCE, after, LINES_MAX + 1)
    now = await store.now()
    lines = [_request(cell.key, cell.value, now) for cell in cells[:LINES_MAX]]
    return lines, lines[-1].name if len(cells) > LINES_MAX else ""


async def requests_unknown(requests: Requests) -> list[RequestLine]:
    """Those of which nobody knows what came, the oldest first, `LINES_MAX` of them."""
    return await _marked(requests, UNKNOWN_MARK, "", "~")


async def requests_of(requests: Requests, principal: str, tenant: str = "") -> list[RequestLine]:
    """The keys of one principal, `LINES_MAX` of them."""
    who = RequestPlace("", principal, tenant).who
    return await _marked(requests, WHO_MARK, who, who)


async def _marked(requests: Requests, mark: str, low: str, high: str) -> list[RequestLine]:
    store = await requests._ground.demand("select")
    found = await store.select((ONCE,), mark, low, high, LINES_MAX)
    now = await store.now()
    return [_request(cell.key, cell.value, now) for _, cell in found]


def _request(name: str, value: bytes, now: int) -> RequestLine:
    record = read_request(value)
    size = 0 if record.answer is None else len(record.answer.body)
    over = record.state == "running" and record.lease <= now
    return RequestLine(name, record, over, size)


# --- limits ---------------------------------------------------------------------------------------


async def limit_uses(limiter: RateLimiter) -> list[UseLine]:
    """What is used of each quota under its first `USES_MAX` keys, the fullest first."""
    if limiter.scope == "local":
        now = limiter._now()
        found = [
            UseLine(str(key), *used(state, now), None)
            for key, state in islice(limiter._local.items(), USES_MAX)
        ]
        return _fullest(found)
    store = await _looking(limiter._place)
    now, found = await store.now(), []
    for quota in limiter.quotas:
        first = f"{quota.name}/"
        for cell in await store.scan(SPACES[limiter._storage], first, USES_MAX):
            if cell.key.startswith(first):
                found.append(UseLine(cell.key, *used(read_state(cell.value), now), cell.due))
    return _fullest(found)


async def slot_uses(keeper: SlotKeeper) -> list[UseLine]:
    """Who holds slots: for each of the first `USES_MAX` keys how many, the fullest first."""
    store = await _looking(keeper._place)
    now, first, found = await store.now(), f"{keeper.slots.name}/", []
    for cell in await store.scan(SPACES[keeper._storage], first, USES_MAX):
        if cell.key.startswith(first):
            held = sum(until > now for until in read_holders(cell.value).values())
            found.append(UseLine(cell.key, held, keeper.slots.count, cell.due))
    return _fullest(found)


def _fullest(lines: list[UseLine]) -> list[UseLine]:
    return sorted((line for line in lines if line.used), key=lambda it: -it.used / it.most)


async def _looking(place: Any) -> CellStore:
    """The store of `place`, if one can look through it. Raises `StoreRefused`."""
    from outlive.errors import StoreRefused

    store: CellStore = (await place.applier()).store
    if "scan" in store.lacks:
        raise StoreRefused(f"This needs more of a store: {store.lacks['scan']}.")
    return store


# --- breakers -------------------------------------------------------------------------------------


async def breaker_lines(app: Outlive) -> dict[str, list[BreakerLine]]:
    """For each dependency how it and its parts stand: what any instance has ever reported, and what
    is known here only. Where the store cannot be asked, what this instance believes."""
    kept: dict[str, Standing] = {}
    now = 0
    try:
        store = await _looking(app.place(BREAKERS))
        cells = await store.scan(SPACE, "", USES_MAX)
        kept = {cell.key: read(cell.value) for cell in cells}
        now = await store.now()
    except (OutliveError, TimeoutError):
        pass  # each part says itself that it decides alone
    found = {}
    for name, dependency in app.dependencies.items():
        parts = dict(dependency.parts)
        names = {key.partition("/")[2] for key in kept if key.startswith(f"{name}/")} | set(parts)
        found[name] = [
            _breaker(dependency, part, parts.get(part), kept, now) for part in sorted(names)
        ]
    return found


async def has_part(app: Outlive, dependency: Dependency, part: str) -> bool:
    """Whether `part` is one that this instance has called, or that any has reported. Raises what
    the store raises."""
    if part in dependency.parts:
        return True
    store = (await app.place(BREAKERS).applier()).store
    return (await store.read((ref_of(f"{dependency.name}/{part}"),)))[0] is not None


def _breaker(
    dependency: Dependency, name: str, part: Part | None, kept: dict[str, Standing], now: int
) -> BreakerLine:
    key = f"{dependency.name}/{name}" if name else dependency.name
    gate = None if part is None else part.gate
    standing = kept.get(key) or (NEW if gate is None else gate.standing)
    oldest = now - round(dependency.breaker.window_seconds * MICROS)
    slots = [slot for slot in standing.slots if slot.begins > oldest]
    window = (
        sum(slot.calls for slot in slots), sum(slot.failures for slot in slots),
        sum(slot.slow for slot in slots),
    )  # fmt: skip
    return BreakerLine(
        key, name, standing, state_of(standing), standing.turns[-1] if standing.turns else None,
        sum(right.ends > now for right in standing.rights), window,
        (0, 0, 0) if gate is None else gate.windows.lately(gate.now()),
        0 if gate is None else gate.passed, 0 if gate is None else gate.refused,
        0 if part is None else part.under_way, "" if gate is None else gate.alone,
    )  # fmt: skip
