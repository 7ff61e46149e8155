"""The small proof counts what is there, and would see a loss, a double and a flaw."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from outlive.testing.smallproof import Proof, called_after_record, never_run
from outlive.testing.standins import Call

ROOT = Path(__file__).resolve().parents[2]
SHOP = """
import pathlib
from typing import Annotated
from msgspec import Meta, Struct
from outlive import Outlive, Run, step

app = Outlive("sqlite:///mine.db")


class Order(Struct):
    cents: Annotated[int, Meta(ge=100)]


class Odd(Struct):
    word: Annotated[str, Meta(pattern="^Q{40}$")]


@step(undo="pay_back")
async def pay(order: Order) -> str:
    pathlib.Path("paid").touch()


async def pay_back(order: Order, made: object) -> None:
    pathlib.Path("paid").touch()


@app.process("/orders", version=1, signals={"packed": int})
async def order(run: Run, form: Order) -> int:
    await run(pay, form)
    return await run.wait("packed", within=3600)


@app.process("/odd", version=1)
async def odd(run: Run, form: Odd) -> None: ...
"""


def prove(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "outlive.testing.smallproof", *arguments], cwd=folder,
        capture_output=True, text=True, timeout=170,
        env={"PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(folder), "PATH": ""},
    )  # fmt: skip


def test_it_kills_and_counts_on_a_store_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    done = prove(tmp_path, "shop:app", "--kills", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills=3 accepted=18 lost=0 doubled=0 other=0 · steps=18" in done.stdout
    assert "done=18" in done.stdout
    assert "left out: odd: no input could be made" in done.stdout
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"shop.py"}, "nothing was paid, and its own store was not made"


def test_what_cannot_be_proven_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("from outlive import Outlive\napp = Outlive()\nother = 3\n")
    done = prove(tmp_path, "empty:app", "--kills", "1")
    assert done.returncode == 1 and "nothing to prove" in done.stdout
    done = prove(tmp_path, "empty:other", "--kills", "1")
    assert done.returncode == 1 and "no Outlive in it" in done.stderr
    assert prove(tmp_path, "empty:app", "--kills", "0").returncode == 2


def test_a_call_after_its_record_is_a_double_and_one_before_it_is_none() -> None:
    recorded = {("s", "pay"): 50}
    early, late, other = Call("s", "pay", 40), Call("s", "pay", 60), Call("s", "undo pay", 70)
    assert list(called_after_record([early, other], recorded)) == []
    (flaw,) = called_after_record([early, late], recorded)
    assert "pay of s was called" in flaw


def test_workers_that_do_nothing_prove_nothing() -> None:
    def facts(*lengths: int) -> Any:
        some = {f"p{n}": SimpleNamespace(journal=range(size)) for n, size in enumerate(lengths)}
        return SimpleNamespace(processes=some)

    assert "none of 2 processes was run" in next(iter(never_run(facts(1, 1, 5), {"p0", "p1"})))
    assert list(never_run(facts(1, 2), {"p0", "p1"})) == []
    assert list(never_run(facts(), set())) == []


def test_one_violation_is_enough_to_hold_no_more() -> None:
    def found(*flaws: tuple[str, ...]) -> Proof:
        return Proof(1, 1, *flaws, 1, 0, {"done": 1}, 1.0, ())

    assert found((), (), ()).holds
    for at in range(3):
        flaws = [("a flaw",) if at == place else () for place in range(3)]
        proof = found(*flaws)
        assert not proof.holds and any("a flaw" in line for line in proof.lines())
