"""Excerpts: bounded looks at what the kinds keep, in a number of reads that no row adds to."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from outlive import Outlive, Quota, Slots
from outlive.doors import excerpts
from outlive.doors.excerpts import LINES_MAX, NAMED_CHARACTERS, USES_MAX
from outlive.errors import StoreRefused
from outlive.kinds.requests.decisions import Claim, Place
from outlive.kinds.requests.fingerprints import fingerprints_of_value
from outlive.kinds.sessions.decisions import Make, key_of


@pytest.fixture
async def app() -> AsyncIterator[Outlive]:
    made = Outlive("memory://")
    async with made:
        yield made


@pytest.fixture
def reads(app: Outlive, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the store was looked at, by verb; and at most how many cells it was asked for."""
    counted: Counter[str] = Counter()
    store: Any = app.store
    for verb in ("read", "scan", "select"):
        original = getattr(store, verb)

        def count(*args: Any, verb: str = verb, original: Any = original, **kwargs: Any) -> Any:
            counted[verb] += 1
            counted["cells"] = max(counted["cells"], *(x for x in args if isinstance(x, int)), 0)
            return original(*args, **kwargs)

        monkeypatch.setattr(store, verb, count)
    return counted


async def test_sessions_are_looked_at_page_by_page_and_each_page_is_one_read(
    app: Outlive, reads: Counter[str]
) -> None:
    sessions = app.sessions()
    keys = {key_of(f"{n:052}") for n in range(2 * LINES_MAX + 1)}
    for key in keys:
        await sessions.ask(Make(key, "ada" if key < "1" else "bob"[: len(key) % 4]))
    reads.clear()
    seen: list[str] = []
    after, pages = "", 0
    while after or not pages:
        lines, after = await excerpts.sessions_listed(sessions, after)
        seen += [line.named for line in lines]
        pages += 1
    assert sorted(seen) == sorted(key[:NAMED_CHARACTERS] for key in keys)
    assert pages == 3 == reads["scan"] and reads["read"] == 0
    assert reads["cells"] == LINES_MAX + 1


async def test_the_sessions_of_a_subject_are_two_reads(app: Outlive, reads: Counter[str]) -> None:
    sessions = app.sessions()
    for n in range(9):
        await sessions.ask(Make(key_of(f"{n:052}"), "ada"))
    reads.clear()
    assert len(await excerpts.sessions_of(sessions, "ada")) == 9
    assert reads["read"] == 2 and reads["scan"] == 0


async def test_a_session_is_named_by_enough_of_its_key_only(app: Outlive) -> None:
    sessions, key = app.sessions(), key_of("0" * 52)
    await sessions.ask(Make(key, "ada"))
    assert await excerpts.session_key(sessions, key[:NAMED_CHARACTERS]) == key
    assert await excerpts.session_key(sessions, key[:8]) == ""
    assert await excerpts.session_key(sessions, "f" * NAMED_CHARACTERS) == ""


async def test_requests_are_found_by_their_marks(app: Outlive, reads: Counter[str]) -> None:
    requests, prints = app.requests(), fingerprints_of_value(None)
    for n in range(LINES_MAX + 5):
        who = "ada" if n % 2 else "bob"
        await requests.ask(Claim(Place(f"k{n}", who), prints, f"t{n}", 1_000_000))
    with pytest.raises(ConnectionError):
        async with app.once("mails", "lost"):
            raise ConnectionError
    reads.clear()
    of_ada = await excerpts.requests_of(requests, "ada")
    assert {line.record.place.principal for line in of_ada} == {"ada"} and len(of_ada) == 27
    assert [line.record.place.key for line in await excerpts.requests_unknown(requests)] == ["lost"]
    first, after = await excerpts.requests_listed(requests)
    rest, end = await excerpts.requests_listed(requests, after)
    assert len({line.name for line in (*first, *rest)}) == LINES_MAX + 6 and end == ""
    assert reads["select"] == 2 == reads["scan"] and reads["read"] == 0


async def test_what_is_used_of_a_limit_is_its_own_and_the_fullest_comes_first(
    app: Outlive, reads: Counter[str]
) -> None:
    api = app.ratelimits(Quota("api", 4))
    other = app.ratelimits(Quota("api2", 4))
    keeper = app.slots(Slots("apis", 2))
    await api.hit("bob")
    await api.hit("ada", cost=3)
    await other.hit("eve")
    async with keeper.hold("ada"):
        reads.clear()
        lines = await excerpts.limit_uses(api)
        assert [(line.key, line.used, line.most) for line in lines] == [
            ("api/ada", 3, 4), ("api/bob", 1, 4),
        ]  # fmt: skip
        (held,) = await excerpts.slot_uses(keeper)
        assert (held.key, held.used, held.most) == ("apis/ada", 1, 2)
        assert reads["scan"] == 2 and reads["cells"] == USES_MAX
    assert await excerpts.slot_uses(keeper) == []


async def test_a_breaker_is_shown_as_it_is_believed_to_be_when_the_store_is_away(
    app: Outlive, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = app.dependency("bank")
    await bank.force_open("ann", "a drill", "eu")
    monkeypatch.setattr(app.store, "lacks", {"scan": "a test"})
    lines = (await excerpts.breaker_lines(app))["bank"]
    assert [(line.part, line.state) for line in lines] == [("", "closed"), ("eu", "held open")]


async def test_a_store_that_cannot_be_looked_through_says_so(
    app: Outlive, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, sessions = app.ratelimits(Quota("api", 4)), app.sessions()
    monkeypatch.setattr(app.store, "lacks", {"scan": "cells are found by their key"})
    with pytest.raises(StoreRefused, match="found by their key"):
        await excerpts.limit_uses(api)
    with pytest.raises(StoreRefused, match="found by their key"):
        await excerpts.sessions_listed(sessions)
