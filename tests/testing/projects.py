"""A user's project: a module and tests written to a folder, run by a pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
DEADLINE_SECONDS = 120

SHOP = """
from outlive import Outlive, Run, attempt, step

app = Outlive("sqlite:///never/opened.db")
packed = []

@step(undo="unpack")
async def pack(what: str) -> str:
    packed.append(what)
    return what

async def unpack(what: str, made) -> None:
    packed.append(f"no {what}")

@app.process("/orders", version=1, signals={"paid": int})
async def order(run: Run, what: str) -> str:
    await run(pack, what)
    cents = await run.wait("paid", within=86_400)
    await run.sleep(3600)
    return f"{what} for {cents}"
"""


def is_registered() -> bool:
    """Whether the installed distribution names the plugin (an older editable install may not)."""
    return any(entry.value == "outlive.testing.plugin" for entry in entry_points(group="pytest11"))


def pytest_in(folder: Path, *options: str, **files: str) -> tuple[dict[str, int], str]:
    """Write `files` (name without .py) and run pytest there; gives the counts and what it said."""
    for name, text in {"shop": SHOP, **files}.items():
        (folder / f"{name}.py").write_text(text)
    return pytest_on(folder, folder, "-o", "outlive_app=shop:app", *options)


def pytest_on(root: Path, folder: Path, *options: str) -> tuple[dict[str, int], str]:
    """Run pytest on `folder` from `root`, warnings as errors; gives the counts and what it said."""
    plugin = () if is_registered() else ("-p", "outlive.testing.plugin")
    if "no:asyncio" not in options:
        options = (*options, "-o", "asyncio_default_fixture_loop_scope=function")
    ours = ("--rootdir", str(root), "-W", "error", "-p", "no:cacheprovider", *plugin)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", os.devnull, *ours, *options, str(folder)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(SOURCE), str(root)))},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    said = ran.stdout + ran.stderr
    found = re.findall(r"(\d+) (passed|failed|error|warning|skipped)", said.splitlines()[-1])
    return {what: int(count) for count, what in found}, said
