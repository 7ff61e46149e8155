"""A query sees what is durable, on any node, and can change nothing."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from tests.service import Place, crash, has_status

from outlive import Outlive, Run, Seen, ids, step
from outlive.errors import InvalidInput, NoSuchProcess, NoSuchQuery, Overloaded, QueryTooSlow
from outlive.kinds.processes.seen import Query


class Order(Struct):
    items: list[str]


class Progress(Struct):
    of: int
    packed: list[str]
    stage: str
    status: str


bodies = 0


@step
async def pack(item: str) -> str:
    return item.upper()


def progress(seen: Seen, limit: int = 10) -> Progress:
    packed = [seen.result(f"pack:{item}") for item in seen.input.items]
    stage = seen.state["stage"] if seen.state else ""
    return Progress(len(packed), [one for one in packed if one][:limit], stage, seen.status)


hold = threading.Event()


def slow(seen: Seen) -> None:
    hold.wait(20)


def broken(seen: Seen) -> None:
    raise LookupError("no")


def harmful(seen: Any) -> str:
    said = []
    for harm in (
        lambda: setattr(seen, "status", "done"),
        lambda: seen.results.update(x=1),
        lambda: seen.steps.append(1),
        lambda: setattr(seen.steps[0], "outcome", "x"),
    ):
        try:
            harm()
        except (AttributeError, TypeError) as error:
            said.append(type(error).__name__)
    seen.input.items.append("mine alone")
    return " ".join(said)


def orders(app: Outlive) -> Any:
    @app.process("/orders", version=1)
    async def order(run: Run, form: Order) -> int:
        global bodies
        bodies += 1
        for item in form.items:
            await run.keyed(item)(pack, item)
        run.state = {"stage": "packed"}
        await run.wait("go")
        return len(form.items)

    @app.process("/others", version=1)
    async def other(run: Run) -> None:
        pass

    app.query(of=order)(progress)
    app.query(of=order, limit_seconds=0.05)(slow)
    app.query(of=order)(broken)
    app.query("harm", of=order)(harmful)
    return order


ORDER = b'{"items":["a","b"]}'


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    hold.set()
    await made.close()


async def test_it_is_answered_without_body_or_node_and_wakes_nothing(place: Place) -> None:
    app = await place.open(orders)
    id = (await app.begin("order", ORDER)).id
    await has_status(app, id, "waiting")
    await crash(app)
    reader = await place.client(orders)
    ran, before = bodies, await reader.seq(id)
    seen = reader.handle(id)
    assert await seen.query(progress) == Progress(2, ["A", "B"], "packed", "waiting")
    assert await seen.query(progress, limit=1) == Progress(2, ["A"], "packed", "waiting")
    assert await seen.query(progress, 1) == await seen.query("progress", limit=1)
    assert bodies == ran and await reader.seq(id) == before


async def test_it_sees_the_end_too(place: Place) -> None:
    app = await place.open(orders)
    order = app.handle((await app.begin("order", ORDER)).id)
    await order.signal("go")
    await order.result(within=20)
    assert (await order.query(progress)).status == "done"


async def test_it_can_change_nothing(place: Place) -> None:
    app = await place.open(orders)
    id = (await app.begin("order", ORDER)).id
    await has_status(app, id, "waiting")
    refused = "AttributeError AttributeError AttributeError AttributeError"
    assert await app.handle(id).query("harm") == refused
    assert (await app.handle(id).query(progress)).of == 2


async def test_one_that_takes_too_long_is_left_behind_and_counted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.doors.queries.QUERIES_MAX", 2)
    app = await place.open(orders)
    order = app.handle((await app.begin("order", ORDER)).id)
    hold.clear()
    for _ in range(2):
        with pytest.raises(QueryTooSlow):
            await order.query(slow)
    with pytest.raises(Overloaded):
        await order.query(progress)
    hold.set()
    for thread in app._computing:
        thread.join(10)
    assert (await order.query(progress)).of == 2


async def test_what_cannot_be_asked_is_said(place: Place) -> None:
    app = await place.open(orders)
    order = app.handle((await app.begin("order", ORDER)).id)
    with pytest.raises(LookupError):
        await order.query(broken)
    with pytest.raises(NoSuchQuery, match="progress"):
        await order.query("nope")
    other = app.handle((await app.begin("other", b"null")).id)
    with pytest.raises(NoSuchProcess):
        await other.query(progress)
    with pytest.raises(NoSuchQuery):
        await other.query("progress")
    with pytest.raises(NoSuchProcess):
        await app.handle("order_nobody").query(progress)


async def test_it_is_the_same_on_postgres(postgres: str) -> None:
    app = Outlive(f"{postgres}?schema=queries_{ids.token(40)}")
    orders(app)
    async with app:
        order = app.handle((await app.begin("order", ORDER)).id)
        await has_status(app, order.id, "waiting")
        assert (await order.query(progress)).packed == ["A", "B"]


def test_parameters_are_read_from_text() -> None:
    def summary(seen: Seen, since: int, full: bool = False, names: str = "") -> None: ...

    query = Query(summary, "summary", "order", 1.0)
    assert query.read({"since": "3", "full": "true"}) == {"since": 3, "full": True}
    for wrong in ({}, {"since": "x"}, {"since": "1", "full": "perhaps"}, {"since": "1", "no": "1"}):
        with pytest.raises(InvalidInput):
            query.read(wrong)


def test_what_is_no_query_is_refused_when_it_is_declared() -> None:
    app = Outlive("memory://")
    order = orders(app)

    async def later(seen: Seen) -> None: ...

    def bare() -> None: ...

    with pytest.raises(TypeError, match="asynchronous"):
        app.query(of=order)(later)
    with pytest.raises(TypeError, match="takes what is seen"):
        app.query(of=order)(bare)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="twice"):
        app.query(of=order)(progress)
    with pytest.raises(TypeError, match="not declared"):
        app.query(of=later)(progress)
    with pytest.raises(ValueError, match="name"):
        app.query("No Name", of=order)(progress)
    with pytest.raises(ValueError, match="above 0"):
        app.query("fast", of=order, limit_seconds=0)(progress)
