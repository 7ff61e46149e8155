"""A limiter in front of an application: what a client sees, and who it is taken for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import http_sf
import httpx
import pytest
from starlette.authentication import SimpleUser, UnauthenticatedUser

from outlive import Outlive, Quota
from outlive.clock import ManualClock
from outlive.doors.ratelimits import RateLimiter
from outlive.errors import StoreUnavailable
from outlive.stores.memory import MemoryStore
from outlive.web.ratelimits import IANA, by_address, by_user


async def plain(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        return
    headers = [(b"x-own", b"1"), (b"ratelimit", b"other")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"done"})


@pytest.fixture
async def app() -> AsyncIterator[Outlive]:
    clock = ManualClock()
    made = Outlive(MemoryStore(clock=clock), clock=clock)
    await made.open_client()
    yield made
    await made.close()


def client(limits: RateLimiter, **options: Any) -> httpx.AsyncClient:
    served = httpx.ASGITransport(limits.asgi(plain, **options), client=("10.0.0.7", 1))
    return httpx.AsyncClient(transport=served, base_url="http://service")


def field(response: httpx.Response, name: str) -> Any:
    return http_sf.parse(response.headers[name].encode(), tltype="list")


async def test_every_answer_says_what_is_left(app: Outlive) -> None:
    limits = app.ratelimits(
        Quota("burst", 20), Quota("daily", 1000, per_seconds=86_400, algorithm="fixed")
    )
    async with client(limits) as asking:
        answer = await asking.get("/")
    assert (answer.status_code, answer.text, answer.headers["x-own"]) == (200, "done", "1")
    assert answer.headers["ratelimit-policy"] == '"burst";q=20;w=1, "daily";q=1000;w=86400'
    assert answer.headers.get_list("ratelimit")[0].startswith('"burst";r=19;t=1, "daily";r=999;t=')
    assert len(answer.headers.get_list("ratelimit")) == 1, "there is one writer of the field"
    (burst, daily) = field(answer, "ratelimit")
    assert burst == ("burst", {"r": 19, "t": 1}) and 0 < daily[1]["t"] <= 86_400


async def test_what_is_refused_is_a_problem_that_says_when_to_come_back(app: Outlive) -> None:
    limits = app.ratelimits(Quota("burst", 1, per_seconds=40), Quota("other", 9))
    async with client(limits) as asking:
        await asking.get("/")
        answer = await asking.get("/")
        head = await asking.head("/")
    assert (answer.status_code, answer.headers["content-type"]) == (429, "application/problem+json")
    assert 40 <= int(answer.headers["retry-after"]) <= 50
    assert field(answer, "ratelimit")[0] == ("burst", {"r": 0, "t": 40})
    problem = answer.json()
    assert (problem["type"], problem["status"]) == (f"{IANA}quota-exceeded", 429)
    assert problem["violated-policies"] == ["burst"] and problem["retryable"]
    assert (head.status_code, head.content) == (429, b"")


async def test_shadow_mode_says_what_it_would_have_refused(app: Outlive) -> None:
    limits = app.ratelimits(Quota("strict", 1, shadow=True), Quota("burst", 5))
    async with client(limits) as asking:
        answers = [await asking.get("/") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "outlive-ratelimit-shadow" not in answers[0].headers
    assert field(answers[1], "outlive-ratelimit-shadow") == [("strict", {})]
    assert field(answers[1], "ratelimit-policy") == [("burst", {"q": 5, "w": 1})]


async def test_a_store_that_is_away_is_503_or_lets_pass(app: Outlive) -> None:
    async def away(batches: Any) -> Any:
        raise StoreUnavailable()

    app.store._store.commit_group = away  # type: ignore[attr-defined]
    closed = app.ratelimits(Quota("burst", 5), on_failure="closed")
    async with client(closed) as asking:
        answer = await asking.get("/")
    assert (answer.status_code, answer.json()["type"]) == (503, f"{IANA}temporary-reduced-capacity")
    assert int(answer.headers["retry-after"]) >= 1
    async with client(app.ratelimits(Quota("burst", 5))) as asking:
        answer = await asking.get("/")
    assert answer.status_code == 200 and answer.headers["ratelimit"] == "other"


async def test_a_request_has_a_cost_and_a_plan(app: Outlive) -> None:
    limits = app.ratelimits(Quota("burst", 3, per_seconds=60, plans={"gold": 30}))
    options = {
        "cost": lambda scope: 3 if scope["path"] == "/dear" else 1,
        "plan": lambda scope: scope["query_string"].decode(),
    }
    async with client(limits, **options) as asking:
        assert field(await asking.get("/dear?gold"), "ratelimit")[0][1]["r"] == 27
    async with client(limits, key=lambda scope: "eve", **options) as asking:
        assert [(await asking.get("/dear")).status_code for _ in range(2)] == [200, 429]


async def test_who_is_not_limited_passes_and_so_does_what_is_no_request(app: Outlive) -> None:
    limits = app.ratelimits(Quota("burst", 1, per_seconds=60))
    async with client(limits, key=by_user()) as asking:
        answers = [await asking.get("/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    seen = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await limits.asgi(inner)({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]


async def of_two_sockets(app: Outlive, extensions: Any = None) -> list[Any]:
    """What two are told that want to open, where one may; `extensions` are the server's."""
    guard = app.ratelimits(Quota("sockets", 1, per_seconds=60)).asgi(plain)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    for _ in range(2):
        asked = {"type": "websocket", "headers": [], "client": ("1.2.3.4", 5)}
        asked["extensions"] = extensions or {}
        await guard(asked, receive, send)
    return sent


