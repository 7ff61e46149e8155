"""Telling a process something: signals, cancel, retry."""

from __future__ import annotations

import pytest
from tests.http.site import Instance, Site

BOOK = {"item": "book"}


async def test_a_signal_is_taken_and_ends_the_wait(instance: Instance) -> None:
    place = await instance.begin("/orders", BOOK)
    answer = await instance.http.post(f"{place}/signals/paid", json={"amount": 3})
    assert answer.status_code == 202 and answer.headers["location"] == place
    assert (await instance.reaches(place, "done"))["result"]["amount"] == 3


async def test_a_signal_under_a_key_counts_once(instance: Instance) -> None:
    place = await instance.begin("/orders", BOOK)
    await instance.reaches(place, "waiting")
    for _ in range(3):
        key = {"idempotency-key": '"pay-1"'}
        answer = await instance.http.post(f"{place}/signals/paid", json={"amount": 3}, headers=key)
        assert answer.status_code in (202, 409)
    await instance.reaches(place, "done")
    journal = await instance.app.journal(place.rpartition("/")[2])
    assert [entry.kind for entry in journal].count("signal") == 1


@pytest.mark.parametrize(
    ("name", "body", "status", "code"),
    [
        ("nope", b"{}", 409, "OL2010"),
        ("paid", b"{", 400, "OL2020"),
        ("paid", b'{"amount":"3"}', 422, "OL2021"),
        ("paid", b'{"amount":3,"x":1}', 422, "OL2021"),
        ("paid", b"", 422, "OL2021"),
        ("paid", b'"' + b"x" * 70_000 + b'"', 413, "OL4005"),
        ("paid", b"[" * 10_000, 413, "OL4005"),
    ],
)
async def test_a_wrong_signal_is_refused_and_not_kept(
    instance: Instance, name: str, body: bytes, status: int, code: str
) -> None:
    place = await instance.begin("/orders", BOOK)
    await instance.reaches(place, "waiting")
    tag = (await instance.http.get(place)).headers["etag"]
    answer = await instance.http.post(f"{place}/signals/{name}", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await instance.http.get(place)).headers["etag"] == tag


async def test_a_cancel_undoes_what_was_done(site: Site, instance: Instance) -> None:
    place = await instance.begin("/orders", BOOK)
    await instance.reaches(place, "waiting")
    answer = await instance.http.post(f"{place}/cancel", json={"reason": "changed my mind"})
    assert answer.status_code == 202
    body = await instance.reaches(place, "cancelled")
    assert site.world.released == ["book"]
    assert "changed my mind" in str(body)
    for path in ("cancel", "signals/paid"):
        late = await instance.http.post(f"{place}/{path}", json={"amount": 1})
        assert late.status_code == 409 and late.json()["code"] == "OL2003"


async def test_only_what_is_stuck_can_be_retried(instance: Instance) -> None:
    place = await instance.begin("/orders", BOOK)
    answer = await instance.http.post(f"{place}/retry")
    assert answer.status_code == 409 and answer.json()["code"] == "OL2005"
