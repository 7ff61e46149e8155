"""Going down: no new work, nothing half-done, streams that can be taken up elsewhere."""

from __future__ import annotations

import asyncio

import pytest
from tests.http.site import Instance, Site, events_of, until

BOOK = {"item": "book"}


async def test_a_draining_instance_refuses_work_and_still_answers(
    site: Site, instance: Instance
) -> None:
    waiting = await instance.begin("/orders", BOOK)
    await instance.reaches(waiting, "waiting")
    working = await instance.begin("/works", BOOK)
    await instance.reaches(working, "running")
    stream = instance.stream(waiting)
    await stream.until("event: wait\n")
    tag = (await instance.http.get(waiting)).headers["etag"]
    headers = {"if-none-match": tag, "prefer": "wait=30"}
    poll = asyncio.create_task(instance.http.get(waiting, headers=headers))
    leaving = asyncio.create_task(instance.stop())
    await until(lambda: instance.app.phase == "draining", "the drain begins")

    ready = await instance.http.get("/readyz")
    assert ready.status_code == 503 and ready.json()["code"] == "OL4008"
    assert (await instance.http.get("/livez")).status_code == 200
    refused = await instance.http.post("/orders", json=BOOK)
    assert refused.status_code == 503 and refused.json()["code"] == "OL2030"
    assert refused.json()["retryable"] and int(refused.headers["retry-after"]) >= 1
    async with asyncio.timeout(20):
        assert (await poll).status_code == 304
    await stream.end()
    assert "retry: " in stream.text and "event: end" not in stream.text
    assert (await instance.http.get(waiting)).status_code == 200

    site.world.go.set()
    await leaving
    restarted = await site.open()
    await restarted.reaches(working, "done")
    seen = events_of(stream.text)
    last = [event["id"] for event in seen if "id" in event][-1]
    rest = restarted.stream(waiting, **{"last-event-id": last})
    await restarted.http.post(f"{waiting}/signals/paid", json={"amount": 1})
    await rest.end()
    assert int(events_of(rest.text)[0]["id"]) == int(last) + 1


async def test_a_key_refused_while_draining_is_free_afterwards(
    site: Site, instance: Instance
) -> None:
    await instance.app.drain(grace_seconds=1)
    key = {"idempotency-key": '"later"'}
    refused = await instance.http.post("/greetings", json={"givenName": "Ada"}, headers=key)
    assert refused.status_code == 503
    await instance.stop()
    restarted = await site.open()
    answer = await restarted.http.post("/greetings", json={"givenName": "Ada"}, headers=key)
    assert answer.status_code == 201 and "idempotent-replayed" not in answer.headers


@pytest.mark.parametrize("path", ["/orders", "/orders/ord_x", "/readyz", "/startupz"])
async def test_before_it_is_open_it_says_not_yet(site: Site, path: str) -> None:
    app = site.new()
    instance = Instance(app, app.asgi())
    answer = await instance.http.get(path)
    assert answer.status_code == 503 and answer.json()["code"] == "OL4008"
    await instance.stop()
