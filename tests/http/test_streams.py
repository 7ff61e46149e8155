"""A process as a stream: its whole life, a resumed one, the heart-beat, the end."""

from __future__ import annotations

import json

import pytest
from tests.http.site import Instance, Site, events_of

from outlive.web import streams

BOOK = {"item": "book"}


async def test_a_stream_tells_a_whole_life_once(instance: Instance) -> None:
    place = await instance.begin("/orders", BOOK)
    stream = instance.stream(place)
    await stream.until("event: wait\n")
    await instance.http.post(f"{place}/signals/paid", json={"amount": 3})
    await stream.end()
    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = events_of(stream.text)
    assert events[0]["event"] == "started"
    assert [event["event"] for event in events][-2:] == ["ended", "end"]
    assert [int(event["id"]) for event in events[:-1]] == list(range(len(events) - 1))
    assert json.loads(events[-1]["data"])["status"] == "done"
    seq = int((await instance.http.get(place)).headers["etag"].strip('"'))
    assert len(events) - 1 == seq


async def test_a_stream_goes_on_after_the_last_event_it_gave(
    site: Site, instance: Instance
) -> None:
    place = await instance.begin("/orders", BOOK)
    first = instance.stream(place)
    await first.until("event: wait\n")
    first.leave()
    await first.end()
    seen = events_of(first.text)
    await instance.http.post(f"{place}/signals/paid", json={"amount": 3})
    await instance.reaches(place, "done")
    await instance.stop()
    restarted = await site.open()
    rest = restarted.stream(place, **{"last-event-id": seen[-1]["id"]})
    await rest.end()
    both = [*seen, *events_of(rest.text)]
    assert [int(event["id"]) for event in both[:-1]] == list(range(len(both) - 1))
    over = restarted.stream(place, **{"last-event-id": both[-1]["id"]})
    await over.end()
    assert over.status == 204


async def test_a_quiet_stream_beats(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.05)
    place = await instance.begin("/orders", BOOK)
    stream = instance.stream(place)
    await stream.until(": still here\n\n: still here\n\n")
    stream.leave()
    await stream.end()


async def test_a_place_that_is_none_is_refused(instance: Instance) -> None:
    place = await instance.begin("/orders", BOOK)
    for wrong in ("x", "-1", "1.5", "9" * 19):
        stream = instance.stream(place, **{"last-event-id": wrong})
        await stream.end()
        assert stream.status == 422


async def test_the_life_of_a_rolled_back_process_is_told(instance: Instance) -> None:
    stream = instance.stream(await instance.begin("/refusals", BOOK))
    await stream.end()
    events = events_of(stream.text)
    assert "undone" in [event["event"] for event in events]
    assert json.loads(events[-1]["data"])["status"] == "rolled_back"
