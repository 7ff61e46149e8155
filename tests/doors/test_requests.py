"""`app.once`: one effect and one value, in the effect's own transaction or around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from outlive import Outlive, ids
from outlive.doors.requests import Once, Requests
from outlive.errors import (
    Conflict,
    KeyReused,
    NoSuchRequest,
    NotAllowed,
    NotResolvable,
    OutliveError,
    RequestRunning,
    RequestUnknown,
    StoreBusy,
)
from outlive.kinds.requests.decisions import Answer, Place
from outlive.kinds.requests.fingerprints import fingerprints_of_value
from outlive.web.requests import IdempotencyMiddleware, Rule, once_of

MAKE = "CREATE TABLE IF NOT EXISTS charge (name TEXT)"
WRITE = {"?": "INSERT INTO charge VALUES (?)", "$": "INSERT INTO charge VALUES ($1)"}
COUNT = "SELECT count(*) FROM charge"


@pytest.fixture(params=["postgres", "sqlite"])
def address(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return f"{request.getfixturevalue('postgres')}?schema=store_{ids.token(40)}"


@pytest.fixture
async def app(address: str) -> AsyncIterator[Outlive]:
    app = Outlive(address)
    async with app:
        await app.transact(clear)
        yield app


def clear(tables: Any) -> None:
    tables.execute(MAKE)
    tables.execute("DELETE FROM charge")


def book(tables: Any, name: str, error: Exception | None = None) -> dict[str, Any]:
    tables.execute(WRITE["?" if type(tables).__name__ == "Tables" and _is_lite(tables) else "$"],
                   (name,))  # fmt: skip
    if error is not None:
        raise error
    return {"booked": name, "id": ids.token(20)}


def _is_lite(tables: Any) -> bool:
    return type(tables).__module__.endswith("user_tables")


async def rows(app: Outlive) -> int:
    def count(tables: Any) -> int:
        found: int = tables.execute(COUNT)[0][0]
        return found

    return await app.transact(count)


async def charged(app: Outlive, key: str, name: str = "tea") -> Any:
    async with app.once("ada", key, name, mode="transactional") as claim:
        return await claim.transact(book, name)


async def test_the_effect_and_its_record_are_one_commit(app: Outlive) -> None:
    first = await charged(app, "k")
    assert await charged(app, "k") == first and await rows(app) == 1
    with pytest.raises(KeyReused):
        await charged(app, "k", "coffee")
    assert await charged(app, "l") != first and await rows(app) == 2


async def test_many_at_once_write_once_and_are_given_one_value(app: Outlive) -> None:
    found = await asyncio.gather(*(charged(app, "k") for _ in range(30)))
    assert await rows(app) == 1 and all(one == found[0] for one in found)


async def test_an_effect_that_is_rolled_back_leaves_no_key_behind(app: Outlive) -> None:
    with pytest.raises(ZeroDivisionError):
        async with app.once("ada", "k", mode="transactional") as claim:
            await claim.transact(book, "tea", ZeroDivisionError())
    assert await rows(app) == 0
    async with app.once("ada", "k", mode="transactional") as claim:
        assert not claim.replayed


async def test_who_fails_over_the_rows_of_the_faster_one_is_given_its_answer(
    postgres: str,
) -> None:
    address = f"{postgres}?schema=store_{ids.token(40)}"
    table = f"receipt_{ids.token(40)}"  # the function's own, in which a key stands once
    begun, done = asyncio.Event(), asyncio.Event()

    async def insert(tables: Any, patiently: bool) -> str:
        if patiently:  # the key was looked for, and was not there
            begun.set()
            await done.wait()
        await tables.execute(f"INSERT INTO {table} VALUES ('tea')")
        return ids.token(20)

    async def pay(app: Outlive, patiently: bool = False) -> Any:
        async with app.once("ada", "k", "tea", mode="transactional") as claim:
            return await claim.transact(insert, patiently), claim.replayed

    async with Outlive(address) as slow, Outlive(address) as quick:
        await slow.transact(lambda tables: tables.execute(f"CREATE TABLE {table} (n text UNIQUE)"))
        waiting = asyncio.create_task(pay(slow, True))
        await begun.wait()
        first, replayed = await pay(quick)
        done.set()
        assert not replayed and await waiting == (first, True)
        with pytest.raises(Exception, match="duplicate key"):  # of its own doing: it is raised
            async with slow.once("ada", "other", "tea", mode="transactional") as claim:
                await claim.transact(insert, False)


async def test_two_callers_with_one_key_are_two(app: Outlive) -> None:
    for who in ("ada", "bob"):
        async with app.once(who, "k", mode="transactional") as claim:
            await claim.transact(book, who)
    assert await rows(app) == 2


async def test_a_block_is_carried_out_once(app: Outlive) -> None:
    done = []
    for _ in range(3):
        async with app.once("mails", "k", {"to": "ada"}) as claim:
            if not claim.replayed:
                done.append(1)
                claim.finish({"n": len(done)})
        assert claim.value == {"n": 1}
    assert done == [1]


async def test_an_error_in_a_block_leaves_an_unknown_outcome(app: Outlive) -> None:
    with pytest.raises(ZeroDivisionError):
        async with app.once("mails", "k"):
            raise ZeroDivisionError
    with pytest.raises(RequestUnknown):
        await app.once("mails", "k").__aenter__()
    keys = app.requests()
    (record,) = await keys.unknown()
    await keys.resolve(record.place, Answer(200, (), b'"sent"'), by="ops", why="seen")
    async with app.once("mails", "k") as claim:
        assert claim.value == "sent"


async def test_what_may_be_repeated_is_given_back_after_an_error(app: Outlive) -> None:
    with pytest.raises(ZeroDivisionError):
        async with app.once("mails", "k", mode="recovery"):
            raise ZeroDivisionError
    async with app.once("mails", "k", mode="recovery") as claim:
        assert not claim.replayed


async def test_a_second_one_waits_or_is_told(app: Outlive) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with app.once("mails", "k") as claim:
            begun.set()
            await gate.wait()
            claim.finish("sent")

    task = asyncio.create_task(first())
    await begun.wait()
    with pytest.raises(RequestRunning):
        await app.once("mails", "k").__aenter__()
    with pytest.raises(NotResolvable):
        await app.requests().expire(Place("k", "mails"), by="ops", why="impatient")
    waiting = asyncio.create_task(app.once("mails", "k", wait_seconds=30).__aenter__())
    gate.set()
    await task
    assert (await waiting).value == "sent"


async def test_what_is_not_there_is_said(app: Outlive) -> None:
    keys, place = app.requests(), Place("never", "used")
    with pytest.raises(NoSuchRequest):
        await keys.look(place)
    with pytest.raises(NoSuchRequest):
        await keys.resolve(place, None, by="ops", why="")
    with pytest.raises(NotAllowed):
        async with app.once("mails", "t", mode="at-most-once") as claim:
            await claim.transact(book, "tea")
    with pytest.raises(ValueError, match="a day"):
        Requests(app, retention_seconds=3600)
    with pytest.raises(ValueError, match="1 or more"):
        Requests(app, lease_seconds=0.5)


async def test_a_record_goes_with_the_callers_own_transaction(app: Outlive, address: str) -> None:
    if address.startswith("sqlite"):  # no second transaction may exist there

        def inside(tables: Any) -> None:
            tables.execute(WRITE["?"], ("tea",))

        async with app.once("ada", "k", mode="transactional") as claim:
            await claim.transact(inside)
        assert claim.value is None and await rows(app) == 1
        return
    import asyncpg

    link = await asyncpg.connect(address.partition("?")[0])
    try:
        for keeps in (False, True):
            transaction = link.transaction()
            await transaction.start()
            async with app.once("ada", "k", mode="transactional") as claim:
                assert not claim.replayed
                await claim.within(link, {"booked": "tea"})
            await (transaction.commit() if keeps else transaction.rollback())
        async with app.once("ada", "k", mode="transactional") as claim:
            assert claim.replayed and claim.value == {"booked": "tea"}
    finally:
        await link.close()


async def test_over_http_the_recorded_answer_is_what_everybody_gets(app: Outlive) -> None:
    async def charge(request: Request) -> JSONResponse:
        form = await request.json()
        await once_of(request).transact(answered, form["name"])
        return JSONResponse({"not": "this"})

    def answered(tables: Any, name: str) -> Answer:
        made = book(tables, name)
        headers = (("content-type", "application/json"), ("location", f"/charges/{made['id']}"))
        return Answer(201, headers, b'{"id":"%s"}' % made["id"].encode())

    site = Starlette(routes=[Route("/charges", charge, methods=["POST"])])
    rules = [Rule(route="POST /charges", mode="transactional")]
    service = IdempotencyMiddleware(site, app.requests(), rules)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://shop.test")
    headers = {"idempotency-key": '"k"'}
    answers = await asyncio.gather(
        *(http.post("/charges", json={"name": "tea"}, headers=headers) for _ in range(20))
    )
    assert await rows(app) == 1
    assert {(one.status_code, one.content, one.headers["location"]) for one in answers} == {
        (201, answers[0].content, answers[0].headers["location"])
    }
    assert sum("idempotent-replayed" not in one.headers for one in answers) == 1


async def test_an_answer_of_a_transaction_that_was_rolled_back_is_given_to_nobody(
    app: Outlive, address: str
) -> None:
    if address.startswith("sqlite"):  # no second transaction may exist there
        return
    import asyncpg

    link = await asyncpg.connect(address.partition("?")[0])

    async def charge(request: Request) -> JSONResponse:
        transaction = link.transaction()
        await transaction.start()
        await once_of(request).within(link, {"booked": True})
        fails = request.query_params["fails"] == "yes"
        await (transaction.rollback() if fails else transaction.commit())
        return JSONResponse({"booked": not fails}, 500 if fails else 201)

    site = Starlette(routes=[Route("/charges", charge, methods=["POST"])])
    rules = [Rule(route="POST /charges", mode="transactional")]
    service = IdempotencyMiddleware(site, app.requests(), rules)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://shop.test")
    headers = {"idempotency-key": '"k"'}
    try:
        failed = await http.post("/charges?fails=yes", headers=headers)
        assert (failed.status_code, failed.json()) == (500, {"booked": False})
        for _ in range(2):  # given, and given again
            made = await http.post("/charges?fails=no", headers=headers)
            assert (made.status_code, made.json()) == (200, {"booked": True})
    finally:
        await link.close()


def beats_no_more(requests: Requests, once: Once) -> bool:
    return len(requests._hearts) == 0 and once.name not in requests._running


async def test_an_answer_that_cannot_be_recorded_lets_its_lease_end(app: Outlive) -> None:
    requests = app.requests()
    once = requests.once(Place("large"), fingerprints_of_value(None))
    with pytest.raises(OutliveError):
        async with once:
            once.finish("x" * 64 * 1024 * 1024)
    assert beats_no_more(requests, once)


async def test_who_is_cancelled_while_recording_lets_its_lease_end(
    app: Outlive, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = app.requests()
    once = requests.once(Place("cut short"), fingerprints_of_value(None))
    never = asyncio.get_running_loop().create_future()
    await once.__aenter__()
    monkeypatch.setattr(requests, "ask", lambda command: never)
    recording = asyncio.create_task(once.complete(Answer()))
    await asyncio.sleep(0)
    recording.cancel()
    with pytest.raises(asyncio.CancelledError):
        await recording
    assert beats_no_more(requests, once)


@pytest.mark.parametrize("error", [Conflict("others were faster"), StoreBusy("a long commit")])
async def test_a_lease_that_could_not_be_renewed_once_is_renewed_at_the_next_beat(
    app: Outlive, monkeypatch: pytest.MonkeyPatch, error: OutliveError
) -> None:
    requests = app.requests()
    once = requests.once(Place(type(error).__name__), fingerprints_of_value(None))
    await once.__aenter__()
    requests._hearts.drop(once)  # as when its beat begins

    async def refused(command: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(requests, "ask", refused)
        with suppress(OutliveError):
            await once._renew()
    assert len(requests._hearts) == 1
    await once.complete(Answer())


async def test_the_error_of_a_block_is_raised_also_where_its_doubt_is_refused(
    app: Outlive, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = app.requests()
    once = requests.once(Place("refused"), fingerprints_of_value(None))

    async def refused(command: Any) -> Any:
        raise Conflict("others were faster")

    await once.__aenter__()
    monkeypatch.setattr(requests, "ask", refused)
    error = ZeroDivisionError()
    await once.__aexit__(type(error), error, None)  # raises nothing in its place
    assert beats_no_more(requests, once)


async def test_what_is_erased_is_found_behind_what_stays(
    app: Outlive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.doors.requests.PAGE_MAX", 3)
    requests = app.requests()
    places = sorted((Place(f"{n}", "ann") for n in range(12)), key=lambda place: place.name)
    for at, place in enumerate(places):
        once = requests.once(place, fingerprints_of_value(None))
        await once.__aenter__()
        await (once.doubt() if at < 5 else once.complete(Answer()))
    assert await requests.erase("ann") == 7
    assert [record.state for record in [await requests.look(place) for place in places[:5]]] == [
        "unknown"
    ] * 5


async def test_who_is_cancelled_while_asking_for_a_key_leaves_it_free(app: Outlive) -> None:
    requests = app.requests()
    for turns in range(1, 400):
        place = Place(f"cut {turns}")
        asking = asyncio.create_task(requests.once(place, fingerprints_of_value(None)).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        if asking.done():
            break
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(5):
            while True:
                try:
                    assert (await requests.look(place)).state == "running"
                except NoSuchRequest:
                    break
                await asyncio.sleep(0.01)
