"""A trial without `await`, and its refusal to stop an event loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.testing.conftest import Shop

from outlive import Run
from outlive.errors import InEventLoop
from outlive.testing.blocking import BlockingTrial
from outlive.testing.places import Place
from outlive.testing.trial import Trial


@pytest.fixture
def plain(shop: Shop, tmp_path: Path) -> Iterator[BlockingTrial]:
    earlier = set(threading.enumerate())  # sites of other tests stay open
    made = BlockingTrial(Trial(shop.app, Place("sqlite://", tmp_path).store))
    yield made
    made.close()
    made.close()
    found = {thread.name for thread in set(threading.enumerate()) - earlier}
    assert "outlive-blocking" not in found


def test_the_clock_is_moved_and_results_come_without_await(
    shop: Shop, plain: BlockingTrial
) -> None:
    @shop.process
    async def order(run: Run) -> str:
        await run.sleep(86_400)
        word: str = await run.wait("go")
        return word

    handle = plain.start(order, key="k")
    plain.advance(days=1)
    assert handle.view().waits_for == "go"
    plain.evict(handle)
    shop.app.blocking().handle(handle.id).signal("go", "now")
    assert plain.handle(handle.id).result() == "now"
    assert plain.now().day == 2


async def test_inside_an_event_loop_it_refuses(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(InEventLoop):
        BlockingTrial(Trial(shop.app, Place("memory://", tmp_path).store)).open()
