"""A process that ends the interpreter it runs in: its neighbours finish, and it is shown and held.

Real processes: each node is a Python program of its own, started again whenever it is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.service import has_status

from outlive import Outlive

ROOT = Path(__file__).resolve().parents[2]
LIVES_MAX = 12
NODE = """
import asyncio, os, sys
from outlive import Outlive, Run, step
from outlive.kinds.processes import FINAL
from outlive.runtime import node, recovery

recovery.CRASHES_MAX, recovery.SUSPECT_CRASHES = 3, 2
node.HOLD_SECONDS = 0.3
app = Outlive(os.environ["OUTLIVE_STORE"])
MENDED = os.environ["MENDED"]

def die():
    if not os.path.exists(MENDED):
        os._exit(9)

@step
def fatal() -> str:
    die()
    return "mended"

@step
async def work(n: int) -> int:
    await asyncio.sleep(0.05)
    return n

@app.process("/poisons", version=1)
async def poison(run: Run, where: str) -> str:
    if where == "body":
        die()
    if where == "replay" and os.path.exists(MENDED + ".slept"):
        die()
    if where == "replay":
        open(MENDED + ".slept", "w").close()
        await run.sleep(1.6)
        return "mended"
    return await run(fatal)

@app.process("/neighbours", version=1)
async def neighbour(run: Run) -> int:
    return sum([await run.keyed(n)(work, n) for n in range(3)])

async def main():
    async with app:
        if sys.argv[1:]:
            for _ in range(3):
                await app.begin("neighbour", b"null", key=str(_))
            await app.begin("poison", b'"%s"' % sys.argv[1].encode(), key="p")
        while True:
            found, _ = await app.processes()
            over = FINAL if os.path.exists(MENDED) else (*FINAL, "paused")
            if all(line.status in over for line in found):
                return
            await asyncio.sleep(0.05)

asyncio.run(main())
"""


@pytest.mark.parametrize("where", ["step", "body", "replay"])
async def test_a_process_that_kills_the_interpreter_is_quarantined_and_its_neighbours_finish(
    tmp_path: Path, where: str
) -> None:
    mended = tmp_path / "mended"
    address = f"sqlite:///{tmp_path}/store.db"
    environment = {
        **os.environ, "OUTLIVE_STORE": address, "MENDED": str(mended),
        "PYTHONPATH": str(ROOT / "src"),
    }  # fmt: skip

    def life(*arguments: str) -> int:
        command = [sys.executable, "-c", NODE, *arguments]
        return subprocess.run(command, env=environment, timeout=60, check=False).returncode

    codes = [life(where)]
    while codes[-1] == 9 and len(codes) < LIVES_MAX:
        codes.append(life())
    assert codes[-1] == 0, f"it was never held: {codes}"
    assert codes.count(9) >= 4
    client = Outlive(address)
    await client.open_client()
    try:
        (bad,), _ = await client.processes(type="poison")
        view = await has_status(client, bad.id, "paused")
        assert view.failure.type == "quarantined" and "resume" in view.failure.message
        others, _ = await client.processes(type="neighbour")
        assert {line.status for line in others} == {"done"}
        mended.touch()
        await client.resume(bad.id, who="ann", why="mended")
        assert life() == 0
        assert await client.result(bad.id, within=10) == "mended"
    finally:
        await client.close()
