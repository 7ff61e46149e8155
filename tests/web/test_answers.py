"""Updates, queries and callbacks over HTTP: what is answered with 2xx is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from msgspec import Struct
from tests.web.conftest import until

from outlive import Outlive, Run, Seen, Update, Webhooks
from outlive.stores.memory import MemoryStore


class Address(Struct):
    street: str


class Receipt(Struct):
    number: int


move = Update("move", Address, Receipt)
tokens: list[str] = []


def shop() -> Outlive:
    app = Outlive(MemoryStore(shards=4), public_url="https://api.example.org")

    @app.process("/orders", version=1, updates=[move], callbacks={"scan": int})
    async def order(run: Run, item: str) -> str:
        scan = await run.callback("scan", type=int)
        tokens.append(scan.token)
        while True:
            asked = await run.wait_update(move)
            if asked.value.street == "end":
                return str(await scan)
            if asked.value.street == "nowhere":
                await asked.refuse("we do not ship there")
            elif asked.value.street != "silent":
                await asked.answer(Receipt(len(asked.value.street)))

    @app.query(of=order)
    def summary(seen: Seen, upper: bool = False) -> dict[str, str]:
        return {"item": seen.input.upper() if upper else seen.input}

    @app.query(of=order)
    def broken(seen: Seen) -> None:
        raise LookupError("a secret of the inside")

    @app.process("/others", version=1)
    async def other(run: Run) -> None:
        await run.wait("never")

    return app


@pytest.fixture
async def http(connect: Callable[..., httpx.AsyncClient]) -> AsyncIterator[httpx.AsyncClient]:
    tokens.clear()
    app = shop()
    async with app, connect(app.asgi()) as client:
        yield client


async def begin(http: httpx.AsyncClient, path: str = "/orders", body: Any = "tea") -> str:
    return str((await http.post(path, json=body)).headers["location"])


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


WAIT = {"prefer": "wait=20"}


async def test_an_update_is_answered_within_the_wait(http: httpx.AsyncClient) -> None:
    place = await begin(http)
    key = {"idempotency-key": '"k-1"'}
    for _ in range(2):
        answer = await http.post(
            f"{place}/updates/move", json={"street": "abc"}, headers=WAIT | key
        )
        assert answer.status_code == 200 and answer.headers["preference-applied"] == "wait=20"
        assert answer.headers["location"] == f"{place}/updates/move/k-1"
        assert answer.json()["status"] == "answered" and answer.json()["answer"] == {"number": 3}
    again = await http.get(answer.headers["location"])
    assert again.status_code == 200 and again.json() == answer.json()
    other = await http.post(f"{place}/updates/move", json={"street": "x"}, headers=key)
    assert_problem(other, 422, "OL2023")


async def test_without_patience_it_has_an_address_of_its_own(http: httpx.AsyncClient) -> None:
    place = await begin(http)
    key = {"idempotency-key": '"a b"'}
    for _ in range(2):
        answer = await http.post(f"{place}/updates/move", json={"street": "silent"}, headers=key)
        assert answer.status_code == 202 and int(answer.headers["retry-after"]) >= 1
    url = answer.headers["location"]
    assert "/updates/move/~" in url
    found = await http.get(url, headers={"prefer": "wait=0"})
    assert found.status_code == 200 and found.json()["status"] == "accepted"
    waits = asyncio.ensure_future(http.get(url, headers=WAIT))
    await until(lambda: bool(tokens), 20)
    await http.post(f"/outlive/callbacks/{tokens[0]}", json=5)
    await http.post(f"{place}/updates/move", json={"street": "end"})
    assert (await waits).json()["status"] == "unanswered"
    late = await http.post(f"{place}/updates/move", json={"street": "silent"}, headers=key)
    assert_problem(late, 409, "OL2062")


async def test_what_is_redacted_is_in_no_answer(
    connect: Callable[..., httpx.AsyncClient],
) -> None:
    app = Outlive(MemoryStore(shards=4), redact=("number",))
    say = Update("say", str, Receipt)

    @app.process("/tills", version=1, updates=[say])
    async def till(run: Run) -> None:
        asked = await run.wait_update(say)
        await asked.answer(Receipt(len(asked.value)))

    @app.query(of=till)
    def last(seen: Seen) -> list[Receipt]:
        return [Receipt(3)]

    async with app, connect(app.asgi()) as client:
        place = await begin(client, "/tills", None)
        answer = await client.post(f"{place}/updates/say", json="abc", headers=WAIT)
        assert answer.json()["answer"] == {"number": "…"}
        assert (await client.get(answer.headers["location"])).json()["answer"] == {"number": "…"}
        assert (await client.get(f"{place}/queries/last")).json() == [{"number": "…"}]
        handle = app.handle(place.rpartition("/")[2])
        assert await handle.query(last) == [Receipt(3)], "a program gets the whole"


async def test_a_refusal_is_a_problem_and_stays_one(http: httpx.AsyncClient) -> None:
    place = await begin(http)
    headers = WAIT | {"idempotency-key": "k"}
    for _ in range(2):
        answer = await http.post(
            f"{place}/updates/move", json={"street": "nowhere"}, headers=headers
        )
        assert_problem(answer, 409, "OL2061")
        assert answer.json()["detail"] == "we do not ship there"
    found = (await http.get(f"{place}/updates/move/k")).json()
    assert found["status"] == "refused" and found["problem"]["code"] == "OL2061"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/updates/move", b"{", 400, "OL2020"),
        ("POST", "/updates/move", b'{"street":1}', 422, "OL2021"),
        ("POST", "/updates/move", b"", 422, "OL2021"),
        ("POST", "/updates/move", b'"' + b"x" * 70_000 + b'"', 413, "OL4005"),
        ("POST", "/updates/nope", b"{}", 409, "OL2060"),
        ("GET", "/updates/move", b"", 405, "OL4002"),
        ("GET", "/updates/move/k", b"", 404, "OL2063"),
        ("GET", "/updates/move/k/k", b"", 404, "OL4001"),
        ("GET", "/updates//k", b"", 404, "OL4001"),
        ("GET", "/queries/nope", b"", 404, "OL2067"),
        ("GET", "/queries/summary?upper=perhaps", b"", 422, "OL2021"),
        ("GET", "/queries/summary?more=1", b"", 422, "OL2021"),
        ("GET", "/queries/summary?%FF", b"", 422, "OL4003"),
        ("POST", "/queries/summary", b"{}", 405, "OL4002"),
        ("GET", "/queries/broken", b"", 500, "OL0000"),
    ],
)
async def test_what_is_wrong_is_a_problem(
    http: httpx.AsyncClient, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    place = await begin(http)
    answer = await http.request(method, place + path, content=body)
    assert_problem(answer, status, code)
    assert "secret" not in answer.text


async def test_nothing_is_asked_of_a_process_under_another_path(http: httpx.AsyncClient) -> None:
    id = (await begin(http)).rpartition("/")[2]
    for path in ("updates/move/k", "queries/summary"):
        assert_problem(await http.get(f"/others/{id}/{path}"), 404, "OL2001")
    answer = await http.post(f"/others/{id}/updates/move", json={"street": "a"})
    assert_problem(answer, 404, "OL2001")


async def test_a_query_is_computed(http: httpx.AsyncClient) -> None:
    place = await begin(http)
    assert (await http.get(f"{place}/queries/summary")).json() == {"item": "tea"}
    assert (await http.get(f"{place}/queries/summary?upper=true")).json() == {"item": "TEA"}


async def test_a_callback_is_taken_once_without_authorisation(
    http: httpx.AsyncClient, connect: Callable[..., httpx.AsyncClient]
) -> None:
    place = await begin(http)
    await until(lambda: bool(tokens), 20)
    url = f"/outlive/callbacks/{tokens[0]}"
    transport: Any = http._transport
    async with connect(transport.app, peer="203.0.113.9") as away:
        assert_problem(await away.post(url, content=b'"x"'), 422, "OL2021")
        assert_problem(await away.post(url, content=b"{"), 400, "OL2020")
        assert_problem(await away.post(url, content=b"[" * 5000), 413, "OL4005")
        assert_problem(await away.get(url), 405, "OL4002")
        assert_problem(await away.post(url[:-1], json=7), 404, "OL2064")
        assert (await away.post(url, json=7)).json() == {"status": "taken"}
        again = await away.post(url, json=7)
        assert again.status_code == 200 and again.headers["idempotent-replayed"] == "true"
        assert_problem(await away.post(url, json=8), 409, "OL2066")
    await http.post(f"{place}/updates/move", json={"street": "end"})
    body = (await http.get(place, headers=WAIT)).json()
    assert body["result"] == "7" and tokens[0] not in str(body)


async def test_a_callback_of_what_has_ended_is_gone(http: httpx.AsyncClient) -> None:
    place = await begin(http)
    await until(lambda: bool(tokens), 20)
    await http.post(f"{place}/cancel")
    await http.get(place, headers=WAIT)
    assert_problem(await http.post(f"/outlive/callbacks/{tokens[0]}", json=7), 410, "OL2065")


async def test_who_is_told_of_the_end_is_a_header_of_the_start(
    connect: Callable[..., httpx.AsyncClient],
) -> None:
    app = shop()
    app.webhooks = Webhooks(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    async with app, connect(app.asgi()) as http:
        bad = {"outlive-notify": "https://ann:pw@169.254.169.254/latest?x=pw"}
        answer = await http.post("/orders", json="tea", headers=bad)
        assert_problem(answer, 422, "OL2069")
        assert "pw" not in answer.text and (await http.get("/orders")).json()["items"] == []
        good = {"outlive-notify": "https://ann:pw@hooks.example.org/x?y=pw"}
        place = (await http.post("/orders", json="tea", headers=good)).headers["location"]
        found = await http.get(f"{place}/notice")
        assert found.json() == {
            "url": "https://…@hooks.example.org/x?…",
            "status": "planned",
            "attempts": 0,
            "said": "",
            "dueAt": None,
        }
        assert_problem(await http.post(f"{place}/notify"), 409, "OL3020")
        silent = await begin(http)
        assert_problem(await http.get(f"{silent}/notice"), 409, "OL3020")
        async with connect(app.asgi(), peer="203.0.113.9") as away:
            assert_problem(await away.get(f"{place}/notice"), 403, "OL4006")
            assert_problem(await away.post(f"{place}/notify"), 403, "OL4006")
        paths = (await http.get("/openapi.json")).json()["paths"]
        headers = [found.get("name") for found in paths["/orders"]["post"]["parameters"]]
        assert "Outlive-Notify" in headers and "/orders/{id}/notice" in paths
