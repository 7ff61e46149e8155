"""Search over HTTP: narrowed by tags, versions and times, and followed from page to page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.http.site import Instance

from outlive import Outlive, Run
from outlive.commands import main
from outlive.stores.sqlite import SQLiteStore


class Order(msgspec.Struct):
    customer: str


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Instance]:
    app = Outlive(SQLiteStore(tmp_path / "store.db", shards=4))

    @app.process(
        "/orders", version=3, tags={"customer": lambda order: order.customer, "size": None}
    )
    async def order(run: Run, order: Order) -> None:
        run.tags["size"] = len(order.customer)
        await run.wait("paid")

    instance = Instance(app, app.asgi())
    await instance.start()
    yield instance
    await instance.stop()


async def test_what_a_client_started_is_found_by_what_the_declaration_takes_from_it(
    shop: Instance, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [
        (await shop.http.post("/orders", json={"customer": f"c {number % 2}"})).json()
        for number in range(7)
    ]
    assert made[1]["tags"] == {"customer": "c 1"}
    await shop.reaches(f"/orders/{made[6]['id']}", "waiting")
    found: list[str] = []
    url = (
        "/orders?tag.customer=c%201&tag.size=3&version=3&limit=2&startedSince=2026-01-01T00:00:00Z"
    )
    while url:
        answer = await shop.http.get(url)
        body = answer.json()
        found += [line["id"] for line in body["items"]]
        assert all(line["tags"] == {"customer": "c 1", "size": "3"} for line in body["items"])
        url = answer.links["next"]["url"] if "next" in answer.links else ""
    assert found == [made[5]["id"], made[3]["id"], made[1]["id"]]
    assert (await shop.http.get("/orders?version=2")).json() == {"items": []}
    assert (await shop.http.get("/orders?startedUntil=2026-01-01T00:00:00Z")).json()["items"] == []
    whole = (await shop.http.get(f"/orders/{made[0]['id']}")).json()
    assert whole["tags"] == {"customer": "c 0", "size": "3"}
    store = ("--store", f"sqlite:///{tmp_path}/store.db", "-o", "ids")
    typed = ("process", "list", "--tag", "customer=c 1", "--since", "1h", "--version", "3", *store)
    assert await asyncio.to_thread(main, typed) == 0  # a command has an event loop of its own
    assert capsys.readouterr().out.split() == found


@pytest.mark.parametrize("query", ["tag.colour=red", "version=x", "changedSince=now", "tag.size="])
async def test_what_cannot_be_asked_is_a_problem_that_names_it(shop: Instance, query: str) -> None:
    answer = await shop.http.get(f"/orders?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "OL4003")
    assert query.split("=")[0] in str(answer.json())


async def test_the_parameters_are_described(shop: Instance) -> None:
    described = (await shop.http.get("/openapi.json")).json()["paths"]["/orders"]["get"]
    names = {found.get("name") for found in described["parameters"]}
    assert {"tag.customer", "tag.size", "version", "changedUntil"} <= names


async def test_a_search_is_for_this_machine_only(shop: Instance) -> None:
    transport = httpx.ASGITransport(shop.face, client=("192.0.2.1", 50000))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as far:
        answer = await far.get("/orders?tag.customer=c-17")
    assert answer.status_code == 403
