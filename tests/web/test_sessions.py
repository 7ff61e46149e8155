"""Sessions over ASGI: what a browser sees, on two instances of one store.

How it reads:

    sessions = app.sessions(idle_seconds=1800, absolute_seconds=43_200)
    service = SessionMiddleware(api, sessions)

    request.session["cart"] = [1, 2]           a dict
    request.session.sign_in("ada")             a new id, the old one dead
    request.session.sign_out()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.kinds.stores import ALL_STORES, STORES, made, opened
from tests.web.driver import Exchange
from tests.web.visits import ABSOLUTE, ID, IDLE, Place, browser, id_of, site

from outlive.clock import ManualClock
from outlive.errors import StoreUnavailable
from outlive.kinds.sessions.decisions import Save
from outlive.stores.memory import MemoryStore
from outlive.web.sessions import SessionMiddleware


@pytest.fixture(params=ALL_STORES)
def unopened(request: pytest.FixtureRequest) -> Any:
    """Not async: a server starts with a loop of its own."""
    clock = ManualClock()
    return made(request, clock), clock


@pytest.fixture(params=STORES)
def unopened_listing(request: pytest.FixtureRequest) -> Any:
    """A store that keeps lists too."""
    clock = ManualClock()
    return made(request, clock), clock


@pytest.fixture
async def place(unopened: Any) -> AsyncIterator[Place]:
    async with opened(unopened[0]) as store:
        yield Place(store, unopened[1])


@pytest.fixture
async def listing(unopened_listing: Any) -> AsyncIterator[Place]:
    async with opened(unopened_listing[0]) as store:
        yield Place(store, unopened_listing[1])


@pytest.fixture
async def memory() -> AsyncIterator[MemoryStore]:
    store = MemoryStore(clock=ManualClock())
    await store.open()
    yield store
    await store.close()


# --- on every store -----------------------------------------------------------------------------


async def test_a_session_is_the_same_on_every_instance(place: Place) -> None:
    one, two = browser(place.services[0]), browser(place.services[1])
    assert (await one.post("/login/ada")).status_code == 200
    await one.post("/put", json={"cart": [1, 2], "big": 2**60})
    two.cookies = one.cookies
    said = (await two.get("/")).json()
    assert said == {"who": "ada", "data": {"cart": [1, 2], "big": 2**60}}


async def test_a_login_ends_the_old_id_and_an_id_that_was_made_up_is_never_adopted(
    place: Place,
) -> None:
    fixed = "0" * 52
    made_up = await browser(place.services[0], fixed).post("/put", json={"trap": 1})
    assert fixed not in made_up.headers["set-cookie"]
    assert (await browser(place.services[1], fixed).get("/")).json()["data"] == {}
    victim = browser(place.services[0])
    await victim.post("/put", json={"trap": 1})
    before = id_of(victim)
    await victim.post("/login/ada")
    after = id_of(victim)
    assert before != after
    assert (await browser(place.services[1], before).get("/")).json() == {"who": "", "data": {}}
    assert (await victim.get("/")).json() == {"who": "ada", "data": {"trap": 1}}
    assert all(after not in row.key and after.encode() not in row.value
               for row in await place.rows())  # fmt: skip


async def test_the_idle_time_slides_and_the_absolute_one_does_not(place: Place) -> None:
    client = browser(place.services[0])
    await client.post("/login/ada")
    for _ in range(6):
        place.clock.advance(IDLE - 61)
        assert (await client.get("/")).json()["who"] == "ada"
    place.clock.advance(ABSOLUTE - 6 * (IDLE - 61))
    assert (await client.get("/")).json()["who"] == ""
    await client.post("/login/ada")
    place.clock.advance(IDLE + 1)
    assert (await client.get("/")).json()["who"] == ""


async def test_overlapping_requests_that_set_different_attributes_keep_both(place: Place) -> None:
    client = browser(place.services[0])
    await client.post("/put", json={"start": 1})
    gates = place.sites[0].state.gates
    asked = [
        asyncio.create_task(client.post(f"/slow?gate={gate}&name={gate}&value=1")) for gate in "ab"
    ]
    for gate in "ab":
        await gates[gate][0].wait()
    for gate in "ab":
        gates[gate][1].set()
    for response in await asyncio.gather(*asked):
        assert response.status_code == 200
    assert (await client.get("/")).json()["data"] == {"start": 1, "a": "1", "b": "1"}


@pytest.mark.parametrize("name", ["", "&name=x&value=1"], ids=["reading", "writing"])
async def test_a_logout_wins_over_a_request_under_way(place: Place, name: str) -> None:
    client = browser(place.services[0])
    await client.post("/login/ada")
    id = id_of(client)
    seen, gate = place.sites[0].state.gates["a"]
    under_way = asyncio.create_task(client.post(f"/slow?gate=a{name}"))
    await seen.wait()
    other = browser(place.services[1], id)
    answer = await other.post("/logout")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    gate.set()
    response = await under_way
    if name:
        assert response.status_code == 401 and response.json()["code"] == "OL5001"
        assert response.headers["cache-control"] == "no-store"
        assert "set-cookie" not in response.headers
    assert await place.rows() == []
    assert (await browser(place.services[0], id).get("/")).json()["who"] == ""


async def test_all_of_a_subject_are_listed_and_signed_out(listing: Place) -> None:
    clients = [browser(listing.services[number % 2]) for number in range(3)]
    for client in clients:
        await client.post("/login/ada", headers={"user-agent": "Lynx/2.9"})
        listing.clock.advance(1)
    bystander = browser(listing.services[0])
    await bystander.post("/login/grace")
    sessions = listing.sessions[1]
    devices = await sessions.devices("ada")
    assert [(device.agent, device.place) for device in devices] == [("Lynx/2.9", "Paris")] * 3
    assert devices[0].seen > devices[-1].seen
    assert await sessions.revoke(devices[0].key) and not await sessions.revoke(devices[0].key)
    assert (await clients[2].get("/")).json()["who"] == ""
    assert await sessions.revoke_all("ada", but=devices[1].key) == 1
    assert (await clients[1].get("/")).json()["who"] == "ada"
    assert await sessions.revoke_all("ada") == 1
    assert [(await client.get("/")).json()["who"] for client in clients] == ["", "", ""]
    assert (await bystander.get("/")).json()["who"] == "grace"
    assert await sessions.devices("ada") == []


async def test_what_has_ended_is_swept(listing: Place) -> None:
    client = browser(listing.services[0])
    await client.post("/login/ada")
    assert await listing.sessions[0].sweep() == 0
    listing.clock.advance(ABSOLUTE + 1)
    assert await listing.sessions[0].sweep() == 2 and await listing.rows() == []


async def test_without_a_list_a_new_epoch_signs_a_subject_out_everywhere(place: Place) -> None:
    for sessions in place.sessions:
        sessions.kind.listed = sessions._chooses = False
    clients = [browser(place.services[number]) for number in range(2)]
    for client in clients:
        await client.post("/login/ada")
    assert [(await client.get("/")).json()["who"] for client in clients] == ["ada", "ada"]
    await clients[0].post("/step-up")
    assert (await clients[0].get("/")).json()["who"] == "ada"
    await place.sessions[1].revoke_all("ada")
    assert [(await client.get("/")).json()["who"] for client in clients] == ["", ""]
    await clients[0].post("/login/ada")
    assert (await clients[0].get("/")).json()["who"] == "ada"
    with pytest.raises(ValueError, match="without a list"):
        await place.sessions[0].revoke_all("ada", but="x")


# --- what does not depend on the store ----------------------------------------------------------


@pytest.fixture
def here(memory: MemoryStore) -> Place:
    clock = memory._clock
    assert isinstance(clock, ManualClock)
    return Place(memory, clock)


async def test_a_visitor_of_whom_nothing_is_stored_gets_no_row_and_no_cookie(here: Place) -> None:
    client = browser(here.services[0])
    response = await client.get("/")
    assert "set-cookie" not in response.headers and await here.rows() == []
    assert response.headers["vary"] == "Cookie" and response.headers["cache-control"] == "no-store"
    untouched = await client.get("/plain")
    assert "vary" not in untouched.headers and untouched.headers["cache-control"] == "max-age=60"


async def test_a_session_that_was_only_read_is_not_written(here: Place) -> None:
    client = browser(here.services[0])
    await client.post("/put", json={"cart": {"items": []}})
    (row,) = await here.rows()
    here.clock.advance(59)
    assert "set-cookie" not in (await client.get("/")).headers
    assert (await here.rows())[0].version == row.version
    here.clock.advance(2)
    await client.get("/")
    await client.get("/")
    (seen,) = await here.rows()
    assert seen.version == row.version + 1
    assert "set-cookie" not in (await client.post("/deep")).headers
    assert (await client.get("/")).json()["data"] == {"cart": {"items": ["tea"]}}


async def test_the_cookie_has_every_attribute_that_keeps_it_safe(here: Place) -> None:
    response = await browser(here.services[0]).post("/login/ada")
    name, *attributes = response.headers["set-cookie"].split("; ")
    assert name.startswith("__Host-session=") and len(name) == len(ID) + 1 + 52
    assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=Lax", "Secure"]


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_a_failed_response_signs_nobody_in(here: Place, status: int) -> None:
    client = browser(here.services[0])
    response = await client.post(f"/login/ada?status={status}")
    assert response.status_code == status and "set-cookie" not in response.headers
    assert await here.rows() == []
    response = await client.post("/boom")
    assert response.status_code == 500 and "set-cookie" not in response.headers


async def test_a_refused_form_may_still_say_so_in_the_session_and_a_failure_may_not(
    here: Place,
) -> None:
    client = browser(here.services[0])
    await client.post("/put?status=422", json={"flash": "too short"})
    assert (await client.get("/")).json()["data"] == {"flash": "too short"}
    await client.post("/put?status=500", json={"flash": "other"})
    assert (await client.get("/")).json()["data"] == {"flash": "too short"}


async def test_a_step_up_changes_id_and_form_secret_and_keeps_the_absolute_end(
    here: Place,
) -> None:
    client = browser(here.services[0])
    await client.post("/login/ada")
    first, secret = id_of(client), (await client.get("/csrf")).json()["csrf"]
    assert (await client.get("/csrf", headers={"x-csrf": secret})).json()["good"] is True
    here.clock.advance(IDLE - 10)
    stepped = (await client.post("/step-up")).json()["csrf"]
    assert id_of(client) != first and stepped != secret
    assert (await client.get("/csrf", headers={"x-csrf": secret})).json()["good"] is False
    assert (await client.get("/csrf", headers={"x-csrf": stepped})).json()["good"] is True
    for _ in range(5):
        here.clock.advance(IDLE - 10)
        await client.get("/")
    here.clock.advance(70)
    assert (await client.get("/")).json()["who"] == ""


async def test_a_form_secret_for_a_visitor_makes_the_session_it_is_bound_to(here: Place) -> None:
    client = browser(here.services[0])
    secret = (await client.get("/csrf")).json()["csrf"]
    assert (await client.get("/csrf", headers={"x-csrf": secret})).json()["good"] is True


async def test_the_attribute_that_says_who_is_signed_in_rotates_by_itself(
    memory: MemoryStore,
) -> None:
    place = Place(memory, ManualClock(), principal="user")
    client = browser(place.services[0])
    await client.post("/put", json={"cart": 1})
    before = id_of(client)
    await client.post("/put", json={"user": 7})
    after = id_of(client)
    assert before != after and (await client.get("/")).json()["who"] == "7"
    await client.post("/put", json={"user": 7, "cart": 2})
    assert id_of(client) == after
    await client.post("/drop?name=user")
    assert id_of(client) != after and (await client.get("/")).json()["data"] == {"cart": 2}
    assert (await browser(place.services[0], after).get("/")).json()["data"] == {}


async def test_the_same_attribute_twice_is_refused_where_that_was_asked_for(
    memory: MemoryStore,
) -> None:
    place = Place(memory, ManualClock(), conflicts="refused")
    client = browser(place.services[0])
    await client.post("/put", json={"a": "0"})
    seen, gate = place.sites[0].state.gates["a"]
    late = asyncio.create_task(client.post("/slow?gate=a&name=a&value=late"))
    await seen.wait()
    await client.post("/put", json={"a": "early"})
    gate.set()
    response = await late
    assert response.status_code == 409 and response.json()["retryable"] is True
    assert (await client.get("/")).json()["data"] == {"a": "early"}


async def test_what_is_changed_while_the_body_is_streamed_is_lost_and_said(
    here: Place, caplog: pytest.LogCaptureFixture
) -> None:
    client = browser(here.services[0])
    with caplog.at_level(logging.WARNING, "outlive.web"):
        assert (await client.get("/stream")).text == "onetwo"
    assert "changed after its response had begun" in caplog.text
    assert await here.rows() == []


async def test_one_device_more_than_allowed_signs_the_oldest_out(memory: MemoryStore) -> None:
    clock = memory._clock
    assert isinstance(clock, ManualClock)
    place = Place(memory, clock, devices_max=2)
    clients = [browser(place.services[0]) for _ in range(3)]
    for client in clients:
        await client.post("/login/ada")
        clock.advance(1)
    assert [(await client.get("/")).json()["who"] for client in clients] == ["", "ada", "ada"]


async def test_members_that_a_newer_version_wrote_are_kept(here: Place, memory: Any) -> None:
    client = browser(here.services[0])
    await client.post("/login/ada")
    (row,) = await here.rows()
    from outlive.model import Batch, Put

    newer = row.value[:-1] + b',"badge":{"level":3}}'
    await memory.commit(Batch(put=(Put(row.ref, newer, row.due),)))
    await client.post("/put", json={"a": 1})
    await client.post("/step-up")
    (row,) = await here.rows()
    assert b'"badge":{"level":3}' in row.value


class Torn(MemoryStore):
    """A store that can be out of reach."""

    away = False

    async def read(self, refs: Any) -> Any:
        if self.away:
            raise StoreUnavailable
        return await super().read(refs)


@pytest.mark.parametrize("unavailable", ["anonymous", "refused"])
async def test_a_store_out_of_reach_is_said_and_a_write_is_always_an_error(
    unavailable: str,
) -> None:
    store = Torn(clock=ManualClock())
    await store.open()
    place = Place(store, ManualClock(), unavailable=unavailable)
    client = browser(place.services[0])
    await client.post("/login/ada")
    id = id_of(client)
    store.away = True
    read, write = await client.get("/"), await client.post("/put", json={"a": 1})
    store.away = False
    assert write.status_code == 503 and int(write.headers["retry-after"]) >= 1
    assert "set-cookie" not in write.headers
    if unavailable == "refused":
        assert read.status_code == 503
    else:
        assert read.status_code == 200 and read.json()["who"] == ""
    assert (await client.get("/")).json()["who"] == "ada" and id_of(client) == id


async def test_a_broken_cookie_reaches_no_store(here: Place, memory: MemoryStore) -> None:
    await memory.close()  # any access would raise
    for text in ("", "x", "0" * 51, "0" * 53, "U" * 52, "../" * 17 + "a"):
        assert await here.sessions[0].load(text) is None


async def test_too_much_in_a_session_is_refused_loudly(here: Place) -> None:
    client = browser(here.services[0])
    response = await client.post("/put", json={"a": "x" * 70_000})
    assert response.status_code == 500 and response.json()["code"] == "OL5003"
    assert await here.rows() == []


# --- web sockets --------------------------------------------------------------------------------


async def talk(service: Any, cookie: str) -> tuple[asyncio.Task[None], Any, list[Any]]:
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    sent: list[Any] = []
    scope = {
        "type": "websocket", "path": "/socket", "query_string": b"", "root_path": "",
        "headers": [(b"cookie", f"{ID}={cookie}".encode())], "subprotocols": [],
    }  # fmt: skip
    incoming.put_nowait({"type": "websocket.connect"})

    async def send(message: Any) -> None:
        sent.append(message)

    task = asyncio.create_task(service(scope, incoming.get, send))
    return task, incoming, sent


async def until(true: Any) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_socket_sees_the_session_and_is_closed_when_it_ends(
    memory: MemoryStore, elsewhere: bool
) -> None:
    place = Place(memory, ManualClock(), look_seconds=0.01)
    client = browser(place.services[0])
    await client.post("/login/ada")
    task, _, sent = await talk(place.services[0], id_of(client))
    await until(lambda: len(sent) == 3)
    assert '"ada"' in sent[1]["text"] and "SessionReadOnly" in sent[2]["text"]
    await place.sessions[int(elsewhere)].revoke_all("ada")
    async with asyncio.timeout(30):
        await task
    assert sent[-1]["type"] == "websocket.close" and sent[-1]["code"] == 4401


async def test_in_the_place_of_a_response_that_lost_exactly_one_other_is_sent(here: Place) -> None:
    client = browser(here.services[0])
    await client.post("/login/ada")
    seen, gate = here.sites[0].state.gates["a"]
    query = b"gate=a&name=x&value=1"
    headers = {"cookie": f"{ID}={id_of(client)}"}
    exchange = Exchange(here.services[0], "POST", "/slow", headers, query_string=query)
    await seen.wait()
    await here.sessions[1].revoke_all("ada")
    gate.set()
    await exchange.end()
    assert [sent["type"] for sent in exchange.sent] == ["http.response.start", "http.response.body"]
    assert exchange.status == 401 and "session-expired" in exchange.text


async def test_it_takes_the_place_of_starlettes_middleware(here: Place) -> None:
    app = site()
    app.add_middleware(SessionMiddleware, sessions=here.sessions[0])
    client = browser(app)
    await client.post("/put", json={"user": "ada"})
    assert (await client.get("/")).json()["data"] == {"user": "ada"}
    assert "Max-Age=0" in (await client.post("/logout")).headers["set-cookie"]


async def test_a_save_never_makes_a_session(here: Place) -> None:
    reply = await here.sessions[0].ask(Save("0" * 64, {}, ()))
    assert reply.found is None and await here.rows() == []
