"""Three instances, three processes, one dependency: what one learns all know, and one tries.

The partner of these tests is a folder: a call leaves a file while it is under way, so that calls of
different processes are seen side by side.
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen

import pytest
from tests.doors.programs import line_of, program, until

from outlive import Outlive
from outlive.errors import BreakerOpen
from outlive.kinds.breakers.rule import Breaker

INSTANCE = """
import asyncio, os, sys, time
from pathlib import Path
from outlive import Outlive
from outlive.errors import BreakerOpen
from outlive.kinds.breakers.rule import Breaker

folder = Path(os.environ["PARTNER"])
app = Outlive(os.environ["OUTLIVE_STORE"])
rule = Breaker(
    calls_min=4, open_seconds=0.3, open_seconds_max=0.5, probe_seconds=1.0, share_seconds=0.1
)
partner = app.dependency("partner", breaker=rule)

@partner.guard()
async def call(number):
    mark = folder / "under-way" / f"{os.getpid()}-{number}"
    mark.touch()
    try:
        beside = len(list((folder / "under-way").iterdir()))
        with open(folder / "seen", "a") as seen:
            seen.write(f"{beside}\\n")
        await asyncio.sleep(0.05)
        if (folder / "hangs").exists():
            await asyncio.sleep(60)
        if (folder / "down").exists():
            raise ConnectionError("down")
    finally:
        mark.unlink()

async def main():
    async with app:
        print("ready", flush=True)
        number = 0
        while not (folder / "over").exists():
            asked = [call(number + at) for at in range(20)]
            number += 20
            found = await asyncio.gather(*asked, return_exceptions=True)
            refused = sum(isinstance(one, BreakerOpen) for one in found)
            print(len(found) - refused, refused, flush=True)
            await asyncio.sleep(0.02)
        await partner.settled()

asyncio.run(main())
"""


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: str = request.getfixturevalue("postgres")
    return f"{server}?schema=breakers_{uuid.uuid4().hex[:8]}&shards=8"


def test_of_three_processes_one_tries_and_a_dead_one_is_followed(
    address: str, tmp_path: Path
) -> None:
    folder = tmp_path / "partner"
    (folder / "under-way").mkdir(parents=True)
    (folder / "down").touch()
    with ExitStack() as stack:
        running = [
            stack.enter_context(program(address, "-c", INSTANCE, env={"PARTNER": str(folder)}))
            for _ in range(3)
        ]
        for instance in running:
            assert line_of(instance) == "ready"
        until(lambda: all(refuses_all(one) for one in running), "all refuse")
        seen = folder / "seen"
        seen.unlink()  # from here on each call is a probe
        until(lambda: seen.exists() and len(counts(seen)) >= 4, "four probes")
        (folder / "hangs").touch()
        prober = until(lambda: hanging(folder, running), "a probe that hangs")
        prober.kill()
        for mark in (folder / "under-way").glob(f"{prober.pid}-*"):
            mark.unlink()
        alive = [one for one in running if one is not prober]
        before = len(counts(seen))
        until(lambda: len(counts(seen)) > before, "another probes")
        (folder / "hangs").unlink()
        (folder / "down").unlink()
        assert set(counts(seen)) == {1}, "two probes at once"
        until(lambda: any(passes_all(one) for one in alive), "it is closed again")
        (folder / "over").touch()
        for instance in alive:
            instance.communicate(timeout=30)


def refuses_all(instance: Popen[str]) -> bool:
    return line_of(instance).split()[:1] == ["0"]


def passes_all(instance: Popen[str]) -> bool:
    return line_of(instance).split()[1:] == ["0"]


def counts(seen: Path) -> list[int]:
    return [int(line) for line in seen.read_text().split()]


def hanging(folder: Path, running: list[Popen[str]]) -> Popen[str] | None:
    """The instance whose probe is under way, once it is past what a quick one takes."""
    marks = [mark.name for mark in (folder / "under-way").iterdir()]
    pids = {int(name.partition("-")[0]) for name in marks}
    return next((one for one in running if one.pid in pids), None)


async def test_how_it_stands_is_kept_over_a_restart(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/store.db"
    for life in range(2):
        app = Outlive(address)
        partner = app.dependency("partner", breaker=Breaker(share_seconds=0.1))

        async def call() -> str:
            return "called"

        guarded = partner.guard()(call)
        async with app:
            if life == 0:
                await guarded()
                await partner.force_open("ann", "they asked for a pause")
            with pytest.raises(BreakerOpen, match="held open by ann"):
                await guarded()
            standing = await partner.standing()
            assert [(note.who, note.why) for note in standing.controls] == [
                ("ann", "they asked for a pause")
            ]


async def test_before_the_store_is_open_it_decides_alone() -> None:
    app = Outlive("memory://")
    partner = app.dependency("partner")

    @partner.guard()
    async def call() -> str:
        return "called"

    assert await call() == "called"
    assert list(app.dependencies) == ["partner"]
    with pytest.raises(ValueError, match="declared twice"):
        app.dependency("partner")
