"""Health: three questions."""

from __future__ import annotations

import httpx
import pytest
from tests.web.fake import Fake

from outlive.errors import StoreUnavailable, StoreWentBack


@pytest.mark.parametrize("phase", ["new", "starting", "ready", "draining", "stopped"])
async def test_live_is_200_in_every_phase(
    client: httpx.AsyncClient, fake: Fake, phase: str
) -> None:
    fake.phase = phase
    assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize("phase", ["new", "starting", "draining", "stopped"])
async def test_ready_is_503_with_the_reason_in_every_phase_but_one(
    client: httpx.AsyncClient, fake: Fake, phase: str
) -> None:
    fake.phase = phase
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["phase"] == phase
    assert int(answer.headers["retry-after"]) >= 1
    fake.phase = "ready"
    assert (await client.get("/readyz")).status_code == 200


async def test_started_stays_200_while_draining(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.phase = "starting"
    assert (await client.get("/startupz")).status_code == 503
    fake.phase = "draining"
    assert (await client.get("/startupz")).status_code == 200


async def test_a_store_out_of_reach_does_not_make_it_dead(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.raises = RuntimeError()
    assert (await client.get("/livez")).status_code == 200


async def test_a_store_that_went_back_is_not_ready_and_says_why(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.lost = StoreWentBack("shard 3 lost two events")
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["code"] == "OL1115"
    assert "went back in time" in answer.json()["title"]
    assert (await client.get("/livez")).status_code == 200


async def test_a_node_that_is_cut_off_is_not_ready_until_its_store_answers(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.cut_off = True
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["code"] == StoreUnavailable.code
    assert int(answer.headers["retry-after"]) >= 1
    assert (await client.get("/livez")).status_code == 200
    fake.cut_off = False
    assert (await client.get("/readyz")).status_code == 200
