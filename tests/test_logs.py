"""Log lines say which process, step and attempt they are about."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.doors.manual import DOCS, written_out

from outlive import Outlive, ProcessFilter, Retry, Run, attempt, logs, step
from outlive.stores.memory import MemoryStore
from outlive.testing import Trial

log = logging.getLogger("tests.shop")


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[Any, ...]] = []

    def emit(self, record: logging.LogRecord) -> None:
        said: Any = record
        self.lines.append((record.getMessage(), said.process_id, said.step, said.attempt))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setattr(logs, "_filters", 0)
    handler = Kept()
    handler.addFilter(ProcessFilter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)


@step(retry=Retry(attempts=2, base_seconds=0))
async def pay() -> None:
    log.info("paying")
    if attempt().number == 1:
        raise LookupError


@step
def pack() -> None:
    log.info("packing")


async def order(run: Run) -> None:
    log.info("begins")
    await run(pay)
    log.info("goes on")
    await run(pack)


async def test_every_line_in_a_body_and_in_a_step_is_told_apart(kept: Kept) -> None:
    app = Outlive("memory://")
    app.process("/orders", version=1)(order)
    async with Trial(app, lambda clock: MemoryStore(clock=clock)) as trial:
        log.info("outside")
        id = (handle := await trial.start(order)).id
        await handle.result()
    assert kept.lines == [
        ("outside", "", "", 0),
        ("begins", id, "", 0),
        ("paying", id, "pay", 1),
        ("paying", id, "pay", 2),
        ("goes on", id, "", 0),
        ("packing", id, "pack", 1),
    ]


async def test_without_a_filter_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_filters", 0)
    app = Outlive("memory://")
    async with app:
        assert app._telemetry is None


def test_the_program_of_the_page_prints_what_it_says(tmp_path: Path) -> None:
    assert written_out("telemetry.md", tmp_path) == ["traced.py"]
    ran = subprocess.run(
        [sys.executable, "traced.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    said = (DOCS / "telemetry.md").read_text("utf-8").split("```text\n")[1].split("```")[0]
    assert ran.stdout == said, ran.stderr
