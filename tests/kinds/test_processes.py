"""What processes promise, from the outside: started, killed anywhere, found again, ended once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from tests.service import Declare, Dying, Outside, Place, check_grammar, crash, recorded, until

from outlive import NonRetryable, Outlive, Retry, Run, StepFailed, Unknown, attempt, step
from outlive.clock import ManualClock
from outlive.errors import OutliveError, ProcessTerminal
from outlive.testing.oracles import facts_of, p7_journal_grammar

QUICK = Retry(attempts=5, base_seconds=0.005, cap_seconds=0.01)
Client = Callable[[Outlive], Awaitable[Any]]
world: Outside = Outside()


@pytest.fixture(autouse=True)
def fresh_world(outside: Outside) -> None:
    global world
    world = outside


@pytest.fixture(autouse=True)
def short_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake that a dying node had claimed comes again soon, and a moved clock is seen soon."""
    monkeypatch.setattr("outlive.runtime.node.HOLD_SECONDS", 0.3)
    monkeypatch.setattr("outlive.runtime.timers.LOOK_SECONDS_MAX", 0.02)


# --- a sample with everything in it ---------------------------------------------------------------


@step(retry=QUICK, undo="close_account")
async def open_account(name: str) -> str:
    return world.do(attempt().key, f"account {name}")


async def close_account(name: str, made: str | Unknown) -> None:
    world.do("undo " + attempt().key, f"close {name}")


@step(retry=QUICK, undo="unsend")
def send(name: str) -> str:
    """Fails at the first attempt after the effect: the second has the same key."""
    world.do(attempt().key, f"mail {name}")
    if attempt().number == 1:
        raise ConnectionError("the answer was lost")
    return name


def unsend(name: str, made: str | Unknown) -> None:
    world.do("undo " + attempt().key, f"unsend {name}")


@step(undo="delete_row")
def insert_row(tables: Any, name: str) -> str:
    tables.execute("INSERT INTO person VALUES (?)", (name,))
    return name


def delete_row(tables: Any, name: str, made: str | Unknown) -> None:
    tables.execute("DELETE FROM person WHERE name = ?", (name,))


def count_rows(tables: Any) -> int:
    return int(tables.execute("SELECT count(*) FROM person")[0][0])


@step(retry=Retry(attempts=1))
async def refuse(name: str) -> None:
    raise NonRetryable("not this one")


def sample(app: Outlive) -> None:
    @app.schema
    def tables(db: Any) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS person (name TEXT)")

    @app.process("/samples", version=1, signals={"go": str})
    async def sample(run: Run, name: str) -> str:
        run.state = "opening"
        await run(open_account, name)
        await run(send, name)
        await run.transact(insert_row, name)
        run.state = "waiting"
        word = await run.wait("go", within=60)
        await run.sleep(0.01)
        if word == "fail":
            await run(refuse, name)
        run.pivot()
        return f"{name} {word} {await run.transact(count_rows)}"


async def drive(app: Outlive, word: str) -> str:
    """What a client does, and does again when it got no answer."""
    begun = await app.begin("sample", b'"ada"', key="one")
    with suppress(ProcessTerminal):
        await app.signal(begun.id, "go", f'"{word}"'.encode(), key="go")
    return begun.id


async def die(
    place: Place, declare: Declare, client_of: Client, at: int, when: str, **options: Any
) -> tuple[bool, list[str]]:
    """Run until the death at commit `at`; whether it came, and what was recorded by then."""
    store = Dying(place.store(**options), 0, when)
    app = await place.open(declare, store=store, **options)
    store._at = store.commits + at
    client = asyncio.ensure_future(client_of(app))
    death = asyncio.ensure_future(store.died.wait())
    await asyncio.wait((client, death), return_when=asyncio.FIRST_COMPLETED, timeout=60)
    died = store.died.is_set()
    assert died or client.done()
    for task in (client, death):
        task.cancel()
    await asyncio.gather(client, death, return_exceptions=True)
    if not died:
        store._at = 0  # it lives on, and what closing commits is no death either
        await app.close()
        return False, []
    await crash(app)
    reader = await place.client(declare)
    page, _ = await reader.processes()
    done = recorded(await reader.journal(page[0].id)) if page else []
    await reader.close()
    return True, done


async def live(app: Outlive, word: str) -> str:
    id = await drive(app, word)
    try:
        return str(await app.result(id, within=60))
    except OutliveError:
        return (await app.view(id)).status


async def check_end(place: Place, word: str, before: list[str]) -> None:
    """Open again, let it end, and compare with what must be."""
    calls = dict(world.calls)
    app = await place.open(sample)
    result = await live(app, word)
    assert result == ("ada yes 1" if word == "yes" else "rolled_back")
    page, _ = await app.processes()
    assert len(page) == 1
    entries = await app.journal(page[0].id)
    check_grammar(entries)
    effects = ["account ada", "mail ada"]
    if word == "fail":
        effects += ["unsend ada", "close ada"]
    assert sorted(world.effects.values()) == sorted(effects)
    for id, what in (("open_account", "account ada"), ("send", "mail ada")):
        if id in before:
            assert world.calls[what] == calls[what], f"{id} was recorded and has run again"
    await app.close()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("word", ["yes", "fail"])
