"""A process that is killed between its hits: what it was answered stays used, its slot frees."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from outlive import NoSlot, Outlive, Quota, Slots

HITS = 10_000
LEASE_SECONDS = 1.0
VICTIM = """
import asyncio, sys
from outlive import Outlive, Quota, Slots

async def main():
    app = Outlive(sys.argv[1])
    limits = app.ratelimits(
        Quota("all", 10_000, per_seconds=86_400), Quota("each", 10_000, 86_400, "sliding")
    )
    exports = app.slots(Slots("exports", 1, lease_seconds=1.0))
    await app.open_client()
    async with exports.hold("acme"):
        while await limits.hit("ada"):
            print("hit", flush=True)

asyncio.run(main())
"""


def killed_after(after: int, address: str) -> int:
    """How many hits a process was answered that was killed after it had told of `after`."""
    command = [sys.executable, "-c", VICTIM, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        for _ in range(after):
            assert victim.stdout.readline() == "hit\n"
        victim.kill()
        return after + victim.stdout.read().count("hit\n")


@pytest.mark.crash
@pytest.mark.parametrize("after", [1, 7, 40])
async def test_what_was_answered_before_a_kill_stays_used(after: int, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/store.db"
    answered = killed_after(after, address)
    app = Outlive(address)
    limits = app.ratelimits(
        Quota("all", HITS, per_seconds=86_400), Quota("each", HITS, 86_400, "sliding")
    )
    exports = app.slots(Slots("exports", 1, lease_seconds=LEASE_SECONDS))
    await app.open_client()
    (all_, each) = (await limits.peek("ada")).standings
    assert each.left in (HITS - answered, HITS - answered - 1), "at most the one under way more"
    assert all_.left - each.left in (0, 1), "both were charged; a day gives one back each 8.6 s"
    waits = [LEASE_SECONDS]
    async with asyncio.timeout(30):
        while waits[-1]:
            try:
                async with exports.hold("acme"):
                    waits.append(0.0)
            except NoSlot as error:
                waits.append(error.facts["retry_after"])
                await asyncio.sleep(0.05)
    assert max(waits) <= LEASE_SECONDS
    await app.close()
