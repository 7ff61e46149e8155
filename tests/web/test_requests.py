"""Idempotency keys over ASGI: 400, 409, 422, exact replay, and one effect whoever leaves or dies.

How it reads:

    keys = app.requests()
    rules = [Rule(route="POST /charges", mode="transactional"), Rule(route="POST /mails")]
    service = IdempotencyMiddleware(api, keys, rules)

    async def charge(request):
        return JSONResponse(await once_of(request).transact(book, form), 201)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.authentication import SimpleUser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.kinds.stores import STORES, made, opened
from tests.web.driver import Exchange

from outlive.clock import ManualClock
from outlive.doors.requests import Requests
from outlive.errors import StoreUnavailable
from outlive.kinds.requests.decisions import Answer, Place
from outlive.stores.memory import MemoryStore
from outlive.web.requests import IdempotencyMiddleware, Rule, principal_of

KEY = {"idempotency-key": '"order-17"'}
LEASE, DAY = 30.0, 86_400.0


class Shop:
    """Handlers that count what they do."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.seen, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()
        self.status = 201
        self.raises: Exception | None = None
        routes = [
            Route("/orders", self.order, methods=["POST", "GET", "PUT"]),
            Route("/orders/{id}/lines", self.line, methods=["POST"]),
            Route("/stream", self.stream, methods=["POST"]),
            Route("/free", self.order, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)

    async def order(self, request: Request) -> Response:
        body = await request.body()
        self.seen.set()
        await self.gate.wait()
        if self.raises is not None:
            raise self.raises
        self.done.append(body)
        headers = {"location": "/orders/1", "set-cookie": "a=1", "date": "now", "x-other": "1"}
        return JSONResponse({"n": len(self.done), "é": 1.50}, self.status, headers)

    async def line(self, request: Request) -> Response:
        self.done.append(request.path_params["id"])
        return Response(b"\x00\xff raw", 200, media_type="application/octet-stream")

    async def stream(self, request: Request) -> Response:
        self.done.append("stream")

        async def body() -> AsyncIterator[bytes]:
            for _ in range(4):
                yield b"x" * 100

        return StreamingResponse(body(), 201, {"location": "/files/9"})


class Place_:
    """One service (or two instances of it) over a store."""

    def __init__(self, store: Any, clock: ManualClock, instances: int = 1, **rule: Any) -> None:
        self.store, self.clock, self.shop = store, clock, Shop()
        rules = [
            Rule(route="POST /orders", **rule),
            Rule(route="POST /orders/{id}/lines", **rule),
            Rule(route="POST /stream", **{"answer_bytes_max": 250, **rule}),
        ]
        self.keys = [
            Requests(store, storage=store.keeps[-1], lease_seconds=LEASE) for _ in range(instances)
        ]
        self.services = [IdempotencyMiddleware(self.shop.app, keys, rules) for keys in self.keys]
        self.clients = [client(service) for service in self.services]
        self.http = self.clients[0]


def client(service: Any, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(service, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="https://shop.test", headers=headers)


@pytest.fixture(params=STORES)
def unopened(request: pytest.FixtureRequest) -> Any:
    """Not async: a server starts with a loop of its own."""
    clock = ManualClock()
    return made(request, clock), clock


@pytest.fixture
async def place(unopened: Any) -> AsyncIterator[Place_]:
    async with opened(unopened[0]) as store:
        yield Place_(store, unopened[1], instances=2)


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with opened(MemoryStore(clock=ManualClock())) as store:
        yield store


def here(store: Any, **rule: Any) -> Place_:
    return Place_(store, store._clock, instances=2, **rule)


# --- on every store -----------------------------------------------------------------------------


async def test_a_repetition_gets_the_same_answer_from_any_instance(place: Place_) -> None:
    first = await place.clients[0].post("/orders", json={"a": 1, "b": 2}, headers=KEY)
    again = await place.clients[1].post(
        "/orders", content=b'{"b": 2.0,  "a": 1}',
        headers={**KEY, "traceparent": "00-1-2-3", "content-type": "application/json"},
    )  # fmt: skip
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content and len(place.shop.done) == 1
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == "/orders/1"
    assert again.headers["content-type"] == first.headers["content-type"]
    for gone in ("set-cookie", "date", "x-other"):
        assert gone in first.headers and gone not in again.headers


async def test_the_same_key_for_something_else_is_refused(place: Place_) -> None:
    await place.http.post("/orders", json={"a": 1}, headers=KEY)
    other = await place.clients[1].post("/orders", json={"a": 2}, headers=KEY)
    assert other.status_code == 422 and other.json()["code"] == "OL2023"
    asked = await place.http.post("/orders?cents=5", json={"a": 1}, headers=KEY)
    assert asked.status_code == 422  # what stands in the query is a value as any other
    assert len(place.shop.done) == 1


async def test_many_at_once_have_one_effect_and_one_answer(place: Place_) -> None:
    place.shop.gate.clear()
    asked = [
        asyncio.create_task(
            place.clients[number % 2].post("/orders", json={}, headers={**KEY, "prefer": "wait=20"})
        )
        for number in range(100)
    ]
    await place.shop.seen.wait()
    place.shop.gate.set()
    answers = await asyncio.gather(*asked)
    assert len(place.shop.done) == 1
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (201, answers[0].content)
    }
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1


async def test_a_dead_owner_leaves_an_unknown_outcome_that_only_an_operator_ends(
    place: Place_,
) -> None:
    place.shop.gate.clear()
    exchange = Exchange(
        place.services[0], "POST", "/orders", KEY | {"content-type": "application/json"}, [b"{}"]
    )
    await place.shop.seen.wait()
    (owner,) = place.services[0]._owners
    place.keys[0].call_later = lambda *_: None  # type: ignore[assignment, method-assign]
    running = await place.clients[1].post("/orders", json={}, headers=KEY)
    assert running.status_code == 409 and int(running.headers["retry-after"]) >= 1
    assert running.json()["code"] == "OL5102" and running.json()["retryable"] is True
    place.clock.advance(LEASE + 1)
    unknown = await place.clients[1].post("/orders", json={}, headers=KEY)
    assert unknown.status_code == 409 and unknown.json()["code"] == "OL5103"
    assert "retry-after" not in unknown.headers
    place.shop.gate.set()  # the owner was only frozen: it comes late, and is refused
    await asyncio.wait({owner})
    await exchange.end()
    assert exchange.status == 409
    place.clock.advance(365 * DAY)
    assert await place.keys[1].sweep() == 0
    (record,) = await place.keys[1].unknown()
    assert (record.state, record.late, record.place.key) == ("unknown", 201, "order-17")
    answer = Answer(201, (("location", "/orders/1"),), b"{}")
    await place.keys[1].resolve(record.place, answer, by="ops", why="the ledger has it")
    replayed = await place.http.post("/orders", json={}, headers=KEY)
    assert (replayed.status_code, replayed.content) == (201, b"{}")
    kept = await place.keys[0].look(record.place)
    assert [(note.by, note.why) for note in kept.notes] == [("ops", "the ledger has it")]
    assert len(place.shop.done) == 1


async def test_the_retention_starts_with_the_completion_and_then_the_key_is_new(
    place: Place_,
) -> None:
    await place.http.post("/orders", json={}, headers=KEY)
    place.clock.advance(7 * DAY - 1)
    assert (await place.http.post("/orders", json={}, headers=KEY)).headers["idempotent-replayed"]
    place.clock.advance(2)
    again = await place.http.post("/orders", json={"other": 1}, headers=KEY)
    assert again.status_code == 201 and len(place.shop.done) == 2
    place.clock.advance(7 * DAY + 1)
    assert await place.keys[0].sweep() == 1


# --- what does not depend on the store ----------------------------------------------------------


@pytest.mark.parametrize("sent", [None, "", '"', '"a', '"a"; b', 'a b', '"a", "b"', "é",
                                  '"' + "x" * 256 + '"'])  # fmt: skip
async def test_a_missing_or_broken_key_is_refused_with_a_page(
    store: MemoryStore, sent: str | None
) -> None:
    place = here(store)
    headers = {} if sent is None else {"idempotency-key": sent.encode()}
    response = await place.http.post("/orders", json={}, headers=headers)  # type: ignore[arg-type]
    assert response.status_code == 400 and place.shop.done == []
    assert response.json()["type"].startswith("/outlive/problems/")
    assert 'rel="help"' in response.headers["link"]


async def test_the_page_of_a_refusal_is_percent_encoded_under_a_prefix(store: MemoryStore) -> None:
    transport = httpx.ASGITransport(here(store).services[0], root_path="/größte shop")
    async with httpx.AsyncClient(transport=transport, base_url="https://shop.test") as http:
        response = await http.post("/orders", json={})
    page = response.json()["type"]
    assert page.startswith("/gr%C3%B6%C3%9Fte%20shop/outlive/problems/")
    assert response.headers["link"] == f'<{page}>; rel="help"'


async def test_a_bare_key_is_taken_unless_the_rule_is_strict(store: MemoryStore) -> None:
    bare = {"idempotency-key": "order-17"}
    assert (await here(store).http.post("/orders", json={}, headers=bare)).status_code == 201
    strict = here(store, strict=True)
    assert (await strict.http.post("/orders", json={}, headers=bare)).status_code == 400


async def test_other_methods_other_routes_and_optional_keys_pass(store: MemoryStore) -> None:
    place = here(store, required=False)
    for method, path in (("PUT", "/orders"), ("GET", "/orders"), ("POST", "/free")):
        await place.http.request(method, path, headers=KEY)
        await place.http.request(method, path, headers=KEY)
    await place.http.post("/orders")
    assert len(place.shop.done) == 7
    with pytest.raises(ValueError, match="idempotent by themselves"):
        Rule(route="PUT /orders")
    with pytest.raises(ValueError, match="set-cookie"):
        Rule(route="POST /orders", headers=("Set-Cookie",))


async def test_a_key_belongs_to_one_caller_one_route_and_one_method(store: MemoryStore) -> None:
    place = here(store)
    for token in ("one", "two"):
        http = client(place.services[0], authorization=f"Bearer {token}")
        assert (await http.post("/orders", json={}, headers=KEY)).status_code == 201
    await place.http.post("/orders/5/lines", headers=KEY)
    other = await place.http.post("/orders/6/lines", headers=KEY)
    assert other.status_code == 422  # the template is the scope, its values are the request
    assert len(place.shop.done) == 3


async def test_bytes_that_are_no_text_are_given_again_as_they_were(store: MemoryStore) -> None:
    place = here(store)
    first = await place.http.post("/orders/5/lines", headers=KEY)
    again = await place.http.post("/orders/5/lines", headers=KEY)
    assert first.content == again.content == b"\x00\xff raw"
    assert again.headers["content-type"] == "application/octet-stream"


async def test_an_answer_too_large_to_keep_is_recorded_as_done(store: MemoryStore) -> None:
    place = here(store)
    first = await place.http.post("/stream", headers=KEY)
    assert first.status_code == 201 and first.content == b"x" * 400
    again = await place.http.post("/stream", headers=KEY)
    assert again.status_code == 409 and again.json()["code"] == "OL5104"
    assert again.json()["location"] == "/files/9" and place.shop.done == ["stream"]


async def test_a_body_too_large_uses_no_key(store: MemoryStore) -> None:
    place = here(store, body_bytes_max=10)
    assert (await place.http.post("/orders", content=b"x" * 11, headers=KEY)).status_code == 413
    assert (await place.http.post("/orders", content=b"x" * 9, headers=KEY)).status_code == 201


@pytest.mark.parametrize("status", [401, 403, 408, 413, 422, 429])
async def test_a_refusal_before_anything_began_gives_the_key_back(
    store: MemoryStore, status: int
) -> None:
    place = here(store)
    place.shop.status = status
    assert (await place.http.post("/orders", json={}, headers=KEY)).status_code == status
    place.shop.status = 201
    again = await place.http.post("/orders", json={"other": 1}, headers=KEY)
    assert again.status_code == 201 and "idempotent-replayed" not in again.headers


@pytest.mark.parametrize(("errors", "times"), [("store", 1), ("release", 2)])
async def test_what_a_server_error_means_is_declared(
    store: MemoryStore, errors: str, times: int
) -> None:
    place = here(store, server_errors=errors)
    place.shop.status = 500
    for _ in range(2):
        assert (await place.http.post("/orders", json={}, headers=KEY)).status_code == 500
    assert len(place.shop.done) == times


async def test_a_business_refusal_is_given_again(store: MemoryStore) -> None:
    place = here(store)
    place.shop.status = 402
    for _ in range(2):
        assert (await place.http.post("/orders", json={}, headers=KEY)).status_code == 402
    assert len(place.shop.done) == 1


async def test_a_handler_that_raised_has_answered_500_and_that_is_given_again(
    store: MemoryStore,
) -> None:
    place = here(store)
    place.shop.raises = RuntimeError("half-way")
    first = await place.http.post("/orders", json={}, headers=KEY)
    place.shop.raises = None
    again = await place.http.post("/orders", json={}, headers=KEY)
    assert (first.status_code, again.status_code) == (500, 500) and place.shop.done == []


async def test_an_error_without_an_answer_is_an_unknown_outcome(store: MemoryStore) -> None:
    async def bare(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("half-way")

    keys = Requests(store)
    service = IdempotencyMiddleware(bare, keys, [Rule(route="POST /orders")])
    http = client(service)
    assert (await http.post("/orders", headers=KEY)).status_code == 500
    assert (await http.post("/orders", headers=KEY)).json()["code"] == "OL5103"
    (record,) = await keys.unknown()
    await keys.resolve(record.place, None, by="ops", why="nothing was charged")
    assert (await http.post("/orders", headers=KEY)).status_code == 500  # carried out again


async def test_a_client_that_leaves_does_not_stop_the_work(store: MemoryStore) -> None:
    place = here(store)
    place.shop.gate.clear()
    exchange = Exchange(place.services[0], "POST", "/orders", KEY, [b"{}"])
    await place.shop.seen.wait()
    exchange.leave()
    exchange.task.cancel()  # what some servers do
    await asyncio.wait({exchange.task})
    place.shop.gate.set()
    again = await place.http.post("/orders", content=b"{}", headers=KEY | {"prefer": "wait=20"})
    assert again.status_code == 201 and again.headers["idempotent-replayed"] == "true"
    assert len(place.shop.done) == 1


async def test_the_lease_is_renewed_while_the_owner_lives(store: MemoryStore) -> None:
    place = here(store)
    beats: list[Any] = []

    def later(seconds: float, call: Any) -> _Never:
        beats.append((seconds, call))
        return _Never()

    place.keys[0].call_later = later  # type: ignore[method-assign]
    place.shop.gate.clear()
    asked = asyncio.create_task(place.http.post("/orders", json={}, headers=KEY))
    await place.shop.seen.wait()
    for number in range(12):
        async with asyncio.timeout(30):
            while len(beats) <= number or not place.keys[0]._hearts:
                await asyncio.sleep(0.001)
        seconds, beat = beats[number]
        assert seconds == LEASE / 6
        place.clock.advance(seconds)
        beat()
    async with asyncio.timeout(30):
        while not place.keys[0]._hearts:
            await asyncio.sleep(0.001)
    assert (await place.clients[1].post("/orders", json={}, headers=KEY)).json()["code"] == "OL5102"
    place.shop.gate.set()
    assert (await asked).status_code == 201


class _Never:
    def cancel(self) -> None:
        """Nothing is planned."""


class Torn(MemoryStore):
    """A store that can be out of reach."""

    away = False

    async def read(self, refs: Any) -> Any:
        if self.away:
            raise StoreUnavailable
        return await super().read(refs)


async def test_without_the_store_a_route_is_never_run_without_its_key() -> None:
    async with opened(Torn(clock=ManualClock())) as store:
        place = here(store)
        store.away = True
        response = await place.http.post("/orders", json={}, headers=KEY)
        assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
        assert place.shop.done == []


async def test_who_may_not_any_more_gets_no_answer_of_an_earlier_request(
    store: MemoryStore,
) -> None:
    allowed = True

    async def admit(scope: Any) -> bool:
        return allowed

    shop = Shop()
    service = IdempotencyMiddleware(
        shop.app, Requests(store), [Rule(route="POST /orders")], admit=admit
    )
    http = client(service)
    assert (await http.post("/orders", json={}, headers=KEY)).status_code == 201
    allowed = False
    refused = await http.post("/orders", json={}, headers=KEY)
    assert refused.status_code == 403 and refused.json()["code"] == "OL4009"


async def test_fields_that_do_not_count_may_differ(store: MemoryStore) -> None:
    place = here(store, fields=("amount",))
    for at in (1, 2):
        sent = {"amount": 5, "at": at}
        assert (await place.http.post("/orders", json=sent, headers=KEY)).status_code == 201
    assert len(place.shop.done) == 1
    changed = await place.http.post("/orders", json={"amount": 6}, headers=KEY)
    assert changed.status_code == 422


async def test_a_record_of_a_newer_version_is_left_to_it(store: MemoryStore) -> None:
    from outlive.kinds.requests.decisions import put_of
    from outlive.model import Batch

    place = here(store)
    await place.http.post("/orders", json={}, headers=KEY)
    named = Place("order-17", "", "", "POST", "/orders")
    record = await place.keys[0].look(named)
    newer = replace(record, fingerprint="3:" + record.fingerprint[2:])
    await store.commit(Batch(put=(put_of(newer),)))
    response = await place.http.post("/orders", json={}, headers=KEY)
    assert response.status_code == 503 and len(place.shop.done) == 1


async def test_an_operator_looks_expires_and_erases(store: MemoryStore) -> None:
    place = here(store)
    keys, named = place.keys[0], Place("order-17", "", "", "POST", "/orders")
    await place.http.post("/orders", json={}, headers=KEY)
    record = await keys.look(named)
    assert record.state == "done" and record.answer is not None
    assert json.loads(record.answer.body)["n"] == 1
    await keys.expire(named, by="ops", why="a test")
    assert (await place.http.post("/orders", json={"x": 1}, headers=KEY)).status_code == 201
    with pytest.raises(ValueError, match="name a principal or a tenant"):
        await keys.erase("")
    assert (await place.http.post("/orders", headers={**KEY, "authorization": "x"})).is_success
    assert await keys.erase(principal_of({"headers": [(b"authorization", b"x")]})) == 1
    assert [cell.key for cell in await store.scan("once")] == [named.name]


async def test_the_end_of_the_life_span_waits_for_what_is_carried_out(store: MemoryStore) -> None:
    place = here(store)
    place.shop.gate.clear()
    asked = asyncio.create_task(place.http.post("/orders", json={}, headers=KEY))
    await place.shop.seen.wait()
    told: asyncio.Queue[Any] = asyncio.Queue()
    told.put_nowait({"type": "lifespan.startup"})
    told.put_nowait({"type": "lifespan.shutdown"})
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message["type"])

    span = asyncio.create_task(place.services[0]({"type": "lifespan"}, told.get, send))
    async with asyncio.timeout(30):
        while "lifespan.startup.complete" not in said:
            await asyncio.sleep(0.001)
    assert not span.done()
    place.shop.gate.set()
    assert (await asked).status_code == 201
    async with asyncio.timeout(30):
        await span
    assert said[-1] == "lifespan.shutdown.complete"


async def test_json_nested_deeper_than_anybody_reads_is_compared_by_its_bytes(
    store: MemoryStore,
) -> None:
    place = here(store)
    deep = b"[" * 700 + b"]" * 700
    headers = {**KEY, "content-type": "application/json"}
    first = await place.http.post("/orders", content=deep, headers=headers)
    again = await place.http.post("/orders", content=deep, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["idempotent-replayed"] == "true"
    assert (await place.http.post("/orders", content=b"[]", headers=headers)).status_code == 422


async def test_a_stream_of_events_ends_when_its_client_leaves(store: MemoryStore) -> None:
    ended, left, sent = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def events(request: Request) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"data: 1\n\n"
                    sent.set()
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

        return StreamingResponse(body(), 200, media_type="text/event-stream")

    app = Starlette(routes=[Route("/events", events, methods=["POST"])])
    service = IdempotencyMiddleware(
        app, Requests(store, storage="volatile"), [Rule(route="POST /events")]
    )
    asked = False

    async def receive() -> Any:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"{}", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if left.is_set():
            raise OSError("the client has left")

    scope = {
        "type": "http", "method": "POST", "path": "/events", "query_string": b"",
        "headers": [(b"idempotency-key", b'"k"')], "asgi": {"spec_version": "2.3"},
    }  # fmt: skip
    exchange = asyncio.create_task(service(scope, receive, send))
    await sent.wait()
    left.set()
    async with asyncio.timeout(5):
        await ended.wait()
        await exchange


async def test_two_users_with_one_name_on_display_are_two(store: MemoryStore) -> None:
    class User:
        is_authenticated, display_name = True, "Jo Smith"

        def __init__(self, identity: str) -> None:
            self.identity = identity

    found = {principal_of({"user": User(id), "headers": []}) for id in ("7", "8")}
    assert len(found) == 2
    simple = SimpleUser("jo")  # its identity is not implemented
    assert principal_of({"user": simple, "headers": []}) == "user:jo"
