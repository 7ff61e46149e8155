"""The status of a process over HTTP: tags, long polls, lists, ends, and what is not there."""

from __future__ import annotations

import asyncio
from datetime import datetime

import httpx
import pytest
from tests.http.site import Instance, Site

from outlive.clock import ManualClock

BOOK = {"item": "book"}


async def test_a_status_says_what_is_durable(instance: Instance) -> None:
    place = await instance.begin("/orders", BOOK)
    body = await instance.reaches(place, "waiting")
    assert body["waitsFor"] == "paid"
    assert body["data"] == {"item": "book", "stage": "waits for the money"}
    assert [step["name"] for step in body["steps"]] == ["reserve", "wait paid"]
    assert body["steps"][0]["attempts"][0]["node"] == instance.app.node
    assert body["links"]["self"] == place
    assert datetime.fromisoformat(body["startedAt"]) <= datetime.fromisoformat(body["changedAt"])
    assert "result" not in body and "problem" not in body


async def test_the_tag_changes_exactly_when_the_status_does(instance: Instance) -> None:
    place = await instance.begin("/orders", BOOK)
    await instance.reaches(place, "waiting")
    first = await instance.http.get(place)
    same = await instance.http.get(place, headers={"if-none-match": first.headers["etag"]})
    assert same.status_code == 304 and same.content == b""
    assert same.headers["etag"] == first.headers["etag"]
    await instance.http.post(f"{place}/signals/paid", json={"amount": 3})
    await instance.reaches(place, "done")
    changed = await instance.http.get(place, headers={"if-none-match": first.headers["etag"]})
    assert changed.status_code == 200 and changed.headers["etag"] != first.headers["etag"]
    assert "retry-after" in first.headers and "retry-after" not in changed.headers
    assert changed.json()["result"] == {"item": "book", "amount": 3}


async def test_head_is_get_without_its_body(instance: Instance) -> None:
    place = await instance.begin("/orders", BOOK)
    await instance.reaches(place, "waiting")
    head, get = await instance.http.head(place), await instance.http.get(place)
    assert head.status_code == 200 and head.content == b""
    assert head.headers["content-length"] == get.headers["content-length"]
    assert head.headers["etag"] == get.headers["etag"]


async def test_a_long_poll_is_answered_when_something_changes(instance: Instance) -> None:
    place = await instance.begin("/orders", BOOK)
    await instance.reaches(place, "waiting")
    tag = (await instance.http.get(place)).headers["etag"]
    headers = {"if-none-match": tag, "prefer": "wait=20"}
    poll = asyncio.create_task(instance.http.get(place, headers=headers))
    done, _ = await asyncio.wait({poll}, timeout=0.1)
    assert not done
    await instance.http.post(f"{place}/signals/paid", json={"amount": 3})
    async with asyncio.timeout(15):
        answer = await poll
    assert answer.status_code == 200 and answer.headers["etag"] != tag
    assert answer.headers["preference-applied"] == "wait=20"


async def test_a_long_poll_without_news_is_304_when_its_time_is_up(instance: Instance) -> None:
    place = await instance.begin("/orders", BOOK)
    await instance.reaches(place, "waiting")
    tag = (await instance.http.get(place)).headers["etag"]
    headers = {"if-none-match": tag, "prefer": "wait=1"}
    assert (await instance.http.get(place, headers=headers)).status_code == 304


async def test_a_process_that_failed_is_a_200_with_its_problem(
    site: Site, instance: Instance
) -> None:
    place = await instance.begin("/refusals", BOOK)
    body = await instance.reaches(place, "rolled_back")
    assert body["problem"]["detail"].endswith("book is sold out")
    assert body["problem"]["type"].startswith("/outlive/problems/")
    assert site.world.reserved == site.world.released == ["book"]
    assert [past["status"] for past in body["history"]][-2:] == ["compensating", "rolled_back"]


@pytest.mark.parametrize("id", ["ord_0", "..", "ord_" + "0" * 26, "%00", "a" * 4000])
async def test_what_is_not_there_is_404(http: httpx.AsyncClient, id: str) -> None:
    for answer in (
        await http.get(f"/orders/{id}"),
        await http.get(f"/orders/{id}", headers={"if-none-match": '"1"'}),
        await http.get(f"/orders/{id}", headers={"accept": "text/event-stream"}),
        await http.post(f"/orders/{id}/signals/paid", json={"amount": 1}),
        await http.post(f"/orders/{id}/cancel"),
        await http.post(f"/orders/{id}/retry"),
    ):
        assert answer.status_code == 404, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


async def test_an_id_of_another_type_is_404(instance: Instance) -> None:
    id = (await instance.begin("/orders", BOOK)).rpartition("/")[2]
    for tag in ("", '"1"'):
        answer = await instance.http.get(f"/works/{id}", headers={"if-none-match": tag})
        assert answer.status_code == 404
    answer = await instance.http.post(f"/works/{id}/cancel")
    assert answer.status_code == 404
    assert (await instance.http.get(f"/orders/{id}")).json()["status"] != "cancelled"


async def test_what_is_past_its_retention_is_410_and_then_404(site: Site) -> None:
    clock = ManualClock()
    instance = await site.open(clock=clock, retention_seconds=3600.0)
    place = await instance.begin("/greetings", {"givenName": "Ada"})
    await instance.reaches(place, "done")
    for status in (410, 404):
        clock.advance(3601)
        async with asyncio.timeout(60):
            while (answer := await instance.http.get(place)).status_code != status:
                assert answer.status_code in (200, 410), answer.text
                clock.advance(0.05)
                await asyncio.sleep(0.01)
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_list_shows_newest_first_page_by_page(instance: Instance) -> None:
    places = [await instance.begin("/orders", {"item": f"{n}"}) for n in range(5)]
    await instance.begin("/works", BOOK)
    found: list[str] = []
    url = "/orders?limit=2"
    while url:
        answer = await instance.http.get(url)
        found += [item["links"]["self"] for item in answer.json()["items"]]
        link = answer.headers.get("link", "")
        url = link.partition(">")[0].strip("<")
    assert found == places[::-1]
    await instance.reaches(places[0], "waiting")
    waiting = (await instance.http.get("/orders?status=waiting")).json()["items"]
    assert places[0] in [item["links"]["self"] for item in waiting]
