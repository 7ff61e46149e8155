"""A disk that runs full: the service says so (507), lives on, and ends what it accepted.

The store lies on a file system of its own, a few MiB of memory, most of them taken by a ballast
file. Registrations go on until the store is full. Then the ballast is thrown away.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from tests.crash.load import Load, settled, verdict
from tests.crash.service import Machine, alive, until

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SEED = 20_261_322
VOLUME_MIB = 64
BALLAST_MIB = 52


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A small file system in memory; the test fails where none can be mounted."""
    place = tmp_path / "volume"
    place.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", f"size={VOLUME_MIB}m,mode=700", "outlive-test")
    done = subprocess.run([*command, str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"no small volume can be mounted here (run as root): {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
async def machine(tmp_path: Path, volume: Path) -> AsyncIterator[Machine]:
    made = Machine(tmp_path, volume)
    yield made
    await made.clean()


async def test_a_full_disk_is_said_and_survived(
    machine: Machine, volume: Path, record_property
) -> None:
    ballast = volume / "ballast"
    ballast.write_bytes(bytes(BALLAST_MIB * 1024 * 1024))
    service = await machine.sign_up(workers=2)
    workers = service.workers()
    load = Load(machine, SEED, pause_seconds=0.05)
    load.begin()
    await until(lambda: load.statuses[507] >= 20, "the disk is full", 60)
    load.check()
    full_at = len(load.answers)
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        for _ in range(5):
            form = {"firstName": "Ada", "lastName": "L", "email": "a@example.org"}
            answer = await client.post("/registrations", json=form)
            assert answer.status_code in (503, 507), answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] in ("OL1021", "OL1020")
        assert (await client.get("/livez")).status_code == 200
        known = next(iter(load.acknowledged))
        assert (await client.get(f"/registrations/{known}")).status_code == 200, "reading goes on"
    assert all(map(alive, workers)), service.said()
    ballast.unlink()
    await until(lambda: len(load.answers) >= full_at + 20, "it accepts again")
    await load.end()
    await settled(machine)
    assert service.workers() == workers, "nobody had to be started again"
    assert await service.end() == 0, service.said()
    found = await verdict(machine, load)
    line = found.line(0, full_after=full_at, answers=str(dict(load.statuses)))
    print(f"\nfull disk: {line}")
    record_property("figures", line)
    found.demand()
