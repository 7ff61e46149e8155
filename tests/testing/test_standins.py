"""Stand-ins do nothing outside, keep the types, and write down every call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import asyncio, sys
from pathlib import Path
from outlive import NonRetryable, Outlive, Run, step
from outlive.testing.standins import Ledger, stand_in

app = Outlive("memory://")

@step(undo="pay_back")
async def pay(cents: int) -> int:
    raise SystemExit("the bank was called")

async def pay_back(cents: int, made: object) -> None:
    raise SystemExit("the bank was called back")

def write(tables, what: str) -> str:
    raise SystemExit("a table was written")

@step
def send(what: str) -> dict[str, int]:
    raise SystemExit("a mail was sent")

@app.process("/orders", version=1)
async def order(run: Run, fails: bool) -> str:
    paid = await run(pay, 5)
    assert isinstance(paid, int)
    assert await run(send, "x") == {}
    assert isinstance(await run.transact(write, "x"), str)
    if fails:
        raise NonRetryable("no")
    return "done"

async def main():
    stand_in(Ledger(Path(sys.argv[1])))
    async with app:
        good = await app.start(order, False)
        print(await good.result(within=60))
        bad = await app.start(order, True)
        await app.view_at_end(bad.id, 60)
        print((await app.view(bad.id)).status)
    print(*(call.step for call in Ledger(Path(sys.argv[1])).calls()))

asyncio.run(main())
"""


def test_every_step_transaction_and_undo_is_stood_in_for(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, "program.py", "ledger"], cwd=tmp_path, capture_output=True, text=True,
        timeout=60, env={"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    done, undone, calls = ran.stdout.splitlines()
    assert (done, undone) == ("done", "rolled_back")
    assert calls.split() == ["pay", "send", "write"] * 2 + ["undo", "pay"]