async def test_killed_at_any_commit_it_ends_as_if_nothing_had_happened(
    place: Place, word: str, when: str, tmp_path: Any
) -> None:
    for at in range(1, 40):
        here = Place(tmp_path / f"{at}")
        (tmp_path / f"{at}").mkdir()
        world.__init__()  # type: ignore[misc]
        died, before = await die(here, sample, partial(live, word=word), at, when)
        if not died:
            assert at > 8, f"the sample has only {at} commits"
            return
        await check_end(here, word, before)
    pytest.fail("the sample never ended")


# --- parts of a body: branches, a race, many items, a scope ---------------------------------------


async def unreserve(what: str, made: str | Unknown) -> None:
    world.do("undo " + attempt().key, f"unreserve {what}")


@step(retry=QUICK, undo=unreserve)
async def reserve(what: str) -> str:
    return world.do(attempt().key, f"reserve {what}")


@step(retry=QUICK)
async def ask(what: int) -> str:
    world.do(attempt().key, f"ask {what}")
    if what == 2:
        raise NonRetryable("no")
    return f"{what}"


async def there(run: Run) -> str:
    return await run(reserve, "there") + await run(reserve, "and back")


async def room(run: Run) -> str:
    return await run(reserve, "room")


async def breaks(run: Run) -> None:
    await run(reserve, "boat")
    await run(refuse, "boat")


async def never(run: Run) -> None:
    await run(reserve, "loser")
    await run.wait("never")


def parted(app: Outlive) -> None:
    @app.process("/trips", version=1)
    async def trip(run: Run, word: str) -> str:
        await run.gather(there, room)
        won = await run.first(never, room)
        done = await run.all([1, 2, 3], ask, limit=2)
        try:
            async with run.scope():
                await run(reserve, "inside")
                await run.gather(room, breaks)
        except StepFailed:
            await run(reserve, "instead")
        if word == "fail":
            await run(refuse, "all")
        return f"{won} {len(done.results)} {len(done.failures)}"


async def travel(app: Outlive, word: str) -> str:
    begun = await app.begin("trip", f'"{word}"'.encode(), key="one")
    try:
        return str(await app.result(begun.id, within=60))
    except OutliveError:
        return (await app.view(begun.id)).status


async def check_trip(place: Place, word: str, before: list[str]) -> None:
    calls = dict(world.calls)
    app = await place.open(parted)
    assert await travel(app, word) == ("reserve room 2 1" if word == "yes" else "rolled_back")
    page, _ = await app.processes()
    assert len(page) == 1
    check_grammar(await app.journal(page[0].id))
    assert p7_journal_grammar(await facts_of(app.store)) == []
    for what in ("there", "and back", "instead"):
        assert world.made(f"reserve {what}") == 1, world.effects
        assert world.made(f"unreserve {what}") == (word == "fail")
    for what in ("inside", "boat"):
        assert world.made(f"unreserve {what}") == world.made(f"reserve {what}") == 1
    assert world.made("reserve loser") == world.made("unreserve loser") <= 1
    for item in (1, 2, 3):
        assert world.made(f"ask {item}") == 1
        if f"ask:{item - 1}" in before:
            assert world.calls[f"ask {item}"] == calls[f"ask {item}"]
    if "there/reserve" in before:
        assert world.calls["reserve there"] == calls["reserve there"]
    await app.close()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("word", ["yes", "fail"])
async def test_killed_at_any_commit_each_part_comes_out_once(
    word: str, when: str, tmp_path: Any
) -> None:
    for at in range(1, 60):
        here = Place(tmp_path / f"{at}")
        (tmp_path / f"{at}").mkdir()
        world.__init__()  # type: ignore[misc]
        died, before = await die(here, parted, partial(travel, word=word), at, when)
        if not died:
            assert at > 10, f"the sample has only {at} commits"
            return
        await check_trip(here, word, before)
    pytest.fail("the sample never ended")


# --- a deadline -----------------------------------------------------------------------------------


def hurried(app: Outlive) -> None:
    @app.process("/hurries", version=1, deadline=3600)
    async def hurry(run: Run, word: str) -> None:
        await run.gather(there, room)
        await run.wait("never")


async def hurry(app: Outlive, clock: ManualClock) -> str:
    """A client that is there when the deadline of what it started passes."""
    begun = await app.begin("hurry", b'"now"', key="one")

    async def waits_or_has_ended() -> bool:
        view = await app.view(begun.id)
        return view.final or view.waits_for == "never"

    await until(lambda: clock.advance(0.05) or waits_or_has_ended())
    clock.advance(3601)
    await until(lambda: clock.advance(0.05) or has_ended(app, begun.id))
    return (await app.view(begun.id)).status


async def has_ended(app: Outlive, id: str) -> bool:
    return bool((await app.view(id)).final)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_at_any_commit_its_deadline_undoes_all_of_it_once(
    when: str, tmp_path: Any
) -> None:
    for at in range(1, 30):
        here = Place(tmp_path / f"{at}")
        (tmp_path / f"{at}").mkdir()
        world.__init__()  # type: ignore[misc]
        clock = ManualClock()
        client = partial(hurry, clock=clock)
        died, _ = await die(here, hurried, client, at, when, clock=clock)
        if not died:
            assert at > 6, f"the sample has only {at} commits"
            return
        app = await here.open(hurried, clock=clock)
        assert await client(app) in ("rolled_back", "failed")
        page, _ = await app.processes()
        entries = await app.journal(page[0].id)
        check_grammar(entries)
        assert [entry.text for entry in entries].count("its deadline has passed") == 1
        for what in ("there", "and back", "room"):
            assert world.made(f"unreserve {what}") == world.made(f"reserve {what}") <= 1
        await app.close()
    pytest.fail("the sample never ended")
