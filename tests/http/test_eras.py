"""An endless process over HTTP: one address, a tag that never comes twice, one stream."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
from tests.http.site import DEADLINE_SECONDS, Instance, Site, events_of

from outlive import Outlive, Run


def follows(app: Outlive) -> None:
    @app.process("/feeds", version=1, signals={"next": int})
    async def feed(run: Run, number: int) -> int:
        run.state = {"number": number}
        got = await run.wait("next")
        if got == 0:
            return number
        await run.again(number + got)


async def test_a_client_sees_every_era_of_one_process(site: Site) -> None:
    app = site.new()
    follows(app)
    instance = await site.serve(app, app.asgi())
    place = await instance.begin("/feeds", 1)
    stream = instance.stream(place)
    tags, seen = set(), []
    for era in (1, 2, 3):
        answer = await when(instance, place, era)
        body = answer.json()
        assert body.get("era", 1) == era and ("era" in body) is (era > 1)
        seen.append(body["data"])
        assert body["startedAt"] <= body["changedAt"]
        tag = answer.headers["etag"]
        assert tag not in tags
        tags.add(tag)
        same = await instance.http.get(place, headers={"if-none-match": tag})
        assert same.status_code == 304
        asked = 10 if era < 3 else 0
        await instance.http.post(f"{place}/signals/next", json=asked)
        wait = {"if-none-match": tag, "prefer": "wait=10"}
        assert (await instance.http.get(place, headers=wait)).status_code == 200
    done = await instance.reaches(place, "done")
    assert seen == [{"number": 1}, {"number": 11}, {"number": 21}]
    assert done["result"] == 21 and done["links"]["self"] == place
    await stream.end()
    events = events_of(stream.text)
    assert [int(event["id"]) for event in events[:-1]] == list(range(len(events) - 1))
    assert [event["event"] for event in events].count("again") == 2
    assert json.loads(events[-1]["data"])["seq"] == len(events) - 1
    middle = instance.stream(place, **{"last-event-id": "2"})
    await middle.end()
    assert [event["id"] for event in events_of(middle.text)] == [e["id"] for e in events[3:]]


async def when(instance: Instance, place: str, era: int) -> httpx.Response:
    """The answer as soon as the process waits in `era`."""
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        answer = await instance.http.get(place)
        body = answer.json()
        if body.get("era", 1) == era and body["status"] == "waiting":
            return answer
        assert time.monotonic() < end, f"{place} does not wait in era {era}: {body}"
        await asyncio.sleep(0.01)
