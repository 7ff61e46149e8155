"""What operators ask over HTTP: a real application behind the face, and who may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from tests.service import until
from tests.web.conftest import client_of

from outlive import Outlive, Retry, Run, step
from outlive.web.asgi import create

broken = True


@step(retry=Retry(attempts=9, base_seconds=600, cap_seconds=600))
def charge(what: str) -> int | None:
    if broken:
        raise ConnectionError("down")
    return 1


async def order(run: Run, what: str) -> str:
    await run.wait("paid")
    got = await run(charge, what)
    return f"{what} {got}"


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app = Outlive("memory://")
    app.process("/orders", version=1, signals={"paid": None})(order)
    async with app, client_of(create(app)) as client:
        yield client


async def ordered(http: httpx.AsyncClient) -> str:
    url = (await http.post("/orders", json="tea")).headers["location"]
    await reaches(http, url, "waiting")
    return str(url)


async def reaches(http: httpx.AsyncClient, url: str, status: str) -> Any:
    async def there() -> Any:
        told = (await http.get(url)).json()
        return told if told["status"] == status else None

    return await until(there, f"{url} is {status}")


async def trying(http: httpx.AsyncClient) -> str:
    url = await ordered(http)
    await http.post(url + "/signals/paid", json=None, headers={"Idempotency-Key": "k"})

    async def tried() -> bool:
        steps = (await http.get(url)).json()["steps"]
        return any(found["name"] == "charge" and found["attempts"] for found in steps)

    await until(tried, "it was tried once")
    return url


async def test_pause_and_resume_say_who_and_why(http: httpx.AsyncClient) -> None:
    url = await ordered(http)
    answer = await http.post(url + "/pause", json={"who": "ann", "why": "look"})
    assert (answer.status_code, answer.headers["location"]) == (202, url)
    assert (await reaches(http, url, "paused"))["history"][-1]["why"] == "paused by ann: look"
    assert (await http.post(url + "/resume")).status_code == 202
    told = await reaches(http, url, "waiting")
    assert (told["waitsFor"], told["history"][-1]["why"]) == ("paid", "goes on by http")
    refused = await http.post(url + "/resume")
    assert (refused.status_code, refused.json()["code"]) == (409, "OL2051")


async def test_the_next_attempt_is_made_at_once(http: httpx.AsyncClient) -> None:
    global broken
    url = await trying(http)
    broken = False
    assert (await http.post(url + "/retry", json={"now": True})).status_code == 202
    assert (await reaches(http, url, "done"))["result"] == "tea 1"
    broken = True


async def test_a_step_is_skipped_and_a_signal_sent_again_is_answered_as_before(
    http: httpx.AsyncClient,
) -> None:
    url = await trying(http)
    unfit = await http.post(url + "/skip", json={"value": "seven"})
    assert (unfit.status_code, unfit.json()["code"]) == (422, "OL2053")
    assert (await http.post(url + "/skip", json={"step": "charge", "value": 7})).status_code == 202
    told = await reaches(http, url, "done")
    assert told["result"] == "tea 7"
    assert [found["outcome"] for found in told["steps"]] == ["done", "skipped"]
    again = await http.post(url + "/signals/paid", json=None, headers={"Idempotency-Key": "k"})
    assert again.status_code == 202
    other = await http.post(url + "/signals/paid", json=None, headers={"Idempotency-Key": "l"})
    assert (other.status_code, other.json()["code"]) == (409, "OL2003")


async def test_a_fork_has_its_own_location(http: httpx.AsyncClient) -> None:
    url = await ordered(http)
    refused = await http.post(url + "/fork", json={"at": "wait paid"})
    assert (refused.status_code, refused.json()["code"]) == (409, "OL2055")
    asked = {"at": "wait paid", "input": "coffee", "cancel": True, "who": "ann"}
    made = await http.post(url + "/fork", json=asked, headers={"Idempotency-Key": "f"})
    again = await http.post(url + "/fork", json=asked, headers={"Idempotency-Key": "f"})
    assert made.status_code == again.status_code == 202
    assert made.headers["location"] == again.headers["location"] != url
    told = await reaches(http, made.headers["location"], "waiting")
    assert (told["forkedFrom"], told["data"]) == (url.rpartition("/")[2], "coffee")
    assert (await http.get(url)).json()["forks"] == [told["id"]]


async def test_a_deadline_is_set_and_lifted(http: httpx.AsyncClient) -> None:
    url = await ordered(http)
    assert (await http.post(url + "/deadline", json={"seconds": 60})).status_code == 202
    assert (await http.post(url + "/deadline", json={"seconds": None})).status_code == 202
    for wrong in ({}, {"seconds": 0}, {"seconds": "soon"}):
        assert (await http.post(url + "/deadline", json=wrong)).status_code == 422
    broken = await http.post(
        url + "/pause", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert broken.status_code == 400


async def test_what_a_foreign_page_can_send_without_asking_does_nothing(
    http: httpx.AsyncClient,
) -> None:
    url = await ordered(http)
    places = [*(f"{url}/{verb}" for verb in ("pause", "retry", "fork")), "/outlive/bulk"]
    body = b'{"verb": "cancel", "status": "waiting", "at": "wait paid"}'
    for place in places:
        for kind in ({}, {"Content-Type": "text/plain"}):
            told = await http.post(place, content=body, headers=kind)
            assert (told.status_code, told.json()["code"]) == (415, "OL4004"), place
        for origin in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            told = await http.post(place, headers=origin)
            assert (told.status_code, told.json()["code"]) == (403, "OL4007"), place
    assert (await http.get(url)).json()["status"] == "waiting"
    for own in ({}, {"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}):
        assert (await http.post(f"{url}/pause", headers=own)).status_code == 202


async def test_many_are_shown_and_then_asked(http: httpx.AsyncClient) -> None:
    urls = [await ordered(http) for _ in range(3)]
    asked = {"verb": "cancel", "status": "waiting", "type": "order", "olderThan": 0}
    preview = (await http.post("/outlive/bulk", json=asked)).json()
    assert (preview["count"], len(preview["ids"]), preview["more"]) == (3, 3, False)
    done = await http.post(f"/outlive/bulk/{preview['token']}", json={"who": "ann"})
    report = done.json()
    assert (report["asked"], report["refused"], report["finished"]) == (3, 0, True)
    for url in urls:
        await reaches(http, url, "cancelled")
    ended = {"verb": "cancel", "type": "order", "startedSince": "2020-01-01T00:00:00Z"}
    for more, count in (({}, 3), ({"tags": {"city": "rome"}}, 0)):
        found = await http.post("/outlive/bulk", json={**ended, **more})
        assert found.json()["count"] == count
    past = {**ended, "startedSince": "2020-01-01T00:00:00"}
    assert (await http.post("/outlive/bulk", json=past)).status_code == 422, "no zone"
    gone = await http.post("/outlive/bulk/nothing")
    assert (gone.status_code, gone.json()["code"]) == (410, "OL2058")
    assert (await http.post("/outlive/bulk", json={"verb": "delete"})).status_code == 422


async def test_none_of_it_is_served_to_other_machines(
    http: httpx.AsyncClient, connect: Callable[..., httpx.AsyncClient]
) -> None:
    url = await ordered(http)
    face = http._transport.app  # type: ignore[attr-defined]
    async with connect(face, peer="192.0.2.7") as stranger:
        for verb in ("pause", "resume", "retry", "skip", "deadline", "fork"):
            assert (await stranger.post(f"{url}/{verb}", json={})).status_code == 403
        assert (await stranger.post("/outlive/bulk", json={})).status_code == 403
        assert (await stranger.post("/outlive/bulk/token")).status_code == 403


async def test_each_is_described(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    for verb in ("pause", "resume", "retry", "skip", "deadline", "fork"):
        assert paths[f"/orders/{{id}}/{verb}"]["post"]["operationId"] == f"order.{verb}"
