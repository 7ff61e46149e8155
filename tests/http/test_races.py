"""Two clients race for one key, ten thousand times: one effect each, and nobody hears of a 5xx."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from outlive.doors.requests import Requests
from outlive.stores.memory import MemoryStore
from outlive.web.requests import IdempotencyMiddleware, Rule

RACES, AT_ONCE = 10_000, 200


class Charges:
    """An application that answers each request with the number of its effect."""

    def __init__(self) -> None:
        self.done: Counter[bytes] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        for _ in range(int(body) % 3):  # some end at once, some let others in before they do
            await asyncio.sleep(0)
        self.done[body] += 1
        answer = b"%s:%d" % (body, sum(self.done.values()))
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": answer})


async def post(service: Any, number: int) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, fields and body of what `service` answers to the request `number`."""
    sent: list[Any] = []
    body = b"%d" % number
    scope = {
        "type": "http", "method": "POST", "path": "/charges", "query_string": b"", "root_path": "",
        "headers": [(b"idempotency-key", b'"k%d"' % number)],
    }  # fmt: skip
    given = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return given.pop() if given else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await service(scope, receive, send)
    whole = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), whole


async def test_ten_thousand_races_of_two_clients_have_one_effect_and_one_answer_each() -> None:
    store, shop = MemoryStore(), Charges()
    await store.open()
    rules = [Rule(route="POST /charges")]
    one, other = (
        IdempotencyMiddleware(shop, Requests(store, storage=store.keeps[-1]), rules)
        for _ in range(2)
    )
    told: Counter[int] = Counter()

    async def race(number: int) -> None:
        first, second = (one, other) if number % 2 else (other, one)
        answers = await asyncio.gather(post(first, number), post(second, number))
        told.update(status for status, _, _ in answers)
        done = {body for status, _, body in answers if status == 201}
        assert all(b"retry-after" in fields for status, fields, _ in answers if status == 409)
        _, fields, again = await post(second, number)
        assert done == {again} and fields[b"idempotent-replayed"] == b"true"

    for begin in range(0, RACES, AT_ONCE):
        await asyncio.gather(*(race(number) for number in range(begin, begin + AT_ONCE)))
    await store.close()
    assert set(told) == {201, 409}, told
    assert len(shop.done) == RACES and set(shop.done.values()) == {1}
