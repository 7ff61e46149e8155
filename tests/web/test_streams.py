"""A process as server-sent events."""

from __future__ import annotations

import json

import httpx
import pytest
from tests.web.conftest import until
from tests.web.driver import Exchange
from tests.web.fake import Fake

from outlive.web import streams
from outlive.web.asgi import Face, create

ID = "reg_0123456789abcdefghjkmnpqrs"
PATH = f"/registrations/{ID}"
ASK = {"Accept": "text/event-stream"}


def events(text: str) -> list[dict[str, str]]:
    found = []
    for block in text.strip().split("\n\n"):
        lines = [line.split(": ", 1) for line in block.split("\n") if not line.startswith(":")]
        if lines:
            found.append({line[0]: line[1] for line in lines})
    return found


async def test_every_durable_entry_becomes_one_event_and_the_end_comes_last(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register")
    await fake.evolve(ID, "step", "charge done")
    await fake.evolve(ID, "ended", status="done")
    answer = await client.get(PATH, headers=ASK)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    found = events(answer.text)
    assert [one["event"] for one in found] == ["started", "step", "ended", "end"]
    assert [one["id"] for one in found] == ["0", "1", "2", "2"]
    data = json.loads(found[1]["data"])
    assert data["n"] == 1 and data["kind"] == "step" and data["text"] == "charge done"
    assert data["status"] == "running"
    assert json.loads(found[2]["data"])["status"] == "done"


async def test_a_stream_goes_on_after_the_last_event_id(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register")
    await fake.evolve(ID, "step")
    await fake.evolve(ID, "ended", status="done")
    answer = await client.get(PATH, headers=ASK | {"Last-Event-ID": "1"})
    assert [one["id"] for one in events(answer.text)] == ["2", "2"]


async def test_a_client_that_comes_back_after_the_end_is_told_to_stop(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register", status="done")
    answer = await client.get(PATH, headers=ASK | {"Last-Event-ID": "0"})
    assert answer.status_code == 204


async def test_a_last_event_id_that_is_no_place_is_refused(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register")
    answer = await client.get(PATH, headers=ASK | {"Last-Event-ID": "x"})
    assert answer.status_code == 422


async def test_events_come_as_they_become_durable(face: Face, fake: Fake) -> None:
    fake.add(ID, "register")
    stream = Exchange(face, "GET", PATH, ASK)
    await stream.until("event: started")
    await fake.evolve(ID, "step")
    await stream.until("event: step")
    await fake.evolve(ID, "ended", status="done")
    await stream.end()
    assert "event: end" in stream.text
    assert stream.sent[-1]["more_body"] is False


async def test_a_stream_ends_on_drain_with_a_hint_to_come_back(face: Face, fake: Fake) -> None:
    fake.add(ID, "register")
    stream = Exchange(face, "GET", PATH, ASK)
    await stream.until("event: started")
    await fake.drain()
    await stream.end()
    assert "retry: " in stream.text
    assert "event: end" not in stream.text


async def test_a_stream_ends_when_its_client_leaves(face: Face, fake: Fake) -> None:
    fake.add(ID, "register")
    stream = Exchange(face, "GET", PATH, ASK)
    await until(lambda: fake.waiters == 1)
    stream.leave()
    await stream.end()
    assert fake.waiters == 0


async def test_a_quiet_stream_sends_a_heartbeat(
    monkeypatch: pytest.MonkeyPatch, face: Face, fake: Fake
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.01)
    fake.add(ID, "register")
    stream = Exchange(face, "GET", PATH, ASK)
    await stream.until(": still here\n\n")
    stream.leave()
    await stream.end()


async def test_a_wildcard_accept_gets_json(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.add(ID, "register")
    for accept in ("*/*", "text/*", "application/json, text/event-stream;q=0.5"):
        answer = await client.get(PATH, headers={"Accept": accept})
        assert answer.headers["content-type"] == "application/json"


async def test_one_waiter_too_many_is_refused_with_503(fake: Fake) -> None:
    fake.add(ID, "register")
    face = create(fake, waiters_max=1)  # type: ignore[arg-type]
    first = Exchange(face, "GET", PATH, ASK)
    await until(lambda: fake.waiters == 1)
    second = Exchange(face, "GET", PATH, ASK)
    await second.end()
    assert second.status == 503
    first.leave()
    await first.end()


async def test_a_stream_of_a_process_that_breaks_ends_so_that_the_client_comes_back(
    face: Face, fake: Fake
) -> None:
    fake.add(ID, "register")
    stream = Exchange(face, "GET", PATH, ASK)
    await until(lambda: fake.waiters == 1)
    fake.raises = RuntimeError("the store is gone")
    await fake.evolve(ID, "step")
    await stream.end()
    assert stream.sent[-1]["more_body"] is False
    assert "the store is gone" not in stream.text


async def test_head_of_a_stream_sends_no_events(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.add(ID, "register")
    answer = await client.head(PATH, headers=ASK)
    assert answer.status_code == 200 and answer.content == b""
