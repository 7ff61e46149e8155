"""Waiting with a client."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.web.conftest import until
from tests.web.fake import Fake

from outlive.web.messages import Request
from outlive.web.waiting import BRIEF_SECONDS, Vigil, Waiting


def asking(incoming: asyncio.Queue[dict[str, Any]]) -> Request:
    scope: dict[str, Any] = {"method": "GET", "path": "/", "headers": []}
    return Request(scope, incoming.get, None)  # type: ignore[arg-type]


async def test_a_vigil_ends_with_a_change_a_departure_or_the_end_of_the_instance(
    fake: Fake,
) -> None:
    fake.add("reg_1", "register")
    for end in ("change", "departure", "leaving"):
        waiting = Waiting(fake)  # type: ignore[arg-type]
        incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        async with Vigil(waiting, asking(incoming)) as vigil:
            seen = fake.views["reg_1"].seq
            change = asyncio.create_task(vigil.changed("reg_1", seen, 30))
            await until(lambda: fake.waiters == 1)
            assert waiting.count == 1 and not vigil.over
            if end == "change":
                await fake.evolve("reg_1", "step")
            elif end == "departure":
                incoming.put_nowait({"type": "http.disconnect"})
            else:
                waiting.leaving.set()
            assert await change == seen + (end == "change")
            assert vigil.gone == (end == "departure")
            assert vigil.over == (end != "change")
        assert (waiting.count, fake.waiters) == (0, 0)


async def test_a_process_that_ends_soon_is_waited_for_without_a_vigil(fake: Fake) -> None:
    fake.add("reg_1", "register")
    fake.lives_here = True
    waiting = Waiting(fake)  # type: ignore[arg-type]
    asked = asyncio.create_task(waiting.ended_soon("reg_1", 30))
    await until(lambda: fake.waiters == 1)
    assert waiting.count == 1
    await fake.evolve("reg_1", "ended", status="done")
    view = await asked
    assert view is not None and view.status == "done"
    assert waiting.count == 0


async def test_what_does_not_end_soon_or_does_not_live_here_is_left_to_a_vigil(
    fake: Fake,
) -> None:
    fake.add("reg_1", "register")
    fake.lives_here = True
    waiting = Waiting(fake)  # type: ignore[arg-type]
    async with asyncio.timeout(BRIEF_SECONDS + 10):
        assert await waiting.ended_soon("reg_1", 30) is None
    fake.lives_here = False
    async with asyncio.timeout(10):
        assert await waiting.ended_soon("reg_1", 30) is None
    assert waiting.count == 0


async def test_nobody_waits_in_an_instance_that_is_full_or_going_down(fake: Fake) -> None:
    assert not Waiting(fake, waiters_max=0).open  # type: ignore[arg-type]
    waiting = Waiting(fake)  # type: ignore[arg-type]
    assert waiting.open
    waiting.leaving.set()
    assert not waiting.open
