"""A lane runs one job after another and gives back what each of them made."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from tests.stores.faults import until

from outlive.errors import StoreUnavailable
from outlive.stores.lanes import Lane


async def test_jobs_run_in_order_in_one_thread_that_is_not_the_loops() -> None:
    lane, order = Lane("test"), []
    threads = set()

    def job(number: int) -> int:
        order.append(number)
        threads.add(threading.get_ident())
        return number * 2

    found = await asyncio.gather(*(lane.do(partial(job, number)) for number in range(50)))
    assert found == [number * 2 for number in range(50)]
    assert order == list(range(50))
    assert len(threads) == 1 and threading.get_ident() not in threads
    await lane.end()


async def test_what_a_job_raises_is_raised_to_who_asked_and_the_next_one_runs() -> None:
    lane = Lane("test")
    with pytest.raises(ZeroDivisionError):
        await lane.do(lambda: 1 // 0)
    assert await lane.do(lambda: "on") == "on"
    await lane.end()


async def test_a_job_that_runs_out_of_an_iterator_is_answered_too() -> None:
    lane = Lane("test")
    with pytest.raises(RuntimeError, match="StopIteration"):
        async with asyncio.timeout(60):
            await lane.do(lambda: next(iter(())))
    await lane.end()


async def test_a_job_nobody_waits_for_any_more_runs_to_its_end() -> None:
    lane, gate, done = Lane("test"), threading.Event(), threading.Event()

    def job() -> None:
        gate.wait(60)
        done.set()

    waiting = asyncio.ensure_future(lane.do(job))
    await asyncio.sleep(0)
    waiting.cancel()
    gate.set()
    await lane.end()
    assert done.is_set()


async def test_an_ended_lane_finishes_what_it_has_and_takes_nothing_more() -> None:
    lane = Lane("test")
    first = lane.do(lambda: "first")
    await lane.end()
    await lane.end()
    assert await first == "first"
    with pytest.raises(StoreUnavailable):
        lane.do(lambda: None)
    names = {thread.name for thread in threading.enumerate()}
    until(lambda: "test" not in names or not lane._thread.is_alive(), "the thread ends")


def test_a_loop_that_is_gone_does_not_hurt_the_lane() -> None:
    gate = threading.Event()
    lane = Lane("test")

    async def ask_and_leave() -> None:
        lane.do(lambda: gate.wait(60))

    asyncio.run(ask_and_leave())
    gate.set()

    async def ask() -> int:
        found = await lane.do(lambda: 7)
        await lane.end()
        return found

    assert asyncio.run(ask()) == 7


async def test_a_job_may_give_the_lane_another_one_for_later() -> None:
    lane, order = Lane("test"), []
    await lane.do(lambda: lane.do_later(lambda: order.append("later")))
    await lane.do(lambda: order.append("next"))
    assert order == ["later", "next"]
    await lane.end()


LEFT_OPEN = """
import asyncio, sys, time
from pathlib import Path
from outlive.stores.lanes import Lane

def job():
    time.sleep(0.3)  # as a call into SQLite does, it gives the interpreter's lock away
    Path(sys.argv[1]).write_text("done")

async def leave_it_open():
    lane = Lane("test")
    lane.do_later(job)
    return lane

lane = asyncio.run(leave_it_open())
"""


def test_an_interpreter_that_ends_waits_for_what_a_lane_was_given(tmp_path: Path) -> None:
    done = tmp_path / "done"
    subprocess.run([sys.executable, "-c", LEFT_OPEN, str(done)], check=True, timeout=60)
    assert done.read_text() == "done"
