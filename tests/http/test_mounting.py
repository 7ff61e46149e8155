"""The service inside another application, and around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from tests.http.site import Site

BOOK = {"item": "book"}


class Neighbour:
    """A Starlette application with a life span of its own."""

    def __init__(self, *routes: Any) -> None:
        self.log: list[str] = []
        own = Route("/hello", self.hello)
        self.app = Starlette(routes=[own, *routes], lifespan=self.span)

    async def hello(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello from the neighbour")

    @asynccontextmanager
    async def span(self, _: Starlette) -> AsyncIterator[None]:
        self.log.append("opened")
        yield
        self.log.append("closed")


async def test_around_an_application_both_life_spans_run(site: Site) -> None:
    app, neighbour = site.new(), Neighbour()
    instance = await site.serve(app, app.asgi(neighbour.app))
    assert neighbour.log == ["opened"] and app.phase == "ready"
    assert (await instance.http.get("/hello")).text == "hello from the neighbour"
    assert (await instance.http.get("/nowhere")).status_code == 404
    place = await instance.begin("/orders", BOOK)
    await instance.reaches(place, "waiting")
    await instance.stop()
    assert neighbour.log == ["opened", "closed"] and app.phase == "stopped"


async def test_mounted_under_a_prefix_every_address_carries_it(site: Site) -> None:
    app = site.new()
    neighbour = Neighbour(Mount("/state", app=app.asgi()))
    async with app:
        instance = await site.serve(app, neighbour.app)
        assert (await instance.http.get("/hello")).status_code == 200
        answer = await instance.http.post("/state/orders", json=BOOK)
        place = answer.headers["location"]
        assert answer.status_code == 202 and place.startswith("/state/orders/ord_")
        body = await instance.reaches(place, "waiting")
        assert all(url.startswith(place) for url in body["links"].values())
        link = (await instance.http.get("/state/orders?limit=1")).json()["items"][0]["links"]
        assert link["self"] == place
        problem = (await instance.http.get(f"{place}x")).json()
        assert problem["type"] == "/state/outlive/problems/no-such-process"
        assert problem["instance"] == f"{place}x"
        assert (await instance.http.get(problem["type"])).status_code == 200
        described = (await instance.http.get("/state/openapi.json")).json()
        assert described["servers"] == [{"url": "/state"}]
        page = await instance.http.get("/state/outlive")
        assert page.status_code == 200 and "/state/outlive/assets/" in page.text
        stream = instance.stream(place)
        await stream.until("event: wait\n")
        await instance.http.post(f"{place}/signals/paid", json={"amount": 1})
        await instance.reaches(place, "done")
        await stream.end()


async def test_mounted_without_its_life_span_it_says_so(site: Site) -> None:
    app = site.new()
    instance = await site.serve(app, Starlette(routes=[Mount("/state", app=app.asgi())]))
    answer = await instance.http.post("/state/orders", json=BOOK)
    assert answer.status_code == 503 and answer.json()["code"] == "OL4008"
    assert "app.open()" in answer.json()["remedy"]
    assert app.phase == "new"
