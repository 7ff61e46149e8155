"""The pages of the other kinds: how it is put. What they look at: tests/web/test_states.py."""

from __future__ import annotations

from typing import Any

from tests.web.fake import START

from outlive import best_effort
from outlive.clock import ManualClock
from outlive.codec import shapes
from outlive.dashboard.pages.states import NOTES_SHOWN, audit_of, cache_line, routes_of
from outlive.doors.excerpts import BreakerLine, RequestLine
from outlive.kinds.breakers.standing import Note, Standing
from outlive.kinds.caches.rule import Bounds, Life
from outlive.kinds.requests.decisions import Place, Record
from outlive.runtime.caches import Cache, Terms


def line(route: str, state: Any, made: int) -> RequestLine:
    place = Place(f"k{made}", method="POST" if route else "", route=route)
    return RequestLine(place.name, Record(state, "f", "recovery", place, made=made), False, 0)


def test_keys_are_counted_by_route_and_the_oldest_without_an_answer_is_named() -> None:
    lines = [
        line("/a", "done", 1), line("/a", "running", 5), line("/a", "unknown", 3),
        line("", "done", 2),
    ]  # fmt: skip
    route, once = routes_of(lines)
    assert (once.route, once.done, once.oldest) == ("app.once", 1, 0)
    assert (route.route, route.running, route.done, route.unknown) == ("POST /a", 1, 1, 1)
    assert route.oldest == 3


def test_what_happened_to_all_parts_is_told_newest_first_up_to_a_bound() -> None:
    notes = tuple(Note(START + n, "opened", "i", f"{n}") for n in range(NOTES_SHOWN))
    held = (Note(START + 5, "force open", "ann", "a drill"),)
    lines = [
        BreakerLine(
            key, part, Standing(turns=turns, controls=controls), "closed", None, 0, (0, 0, 0),
            (0, 0, 0), 0, 0, 0, "",
        )
        for key, part, turns, controls in (("b", "", notes, ()), ("b/eu", "eu", (), held))
    ]  # fmt: skip
    told = audit_of(lines)
    assert len(told) == NOTES_SHOWN and told[0][1].why == str(NOTES_SHOWN - 1)
    assert ("eu", held[0]) in told


async def test_a_cache_that_nobody_has_asked_has_no_rate_and_an_old_value_has_an_age() -> None:
    async def price(sku: str) -> int:
        return 1

    clock = ManualClock()
    terms = Terms(holds=best_effort(), bounds=Bounds(), life=Life(ttl=60))
    cache = Cache("price", price, terms, shape=shapes(price)[1], clock=clock)
    fresh = cache_line(cache, clock.boot())
    assert fresh.rate is None and fresh.oldest is None and not fresh.has_tags
    assert fresh.signature == "price(sku: str) -> int" and fresh.holds == "best_effort(5 s)"
    await cache("tea")
    clock.advance(7)
    await cache("tea")
    told = cache_line(cache, clock.boot())
    assert told.rate == 0.5 and told.oldest == 7 and told.entries == 1 and told.loads == 1
