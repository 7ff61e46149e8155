"""Archives read from the command line: without a store, and with a file that is cut off."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from outlive import Outlive, Run
from outlive.commands import main
from outlive.stores.memory import MemoryStore
from outlive.testing import Trial


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """An archive of three orders, which ended on two days, and of a visit that failed."""
    app = Outlive("memory://", archive=tmp_path, retention_seconds=60)

    @app.process("/orders", version=1, tags={"customer": lambda who: who})
    async def order(run: Run, who: str) -> str:
        await run.sleep(3600)
        return f"for {who}"

    @app.process("/visits", version=2)
    async def visit(run: Run) -> None:
        raise LookupError("nobody there")

    async with Trial(app, lambda clock: MemoryStore(4, clock)) as trial:
        for who in ("ada", "ben"):
            await trial.start(order, who)
        await trial.start(visit)
        await trial.advance(days=1)
        await trial.start(order, "ada")
        await trial.advance(days=1)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert main(["process", "archive", *map(str, arguments)]) == 0
    return capsys.readouterr().out


async def test_they_are_listed_and_narrowed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = told(capsys, "list", folder).splitlines()
    assert len(rows) == 4 and "2026-01-02" in rows[0]
    assert len(told(capsys, "list", folder, "--type", "order", "-o", "ids").split()) == 3
    ada = json.loads(told(capsys, "list", folder, "--tag", "customer=ada", "-o", "json"))
    assert [line["tags"] for line in ada] == [{"customer": "ada"}] * 2
    assert len(told(capsys, "list", folder, "--limit", "1").splitlines()) == 1
    since = told(capsys, "list", folder, "--since", "2026-01-01T12:00:00Z", "-o", "ids")
    assert since.split() == [ada[0]["id"]]
    failed = told(capsys, "list", folder, "--status", "failed", "--version", "2")
    assert "visit v2" in failed


async def test_one_is_shown_as_it_was(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    id = told(capsys, "list", folder, "--tag", "customer=ben", "-o", "ids").strip()
    text = told(capsys, "show", folder, id)
    assert text.startswith(f"{id}  order v1  done\n") and '"for ben"' in text
    assert "tags       customer=ben" in text and "ended: done" in text
    whole = json.loads(told(capsys, "show", folder, id, "-o", "json"))
    assert [entry["kind"] for entry in whole["journal"]] == ["started", "sleep", "woke", "ended"]


async def test_what_is_not_there_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["process", "archive", "show", str(folder), "ord_none"]) == 3
    assert main(["process", "archive", "list", str(folder), "--status", "waiting"]) == 2
    assert main(["process", "archive", "list", str(tmp_path / "none")]) != 0
    assert "There is no folder" in capsys.readouterr().err


async def test_a_file_that_is_cut_off_is_named_and_the_rest_is_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sorted(folder.glob("order/2026-01-02*"))[0]
    os.truncate(path, path.stat().st_size - 3)
    assert main(["process", "archive", "list", str(folder), "-o", "ids"]) == 0
    said = capsys.readouterr()
    assert len(said.out.split()) == 3 and f"{path} is cut off" in said.err
    assert main(["process", "archive", "list", str(folder), "-o", "ids", "--limit", "3"]) == 0
    assert f"{path} is cut off" in capsys.readouterr().err
