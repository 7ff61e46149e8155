"""What processes promise, from the outside: started, killed anywhere, found again, ended once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from tests.service import Dying, Outside, Place, check_grammar, crash, recorded

from outlive import NonRetryable, Outlive, Retry, Run, Unknown, attempt, step
from outlive.errors import OutliveError, ProcessTerminal

QUICK = Retry(attempts=5, base_seconds=0.005, cap_seconds=0.01)
world: Outside = Outside()


@pytest.fixture(autouse=True)
def fresh_world(outside: Outside) -> None:
    global world
    world = outside


@pytest.fixture(autouse=True)
def short_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake that a dying node had claimed comes again soon."""
    monkeypatch.setattr("outlive.runtime.node.HOLD_SECONDS", 0.3)


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


async def die(place: Place, word: str, at: int, when: str) -> tuple[bool, list[str]]:
    """Run until the death at commit `at`; whether it came, and what was recorded by then."""
    store = Dying(place.store(), 0, when)
    app = await place.open(sample, store=store)
    store._at = store.commits + at
    client = asyncio.ensure_future(live(app, word))
    death = asyncio.ensure_future(store.died.wait())
    await asyncio.wait((client, death), return_when=asyncio.FIRST_COMPLETED, timeout=20)
    died = store.died.is_set()
    assert died or client.done()
    for task in (client, death):
        task.cancel()
    await asyncio.gather(client, death, return_exceptions=True)
    if not died:
        await app.close()
        return False, []
    await crash(app)
    reader = await place.client(sample)
    page, _ = await reader.processes()
    done = recorded(await reader.journal(page[0].id)) if page else []
    await reader.close()
    return True, done


async def live(app: Outlive, word: str) -> str:
    id = await drive(app, word)
    try:
        return str(await app.result(id, within=20))
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
        died, before = await die(here, word, at, when)
        if not died:
            assert at > 8, f"the sample has only {at} commits"
            return
        await check_end(here, word, before)
    pytest.fail("the sample never ended")
