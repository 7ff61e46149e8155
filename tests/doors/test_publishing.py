"""Subscribing, publishing from every door, and the pages that say so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from tests.doors.manual import written_out
from tests.service import until
from tests.stores.servers import session_at

from outlive import Outlive, Run, ids


class Placed(msgspec.Struct):
    order: str


async def ship(run: Run, placed: Placed) -> str:
    return placed.order


async def wait(run: Run) -> Any:
    return await run.wait("placed")


def shop(store: Any) -> Outlive:
    app = Outlive(store)
    app.on(Placed)(app.process("/shipments", version=1)(ship))
    return app


async def shipped(app: Outlive) -> list[str]:
    found, _ = await app.processes(type="ship", status="done")
    return sorted([await app.result(summary.id) for summary in found])


def test_a_plain_program_publishes(tmp_path: Path) -> None:
    app = shop(f"sqlite:///{tmp_path}/store.db")
    with app.blocking(run=True) as client:
        assert client.publish(Placed("tea")).startswith("evt_")

        async def done(app: Outlive) -> list[str]:
            return list(await until(lambda: shipped(app), "it is shipped"))

        assert client.call(done) == ["tea"]


def test_what_cannot_be_an_event_or_a_subscriber_is_refused() -> None:
    app = shop("memory://")
    with pytest.raises(TypeError, match="write @app"):
        app.on(Placed)(wait)
    declared = app.process("/waits", version=1, signals={"placed": Placed})(wait)
    with pytest.raises(TypeError, match="go together"):
        app.on(Placed, signal="placed")(declared)
    with pytest.raises(ValueError, match="takes no signal"):
        app.on(Placed, signal="other", to=lambda event: "x")(declared)
    with pytest.raises(ValueError, match="already"):
        app.on(Placed)(ship)
    with pytest.raises(TypeError, match="class of events"):
        app.on(dict)(declared)


async def test_only_events_of_the_callers_are_published() -> None:
    async with shop("memory://") as app:
        with pytest.raises(TypeError, match="class of events"):
            await app.publish({"order": "tea"})
        with pytest.raises(ValueError, match="65536"):
            await app.publish(Placed("x" * 70_000))
        with pytest.raises(ValueError, match="limit"):
            await app.undelivered(limit=0)


@pytest.fixture
async def site(postgres: str) -> AsyncIterator[Outlive]:
    async with shop(f"{postgres}?schema=store_{ids.token(40)}") as app:
        yield app


async def test_an_event_goes_with_the_callers_own_transaction(site: Outlive, postgres: str) -> None:
    async with session_at(postgres) as session:
        async with session.transaction():
            await site.within(session).publish(Placed("tea"))
        transaction = session.transaction()
        await transaction.start()
        await site.within(session).publish(Placed("coffee"))
        await transaction.rollback()
    await site.publish(Placed("milk"))

    async def both() -> bool:
        return await shipped(site) == ["milk", "tea"]

    await until(both, "what was committed is shipped, and nothing else")


def test_an_event_goes_with_a_plain_transaction(postgres: str) -> None:
    app = shop(f"{postgres}?schema=store_{ids.token(40)}")
    with app.blocking(run=True) as client, psycopg.connect(postgres) as connection:
        client.open()
        client.within(connection).publish(Placed("tea"))
        connection.commit()

        async def done(app: Outlive) -> list[str]:
            return list(await until(lambda: shipped(app), "it is shipped"))

        assert client.call(done) == ["tea"]


TRY_BAKERY = """
from bakery import app, party
with app.blocking(run=True) as client:
    handle = client.start(party, 12)
    assert handle.result(within=60) == [
        "carrot cake from oven 11", "apple from oven 5", "plum from oven 4",
        "cheese cake from oven 11",
    ]
    view = handle.view()
    assert [child.status for child in view.children].count("rolled_back") == 1
    assert b"rolled_back: nobody bakes that" in bytes(view.data)
    assert all(client.handle(child.id).view().parent == handle.id for child in view.children)
print("well")
"""
TRY_PARCELS = """
import time
from parcels import Arrived, app, order
with app.blocking(run=True) as client:
    handle = client.start(order, "tea")
    while handle.status() != "waiting":
        time.sleep(0.02)
    client.publish(Arrived(handle.id, "noon"))
    assert handle.result(within=60) == "noon"
    while len(client.processes(status="done")[0]) < 3:
        time.sleep(0.02)
    client.publish(Arrived(handle.id, "again"))
    while not (kept := client.call(lambda app: app.undelivered())):
        time.sleep(0.02)
    assert "has ended: done" in kept[0].why
print("well")
"""


@pytest.mark.parametrize(
    ("page", "tried"), [("children.md", TRY_BAKERY), ("events.md", TRY_PARCELS)]
)
def test_the_page_does_what_it_says(page: str, tried: str, tmp_path: Path) -> None:
    written_out(page, tmp_path)
    (tmp_path / "tried.py").write_text(tried)
    ran = subprocess.run(
        [sys.executable, "tried.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.stdout == "well\n", ran.stdout + ran.stderr
