"""A start over HTTP: what is answered, and what a repeated request finds."""

from __future__ import annotations

import asyncio

import httpx
from tests.http.site import Instance, Site

ADA = {"givenName": "Ada"}
BOOK = {"item": "book"}


async def test_a_start_is_answered_with_the_place_of_what_it_started(
    http: httpx.AsyncClient,
) -> None:
    answer = await http.post("/orders", json=BOOK)
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/orders/{answer.json()['id']}"
    assert answer.headers["etag"] == '"1"'
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["data"] == BOOK
    assert (await http.get(answer.headers["location"])).status_code == 200


async def test_a_process_that_is_the_resource_itself_is_201(http: httpx.AsyncClient) -> None:
    answer = await http.post("/greetings", json=ADA)
    assert answer.status_code == 201
    assert answer.headers["location"].startswith("/greetings/gre_")


async def test_prefer_wait_answers_with_the_end(http: httpx.AsyncClient) -> None:
    answer = await http.post("/greetings", json=ADA, headers={"prefer": "wait=10"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=10"
    assert answer.headers["content-location"] == answer.headers["location"]
    assert "retry-after" not in answer.headers
    assert answer.json()["status"] == "done" and answer.json()["result"] == "Hello Ada"


async def test_prefer_wait_on_what_lasts_longer_is_the_plain_answer(
    http: httpx.AsyncClient,
) -> None:
    answer = await http.post("/orders", json=BOOK, headers={"prefer": "wait=1"})
    assert answer.status_code == 202 and answer.json()["status"] in ("running", "waiting")
    assert "location" in answer.headers and "content-location" not in answer.headers


async def test_a_process_without_input_is_started_without_a_body(http: httpx.AsyncClient) -> None:
    answer = await http.post("/pings", headers={"prefer": "wait=10"})
    assert answer.status_code == 200 and answer.json()["result"] == "pong"


async def test_the_same_request_under_the_same_key_finds_the_same_process(
    site: Site, instance: Instance
) -> None:
    key = {"idempotency-key": '"once"'}
    first = await instance.http.post("/greetings", json=ADA, headers=key)
    again = await instance.http.post("/greetings", json=ADA, headers=key)
    reordered = {"times": 1, "givenName": "Ada"}
    third = await instance.http.post("/greetings", json=reordered, headers=key)
    assert "idempotent-replayed" not in first.headers
    for replay in (again, third):
        assert replay.status_code == first.status_code == 201
        assert replay.headers["location"] == first.headers["location"]
        assert replay.headers["idempotent-replayed"] == "true"
    await instance.reaches(first.headers["location"], "done")
    assert site.world.greeted == 1


async def test_a_hundred_requests_at_once_under_one_key_start_one_process(
    site: Site, instance: Instance
) -> None:
    key = {"idempotency-key": '"race"'}
    answers = await asyncio.gather(
        *(instance.http.post("/greetings", json=ADA, headers=key) for _ in range(100))
    )
    assert {answer.status_code for answer in answers} == {201}
    (place,) = {answer.headers["location"] for answer in answers}
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    await instance.reaches(place, "done")
    assert site.world.greeted == 1


async def test_another_request_under_a_used_key_is_refused(http: httpx.AsyncClient) -> None:
    key = {"idempotency-key": '"used"'}
    first = await http.post("/greetings", json=ADA, headers=key)
    other = await http.post("/greetings", json={"givenName": "Bob"}, headers=key)
    assert other.status_code == 422 and other.json()["code"] == "OL2023"
    assert other.headers["content-type"] == "application/problem+json"
    assert (await http.get(first.headers["location"])).json()["data"]["givenName"] == "Ada"


async def test_a_refused_body_does_not_use_the_key_up(http: httpx.AsyncClient) -> None:
    key = {"idempotency-key": '"kept"'}
    assert (await http.post("/greetings", json={}, headers=key)).status_code == 422
    answer = await http.post("/greetings", json=ADA, headers=key)
    assert answer.status_code == 201 and "idempotent-replayed" not in answer.headers


async def test_a_key_belongs_to_one_path_and_one_principal(http: httpx.AsyncClient) -> None:
    places = set()
    for path, secret in (("/orders", "a"), ("/orders", "b"), ("/works", "a")):
        headers = {"idempotency-key": '"mine"', "authorization": secret}
        answer = await http.post(path, json=BOOK, headers=headers)
        assert answer.status_code == 202
        places.add(answer.headers["location"])
    assert len(places) == 3


async def test_a_replay_after_a_restart_is_the_same_answer(site: Site, instance: Instance) -> None:
    key = {"idempotency-key": '"restart"'}
    first = await instance.http.post("/orders", json=BOOK, headers=key)
    await instance.reaches(first.headers["location"], "waiting")
    await instance.stop()
    restarted = await site.open()
    again = await restarted.http.post("/orders", json=BOOK, headers=key)
    assert again.status_code == 202
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replayed"] == "true"
    other = await restarted.http.post("/orders", json={"item": "pen"}, headers=key)
    assert other.status_code == 422
    assert site.world.reserved == ["book"]
