"""A container's end: supervisor and workers die at once, in one moment, and are born with old pids.

The service is the first process of a PID namespace. Kill that, and the kernel kills everything in
it, as when a container is ended or the OOM killer takes all of it, and nobody is left to start a
successor. In the next life the same numbers name other processes.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from tests.crash.load import Load, loaded, settled, verdict
from tests.crash.service import (
    DEADLINE_SECONDS,
    SIGN_UP,
    Machine,
    Partner,
    Service,
    alive,
    children_of,
    send,
    until,
)

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SEED = 20_261_123
KILLS = 8
WORKERS = 3


class Contained(Service):
    """`outlive serve` as the first process of a PID namespace of its own."""

    def __init__(self, folder: Path, workers: int, **environment: str) -> None:
        super().__init__(folder, SIGN_UP, workers, **environment)
        if shutil.which("unshare") is None:
            pytest.fail("unshare is not installed (util-linux), so there is no namespace to kill")
        unshare = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL")
        self.command = (*unshare, *self.command)

    def inside(self) -> list[int]:
        """The pids of all in the namespace, as they are called out here, the first one first."""
        assert self.process is not None
        (first,) = children_of(self.process.pid)
        return [first, *children_of(first)]

    async def kill_container(self) -> int:
        """SIGKILL for the first process; gives how many died of it."""
        process, victims = self.process, self.inside()
        assert process is not None
        space = {os.readlink(f"/proc/{pid}/ns/pid") for pid in victims}
        assert len(space) == 1 and space != {os.readlink("/proc/self/ns/pid")}
        send(victims[0], signal.SIGKILL)
        await until(lambda: not any(map(alive, victims)), "all in it have ended")
        assert await asyncio.to_thread(process.wait, DEADLINE_SECONDS) != 0
        return len(victims)

    async def end(self) -> int:
        send(self.inside()[0], signal.SIGTERM)
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, DEADLINE_SECONDS)


async def test_a_container_killed_under_load_loses_and_doubles_nothing(
    machine: Machine, record_property
) -> None:
    machine.partner = Partner(machine.folder)
    service = Contained(
        machine.folder, WORKERS, OUTLIVE_STORE=machine.address, PARTNER_URL=machine.partner.url
    )
    machine.services.append(service)
    await service.start()
    load = Load(machine, SEED)
    load.begin()
    chance = random.Random(SEED)
    killed = 0
    for _ in range(KILLS):
        await loaded(load, len(load.answers) + 10)
        await asyncio.sleep(chance.uniform(0, 0.3))
        killed += await service.kill_container()
        await service.start()
        load.check()
    await load.end()
    await settled(machine)
    assert await service.end() == 0, service.said()
    found = await verdict(machine, load)
    line = found.line(killed, containers=KILLS, seed=SEED)
    print(f"\nwhole containers: {line}")
    record_property("figures", line)
    found.demand()
    assert killed >= KILLS * 2, "with it die its workers"
