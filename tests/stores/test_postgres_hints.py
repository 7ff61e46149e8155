"""Hints between nodes: heard in milliseconds, never needed, and not sent to nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import uvloop
from tests.postgres_server import Pooler
from tests.stores.servers import DEADLINE_SECONDS, line_to, note, session_at, store_at, until

from outlive.clock import ManualClock
from outlive.errors import Conflict
from outlive.model import Batch, Committed, Put, Ref
from outlive.stores import postgres_hints
from outlive.stores.postgres import PostgresStore
from outlive.stores.postgres_hints import Hints, hands_over

NEVER_SECONDS = 600.0
MADE_UP_SECONDS = 10.0
"""A poll takes its turn every 0.4 seconds: so late, nobody looks at all."""


async def settled(store: PostgresStore) -> int:
    """The count once hints of older commits have passed."""
    seen = await store.changed(-1, 0)
    while (later := await store.changed(seen, 0.2)) != seen:
        seen = later
    return seen


async def listening(*stores: PostgresStore) -> None:
    """Wait on each of `stores` until it hears hints."""
    for store in stores:
        await store.changed(await store.changed(-1, 0), 0.01)

        async def hears(store: PostgresStore = store) -> bool:
            return store._hints.is_hearing and store.session.is_made

        await until(hears, "the store listens")


def work(store: PostgresStore, number: int) -> Batch:
    """A cell that is due: work for whoever claims it."""
    return Batch(put=(Put(Ref("inbox", str(number)), b"", store.clock.high),))


def test_hints_are_sent_from_uvloop_too(postgres: str) -> None:
    """Its handle of a call that is due at once does not say when that is."""

    async def two_commits_of_one_turn_are_told() -> None:
        async with store_at(postgres) as one, store_at(postgres, schema=one.schema) as two:
            await listening(one, two)
            await one.commit(work(one, 0))
            seen = await settled(two)
            await settled(one)
            waiting = asyncio.create_task(two.changed(seen, NEVER_SECONDS))
            await asyncio.sleep(0)
            sent = one._hints.sent
            await one.commit(work(one, 1))
            one._hints.told()
            one._hints.told(at_once=True)
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert await waiting > seen

            async def is_sent() -> bool:
                return one._hints.sent > sent

            await until(is_sent, "the hint was sent")

    uvloop.run(two_commits_of_one_turn_are_told())


@pytest.mark.parametrize("what", ["work", "journal"])
async def test_another_nodes_commit_is_heard_of_without_polling(
    postgres: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(postgres_hints, "POLL_HEARING_SECONDS", NEVER_SECONDS)
    async with store_at(postgres) as one, store_at(postgres, schema=one.schema) as two:
        await listening(one, two)
        lease = await one.take(0, 0, "n")
        for n in range(5):
            seen = await settled(two)
            waiting = asyncio.create_task(two.changed(seen, NEVER_SECONDS))
            await asyncio.sleep(0)
            await one.commit(work(one, n) if what == "work" else note(lease, "s", n))
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert await waiting > seen


async def test_a_listener_whom_others_do_not_know_yet_polls(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_hints, "POLL_HEARING_SECONDS", NEVER_SECONDS)
    async with store_at(postgres) as one, store_at(postgres, schema=one.schema) as two:
        await one.commit(work(one, 0))

        async def has_counted() -> bool:
            return one._hints._counted_at > 0

        await until(has_counted, "nobody was found to listen")
        await listening(two)
        seen = await two.changed(-1, 0)
        waiting = asyncio.create_task(two.changed(seen, NEVER_SECONDS))
        await one.commit(work(one, 1))
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await waiting > seen


async def test_a_lost_hint_is_made_up_for_by_the_poll(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_at(postgres) as one, store_at(postgres, schema=one.schema) as two:
        await listening(two)
        monkeypatch.setattr(one._hints, "told", lambda **_: None)
        seen = await settled(two)
        await one.commit(work(one, 0))
        assert await two.changed(seen, MADE_UP_SECONDS) > seen
        assert one._hints.sent == 0


async def test_hints_are_heard_again_after_the_session_broke(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_hints, "POLL_HEARING_SECONDS", NEVER_SECONDS)
    async with line_to(postgres) as line, store_at(postgres) as one:
        async with store_at(line.address, schema=one.schema) as two:
            await listening(two)
            line.is_open = False
            assert two.session._link is not None
            two.session._link.terminate()
            assert not two._hints.is_hearing
            line.is_open = True
            await one.commit(work(one, 0))
            seen = await two.changed(-1, 0)
            await two.changed(seen, NEVER_SECONDS)  # by polling, or after listening again
            await listening(two)
            seen = await settled(two)
            await one.commit(work(one, 1))
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert await two.changed(seen, NEVER_SECONDS) > seen


async def test_behind_a_pooler_hints_are_heard_on_the_direct_address(
    pooler: Pooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_hints, "POLL_HEARING_SECONDS", NEVER_SECONDS)
    async with store_at(pooler.address) as one:
        async with store_at(pooler.address, schema=one.schema, direct=pooler.direct) as two:
            await listening(two)
            seen = await settled(two)
            await two.changed(seen, 2 * postgres_hints.COUNTED_SECONDS)  # known by now to all
            seen = await settled(two)
            waiting = asyncio.create_task(two.changed(seen, NEVER_SECONDS))
            await one.commit(work(one, 0))
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert await waiting > seen


async def test_behind_a_pooler_alone_the_truth_is_polled(pooler: Pooler) -> None:
    async with (
        store_at(pooler.address) as one,
        store_at(pooler.address, schema=one.schema) as two,
    ):
        seen = await settled(two)
        waiting = asyncio.create_task(two.changed(seen, NEVER_SECONDS))
        await one.commit(work(one, 0))
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await waiting > seen
        assert not two.session.is_possible and one._hints.sent == 0


async def test_a_burst_of_commits_is_one_hint_or_two(postgres: str) -> None:
    async with store_at(postgres) as one, store_at(postgres, schema=one.schema) as two:
        await listening(two)
        await one.commit(work(one, 0))

        async def was_sent() -> bool:
            return one._hints.sent > 0

        await until(was_sent, "the first hint is sent")
        before, began = one._hints.sent, time.monotonic()
        for number in range(50):
            await one.commit(work(one, number))
        lasted = time.monotonic() - began
        assert one._hints.sent - before <= 2 + lasted / postgres_hints.AT_ONCE_SECONDS


async def test_nothing_is_sent_while_nobody_else_listens(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        heard: list[object] = []
        await session.add_listener(store._hints.channel, lambda *found: heard.append(found))
        await listening(store)
        for number in range(20):
            await store.commit(work(store, number))
        await store.changed(-1, 0)
        async with store_at(postgres, schema=store.schema) as other:
            await listening(other)

            async def both_said_so() -> bool:
                return len(heard) >= 2

            await until(both_said_so, "both listeners have said that they listen")
        assert store._hints.sent == 0 and len(heard) == 2
        await session.remove_listener(store._hints.channel, print)
        await session.reset()


async def test_a_hint_of_a_store_that_closes_at_once_still_goes_out(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_hints, "POLL_HEARING_SECONDS", NEVER_SECONDS)
    async with store_at(postgres) as waiter:
        await listening(waiter)
        seen = await settled(waiter)
        async with store_at(postgres, schema=waiter.schema) as brief:
            await brief.commit(work(brief, 0))
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await waiter.changed(seen, NEVER_SECONDS) > seen


async def told_twice() -> float:
    """When the hint of two commits goes out, if the last went out long ago."""
    session = SimpleNamespace(restores=[], is_possible=False)
    clock = ManualClock()
    hints = Hints(None, session, {}, "s", clock)  # type: ignore[arg-type]
    hints.told()
    hints.told(at_once=True)
    assert hints._sends is not None
    hints._sends.cancel()
    return hints._sends_at - clock.boot()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_hints_go_out_on_either_event_loop(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """uvloop's handle of what is called at once does not tell when that is."""
    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(told_twice()) == 0


def test_only_a_cell_that_is_due_hands_work_over() -> None:
    done = Committed(1_000_000)
    ref = Ref("s", "k")
    assert hands_over(Batch(put=(Put(ref, b"", 1_000_000),)), done)
    assert not hands_over(Batch(put=(Put(ref, b"", 2_000_000),)), done)
    assert not hands_over(Batch(put=(Put(ref, b""),)), done)
    assert not hands_over(Batch(put=(Put(ref, b"", 1_000_000),)), Conflict("refused"))
