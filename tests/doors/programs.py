"""Programs of the shop, started by the tests and ended by pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 60.0
NODE = """
import sys
from tests.doors.shop import app
with app.blocking(run=True):
    print("ready", flush=True)
    sys.stdin.read()
"""


WISHING_IN_ITS_OWN = """
import os, secrets, psycopg
from tests.doors.shop import client, wish
connection = psycopg.connect(os.environ["OUTLIVE_STORE"].partition("?")[0])
while True:
    name = secrets.token_hex(8)
    connection.execute("INSERT INTO wish VALUES (%s)", (name,))
    client.within(connection).start(wish, name, key=name)
    if secrets.randbelow(3):
        connection.commit()
        print(name, flush=True)
    else:
        connection.rollback()
"""
WISHING_IN_THE_STORES = """
import secrets
from tests.doors.shop import client, wish

class Regret(Exception):
    pass

def make(tables, name, regret):
    tables.execute("INSERT INTO wish VALUES (?)", (name,))
    client.within(tables).start(wish, name, key=name)
    if regret:
        raise Regret

while True:
    name = secrets.token_hex(8)
    try:
        client.transact(make, name, not secrets.randbelow(3))
    except Regret:
        pass
    else:
        print(name, flush=True)
"""


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """The first true value of `condition`, within the deadline."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)
    return found


def _hear_ctrl_c() -> None:
    """A program that is started in the background is deaf to it, and so is all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def program(
    address: str, *words: str, env: Mapping[str, str] | None = None, folder: Path = ROOT
) -> Iterator[subprocess.Popen[str]]:
    """A Python program on the store at `address`; it and its children are killed at the end of the
    block."""
    found = os.environ.get("PYTHONPATH", "")
    parts = (str(ROOT / "src"), str(ROOT), str(folder), found)
    paths = os.pathsep.join(part for part in parts if part)
    process = subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
        preexec_fn=_hear_ctrl_c,
        env={**os.environ, "PYTHONPATH": paths, "OUTLIVE_STORE": address, **(env or {})},
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def stands_still(process: subprocess.Popen[str]) -> bool:
    """Whether its first thread waits for something, and does so for longer than a moment.

    A signal that comes just before a thread begins to wait is only seen when the wait ends."""
    for _ in range(10):
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state != "S":
            return False
        time.sleep(0.02)
    return True


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that a program prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def node(address: str) -> Iterator[subprocess.Popen[str]]:
    """A node that runs the shop's processes."""
    with program(address, "-c", NODE) as process:
        assert line_of(process) == "ready"
        yield process
