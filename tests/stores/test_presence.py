"""Signs of life: gone with the process that gave them, and not a moment earlier."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.stores.faults import script, until

from outlive.errors import StoreUnavailable
from outlive.stores.presence import SWEEP_SECONDS, Presence
from outlive.stores.writelock import is_stopped

LIVES = """
import sys
from pathlib import Path
from outlive.stores.presence import Presence
Presence(Path(sys.argv[1])).announce("theirs")
print("ready", flush=True)
sys.stdin.read()
"""


def living(folder: Path) -> subprocess.Popen[str]:
    process = script(LIVES, folder, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_killed_process_is_departed_at_once_and_a_frozen_one_is_not(tmp_path: Path) -> None:
    process, mine = living(tmp_path), Presence(tmp_path)
    with process:
        assert mine.departed(["theirs", "never heard of"]) == set()
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: is_stopped(process.pid), "stopped")
        assert mine.departed(["theirs"]) == set()
        process.kill()
        process.wait()
        assert mine.departed(["theirs", "never heard of"]) == {"theirs"}


def test_a_node_that_ends_in_order_leaves_nothing_behind(tmp_path: Path) -> None:
    one, two = Presence(tmp_path), Presence(tmp_path)
    one.announce("one")
    one.announce("one")
    assert two.departed(["one"]) == set()
    assert one.departed(["one"]) == set()
    one.close()
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_does_not_keep_its_dead_parent_alive(tmp_path: Path) -> None:
    forks = """
import os, sys
from outlive.stores.sqlite import SQLiteStore
import asyncio, time
async def main():
    store = SQLiteStore(sys.argv[1])
    await store.open()
    await store.announce("theirs")
    child = os.fork()
    if child == 0:
        sys.stdin.read()
        os._exit(0)
    print(child, flush=True)
    sys.stdin.read()
asyncio.run(main())
"""
    process = script(forks, tmp_path / "store.db", stdin=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        mine = Presence(tmp_path / "store.db-nodes")
        assert mine.departed(["theirs"]) == set()
        process.kill()
        process.wait()
        assert Path(f"/proc/{child}").exists()
        until(lambda: mine.departed(["theirs"]) == {"theirs"}, "departed")


def test_files_of_nodes_long_dead_are_swept_and_no_others(tmp_path: Path) -> None:
    for name in ("long dead", "long-dead", "just-dead"):
        (tmp_path / name).touch()
    other = Presence(tmp_path)
    other.announce("old-and-alive")
    for name in ("long dead", "long-dead", "old-and-alive"):
        os.utime(tmp_path / name, (0, SWEEP_SECONDS))
    Presence(tmp_path).announce("mine")
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"long dead", "just-dead", "old-and-alive", "mine"}


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "x" * 201])
def test_a_name_that_is_no_file_is_a_mistake(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a node"):
        Presence(tmp_path).announce(name)


def test_a_sign_that_cannot_be_given_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("in the way")
    with pytest.raises(StoreUnavailable):
        Presence(tmp_path / "nodes").announce("mine")
    one = Presence(tmp_path)
    one.announce("mine")
    with pytest.raises(StoreUnavailable):
        Presence(tmp_path).announce("mine")
