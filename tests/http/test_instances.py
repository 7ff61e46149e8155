"""Two instances on one file: whatever was started on the one may be asked of the other."""

from __future__ import annotations

import asyncio

import pytest
from tests.http.site import Instance, Site, events_of, until

BOOK = {"item": "book"}


@pytest.fixture
async def other(site: Site, instance: Instance) -> Instance:
    return await site.open()


async def test_what_one_starts_the_other_shows_the_same(
    instance: Instance, other: Instance
) -> None:
    place = await instance.begin("/orders", BOOK)
    await instance.reaches(place, "waiting")
    ours, theirs = await instance.http.get(place), await other.http.get(place)
    assert ours.json() == theirs.json()
    assert ours.headers["etag"] == theirs.headers["etag"]
    tag = {"if-none-match": ours.headers["etag"]}
    assert (await other.http.get(place, headers=tag)).status_code == 304


async def test_a_signal_reaches_it_through_the_other(instance: Instance, other: Instance) -> None:
    place = await instance.begin("/orders", BOOK)
    await instance.reaches(place, "waiting")
    answer = await other.http.post(f"{place}/signals/paid", json={"amount": 4})
    assert answer.status_code == 202
    for one in (instance, other):
        assert (await one.reaches(place, "done"))["result"]["amount"] == 4


async def test_a_cancel_through_the_other_rolls_back(
    site: Site, instance: Instance, other: Instance
) -> None:
    place = await instance.begin("/orders", BOOK)
    await instance.reaches(place, "waiting")
    assert (await other.http.post(f"{place}/cancel")).status_code == 202
    await other.reaches(place, "cancelled")
    assert site.world.released == ["book"]


async def test_a_long_poll_and_a_stream_on_the_other_see_it_change(
    instance: Instance, other: Instance
) -> None:
    place = await instance.begin("/orders", BOOK)
    await instance.reaches(place, "waiting")
    stream = other.stream(place)
    await stream.until("event: wait\n")
    headers = {
        "if-none-match": (await other.http.get(place)).headers["etag"],
        "prefer": "wait=20",
    }
    poll = asyncio.create_task(other.http.get(place, headers=headers))
    await instance.http.post(f"{place}/signals/paid", json={"amount": 4})
    async with asyncio.timeout(15):
        assert (await poll).status_code == 200
    await stream.end()
    events = events_of(stream.text)
    assert [int(event["id"]) for event in events[:-1]] == list(range(len(events) - 1))


async def test_a_stream_moves_from_one_to_the_other(instance: Instance, other: Instance) -> None:
    place = await instance.begin("/orders", BOOK)
    first = instance.stream(place)
    await first.until("event: wait\n")
    first.leave()
    await first.end()
    seen = events_of(first.text)
    rest = other.stream(place, **{"last-event-id": seen[-1]["id"]})
    await instance.http.post(f"{place}/signals/paid", json={"amount": 4})
    await rest.end()
    both = [*seen, *events_of(rest.text)]
    assert [int(event["id"]) for event in both[:-1]] == list(range(len(both) - 1))


async def test_one_key_on_both_at_once_starts_one_process(
    site: Site, instance: Instance, other: Instance
) -> None:
    key = {"idempotency-key": '"both"'}
    answers = await asyncio.gather(
        *(
            one.http.post("/greetings", json={"givenName": "Ada"}, headers=key)
            for one in [instance, other] * 20
        )
    )
    assert {answer.status_code for answer in answers} == {201}
    (place,) = {answer.headers["location"] for answer in answers}
    await other.reaches(place, "done")
    assert site.world.greeted == 1


async def test_when_one_leaves_the_other_goes_on(instance: Instance, other: Instance) -> None:
    places = [await instance.begin("/orders", {"item": f"{n}"}) for n in range(8)]
    for place in places:
        await instance.reaches(place, "waiting")
    await instance.stop()
    for place in places:
        answer = await other.http.post(f"{place}/signals/paid", json={"amount": 5})
        assert answer.status_code == 202
    for place in places:
        await other.reaches(place, "done")


async def test_each_owns_a_share_of_the_shards(instance: Instance, other: Instance) -> None:
    await until(
        lambda: instance.app.stats().shards == other.app.stats().shards == 2, "a fair share"
    )