async def test_a_websocket_is_charged_when_it_opens_and_closed_when_it_may_not(
    app: Outlive,
) -> None:
    sent = await of_two_sockets(app)
    assert sent == [{"type": "websocket.accept"}, {"type": "websocket.close", "code": 4429}]


async def test_a_websocket_that_may_not_open_is_told_when_to_come_back(app: Outlive) -> None:
    _, start, body = await of_two_sockets(app, {"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
    assert int(dict(start["headers"])[b"retry-after"]) >= 60
    assert body["type"] == "websocket.http.response.body"
    assert json.loads(body["body"])["violated-policies"] == ["sockets"]


def scope(peer: str, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", line.encode()) for line in forwarded]
    return {"type": "http", "client": (peer, 1), "headers": headers}


def test_only_what_our_own_proxies_have_written_is_believed() -> None:
    none, one, two = (by_address(hops=hops) for hops in range(3))
    spoofed = scope("10.0.0.1", "6.6.6.6, 1.2.3.4")
    assert none(spoofed) == "10.0.0.1"
    assert one(spoofed) == "1.2.3.4"
    assert two(scope("10.0.0.1", "6.6.6.6, 1.2.3.4", "10.0.0.2")) == "1.2.3.4"
    assert two(scope("9.9.9.9", "1.2.3.4")) == "9.9.9.9", "it came past the proxies"
    assert one(scope("9.9.9.9")) == "9.9.9.9"
    assert none({"type": "http", "headers": [], "client": None}) == ""


def test_an_address_is_taken_for_what_one_customer_has() -> None:
    key = by_address(hops=1)
    for text, wanted in (
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:443", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("1.2.3.4:5678", "1.2.3.4"),
        ("unknown", "unknown"),
    ):
        assert key(scope("10.0.0.1", text)) == wanted
    assert by_address(hops=1, ipv6_prefix=48)(scope("::1", "2001:db8:1:2::9")) == "2001:db8:1::/48"
    for wrong in ({"hops": -1}, {"ipv6_prefix": 0}):
        with pytest.raises(ValueError, match="hops"):
            by_address(**wrong)


def test_a_user_is_who_the_authentication_says() -> None:
    key = by_user(otherwise=by_address())
    assert key({"user": SimpleUser("ada"), **scope("1.2.3.4")}) == "user:ada"
    assert key({"user": UnauthenticatedUser(), **scope("1.2.3.4")}) == "1.2.3.4"
    assert by_user()(scope("1.2.3.4")) is None
