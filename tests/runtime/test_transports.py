"""Guarded requests: what is retried, what counts, and when a call has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from outlive.clock import ManualClock
from outlive.errors import BreakerOpen, BulkheadFull
from outlive.kinds.breakers.rule import Breaker, RetryBudget
from outlive.runtime.dependencies import Dependency
from outlive.steps import Retry

BREAKER = Breaker(calls_min=4, window_calls=8, open_seconds=5.0)
PLENTY = RetryBudget(ratio=1.0, floor_per_second=100.0)
URL = "http://partner.test/charges"


class Body(httpx.AsyncByteStream):
    """A body that may break off."""

    def __init__(self, breaks: bool = False) -> None:
        self.breaks = breaks
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"half"
        if self.breaks:
            raise httpx.ReadError("broken off")
        yield b"whole"

    async def aclose(self) -> None:
        self.closed = True


class Partner(httpx.AsyncBaseTransport):
    """Answers with what it is given: a status, a body, an error."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.seen: list[httpx.Request] = []
        self.bodies: list[Body] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        found = self.answers.pop(0) if self.answers else 200
        if isinstance(found, Exception):
            raise found
        body = found if isinstance(found, Body) else Body()
        self.bodies.append(body)
        return httpx.Response(found if isinstance(found, int) else 200, stream=body)


def client_of(partner: Partner, **how: Any) -> tuple[httpx.AsyncClient, Dependency]:
    made = Dependency(
        "partner", breaker=BREAKER, retry=Retry(attempts=3, base_seconds=0.0), budget=PLENTY,
        clock=ManualClock(), **how,
    )  # fmt: skip
    return httpx.AsyncClient(transport=made.transport(partner)), made


async def test_what_may_be_sent_twice_is_and_each_answer_left_over_is_closed() -> None:
    partner = Partner(503, httpx.ConnectError("refused"), 200)
    client, made = client_of(partner)
    assert (await client.get(URL)).text == "halfwhole"
    assert [request.headers.get("outlive-attempt") for request in partner.seen] == ["1", "2", "3"]
    assert all(body.closed for body in partner.bodies)
    windows = made.part("partner.test").gate.windows
    assert (windows.calls, windows.failures) == (3, 2)


@pytest.mark.parametrize(("headers", "calls"), [({}, 1), ({"Idempotency-Key": "k"}, 3)])
async def test_a_post_is_sent_again_only_with_a_key(headers: dict[str, str], calls: int) -> None:
    partner = Partner(503, 503, 200)
    client, _ = client_of(partner)
    await client.post(URL, json={"cents": 3}, headers=headers)
    assert len(partner.seen) == calls


async def test_a_body_that_can_be_read_once_is_sent_once() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"chunk"

    partner = Partner(503, 200)
    client, _ = client_of(partner)
    assert (await client.put(URL, content=chunks())).status_code == 503
    assert len(partner.seen) == 1


async def test_a_body_that_breaks_off_is_a_failure_and_one_that_is_left_is_nothing() -> None:
    partner = Partner(Body(breaks=True), Body(), Body())
    client, made = client_of(partner)
    with pytest.raises(httpx.ReadError):
        await client.get(URL)
    async with client.stream("GET", URL):
        assert made.part("partner.test").under_way == 1
    await client.get(URL)
    part = made.part("partner.test")
    assert (part.gate.windows.calls, part.gate.windows.failures, part.under_way) == (2, 1, 0)


async def test_a_call_is_under_way_until_its_body_was_read() -> None:
    client, _ = client_of(Partner(), bulkhead=1)
    async with client.stream("GET", URL) as answer:
        with pytest.raises(BulkheadFull):
            await client.get(URL)
        await answer.aread()
        assert (await client.get(URL)).status_code == 200


async def test_wrong_requests_open_nothing_and_each_host_stands_alone() -> None:
    partner = Partner(*[404] * 20, *[500] * 4)
    client, _ = client_of(partner)
    for _ in range(20):
        assert (await client.post(URL)).status_code == 404
    for _ in range(4):
        assert (await client.post(URL)).status_code == 500
    with pytest.raises(BreakerOpen, match=r"partner/partner\.test is open"):
        await client.get(URL)
    assert (await client.get("http://other.test/")).status_code == 200


async def test_the_next_service_is_told_how_much_time_is_left() -> None:
    partner = Partner()
    client, made = client_of(partner)
    with made.within(2.5):
        await client.get(URL)
    assert partner.seen[0].headers["outlive-deadline-ms"] == "2500"
