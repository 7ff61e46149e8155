"""What a person asks of the small kinds: by what lies in the store, beside a service that runs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from outlive import BreakerOpen, Outlive, Quota, Slots
from outlive.clock import ManualClock
from outlive.doors.desk import Desk
from outlive.errors import InvalidInput, NoSuchRequest, NoSuchState, NotResolvable
from outlive.kinds.caches.rule import exact
from outlive.kinds.requests.decisions import Claim, Place
from outlive.kinds.requests.fingerprints import fingerprints_of_value
from outlive.stores.memory import MemoryStore

DAY = 86_400.0


@pytest.fixture
async def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def app(clock: ManualClock) -> AsyncIterator[Outlive]:
    made = Outlive(MemoryStore(clock=clock), clock=clock)
    async with made:
        yield made


@pytest.fixture
def desk(app: Outlive) -> Desk:
    return Desk(app)


async def signed_in(app: Outlive, subject: str, **options: float) -> str:
    """A new session of `subject`; gives its key."""
    sessions = app.sessions(**options)
    visit = sessions.visit(None)
    visit.sign_in(subject)
    settled = await sessions.settle(None, visit.change(), "a browser")
    held = await sessions.load(settled.id)
    assert held is not None
    return held.key


async def test_sessions_are_found_and_signed_out_whatever_their_clocks(
    app: Outlive, desk: Desk, clock: ManualClock
) -> None:
    key = await signed_in(app, "ada", idle_seconds=30 * DAY, absolute_seconds=60 * DAY)
    clock.advance(20 * DAY)  # longer than the idle time that is usual
    (line,) = await desk.session_lines()
    assert (line.key, line.subject, line.agent) == (key, "ada", "a browser")
    await desk.session_revoke(key, "bob", "lost telephone")
    assert await desk.session_lines() == []
    with pytest.raises(NoSuchState):
        await desk.session_revoke(key)


async def test_a_session_that_has_ended_is_not_shown(
    app: Outlive, desk: Desk, clock: ManualClock
) -> None:
    await signed_in(app, "ada", idle_seconds=120)
    clock.advance(121)
    assert await desk.session_lines("ada") == []


async def test_a_subject_is_signed_out_everywhere_and_nobody_else(app: Outlive, desk: Desk) -> None:
    for subject in ("ada", "ada", "bob"):
        await signed_in(app, subject)
    assert await desk.session_revoke_all("ada") == 2
    assert [line.subject for line in await desk.session_lines()] == ["bob"]


async def test_what_is_used_of_a_limit_is_shown_and_forgotten(app: Outlive, desk: Desk) -> None:
    limiter = app.ratelimits(Quota("daily", 3, per_seconds=DAY), storage="durable")
    for _ in range(3):
        assert await limiter.hit("ada")
    (line,) = await desk.limit_lines()
    assert (line.key, line.what, line.used, line.of) == ("daily/ada", "quota", 3, 3)
    await desk.limit_reset("daily/ada")
    assert await desk.limit_lines() == [] and await limiter.hit("ada")
    with pytest.raises(NoSuchState):
        await desk.limit_reset("daily/eve")


async def test_who_holds_slots_is_counted(app: Outlive, desk: Desk) -> None:
    exports = app.slots(Slots("exports", 2))
    async with exports.hold("acme"):
        (line,) = await desk.limit_lines()
        assert (line.key, line.what, line.used) == ("exports/acme", "slots", 1)
    assert await desk.limit_lines() == []


async def test_a_breaker_that_is_held_open_lets_nobody_through(
    app: Outlive, desk: Desk, clock: ManualClock
) -> None:
    partner = app.dependency("partner")

    @partner.guard()
    async def call() -> int:
        return 1

    assert await call() == 1
    assert (await desk.breaker_control("partner", "force open", "ann", "down")).state == "held open"
    assert (await partner.standing()).forced == "open"
    with pytest.raises(BreakerOpen):
        await call()
    line = await desk.breaker_control("partner", "reset", "ann", "mended")
    assert (line.state, line.why) == ("closed", "reset: mended")
    assert [note.who for note in (await desk.breaker("partner")).controls] == ["ann", "ann"]
    with pytest.raises(NoSuchState):
        await desk.breaker_control("partnre", "reset")
    with pytest.raises(InvalidInput):
        await desk.breaker_control("x" * 129, "force open")


async def test_a_cache_is_made_old_by_key_by_tag_and_as_a_whole(app: Outlive, desk: Desk) -> None:
    loads: list[str] = []

    @app.cache(exact, name="price", tags=lambda what: (f"of {what}",))
    async def price(what: str) -> int:
        loads.append(what)
        return len(loads)

    async def loaded() -> list[str]:
        loads.clear()
        await price("tea")
        await price("milk")
        return loads.copy()

    assert await loaded() == ["tea", "milk"] and await loaded() == []
    await desk.cache_invalidate("price", key=("tea",))
    assert await loaded() == ["tea"]
    await desk.cache_invalidate("price", tag="of milk")
    assert await loaded() == ["milk"]
    await desk.cache_invalidate("price")
    assert await loaded() == ["tea", "milk"]
    assert [line.name for line in await desk.cache_lines()] == ["price"]
    with pytest.raises(NoSuchState):
        await desk.cache_invalidate("prise")
    with pytest.raises(InvalidInput):
        await desk.cache_invalidate("price", tag="x", key=("tea",))
    with pytest.raises(InvalidInput):
        await desk.cache_invalidate("pri/ce", unseen=True)


async def test_an_unknown_request_is_resolved_and_a_done_one_forgotten(
    app: Outlive, desk: Desk, clock: ManualClock
) -> None:
    requests = app.requests()
    for key in ("a", "b"):
        await requests.ask(
            Claim(
                Place(key, "ada", method="POST", route="/pay"), fingerprints_of_value(None), key, 1
            )
        )
    clock.advance(120)
    await requests.sweep()
    unknown = await desk.request_lines("unknown")
    assert {line.key for line in unknown} == {"a", "b"}
    assert {(line.method, line.route, line.principal) for line in unknown} == {
        ("POST", "/pay", "ada")
    }
    first, second = sorted(unknown, key=lambda line: line.key)
    with pytest.raises(InvalidInput):
        await desk.request_resolve(first.id, 99)
    await desk.request_resolve(first.id, 201, "ann", "the bank has it")
    assert (await desk.request(first.id)).status == 201
    with pytest.raises(NotResolvable):
        await desk.request_resolve(first.id, 201)
    await desk.request_resolve(second.id, None, "ann", "the bank knows nothing")
    assert [line.key for line in await desk.request_lines("unknown")] == []
    await desk.request_expire(first.id)
    with pytest.raises(NoSuchRequest):
        await desk.request(first.id)


async def test_more_cells_than_a_page_are_all_seen(app: Outlive, desk: Desk) -> None:
    limiter = app.ratelimits(Quota("daily", 3, per_seconds=DAY), storage="durable")
    for number in range(1050):
        await limiter.hit(f"k{number}")
    assert len(await desk.limit_lines(2000)) == 1050
    assert len(await desk.limit_lines(7)) == 7
