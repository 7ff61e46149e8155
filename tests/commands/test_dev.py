"""`outlive dev` in a real terminal: every key, every way in which code changes, every end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import Any

import pytest

from outlive.commands.dev import Developer, _counts

ROOT = Path(__file__).resolve().parents[2]
LEDGER = """
import asyncio
from outlive import Outlive, Run, step

app = Outlive()


@step
async def weigh(what: str) -> str:
    with open("calls", "a") as calls:
        calls.write("weigh ")
    if what == "slow":
        await asyncio.sleep(60)
    return what


@app.process("/parcels", version=1, signals={"go": str})
async def parcel(run: Run, what: str) -> str:
    found = await run(weigh, what)
    return found + " " + await run.wait("go", within=3600)
"""


class Terminal:
    """A program at a terminal of its own, and what it has written there."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        self._master, slave = pty.openpty()

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=slave, stdout=slave, stderr=slave,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
            start_new_session=True, preexec_fn=take_terminal,
        )  # fmt: skip
        self._said = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                found = os.read(self._master, 65_536)
            except OSError:
                return
            self._said += found

    @property
    def text(self) -> str:
        return self._said.decode("utf-8", "replace").replace("\r\n", "\n")

    def press(self, key: str) -> int:
        """Press a key; gives the place in the text from where its answer is read."""
        place = len(self.text)
        os.write(self._master, key.encode())
        return place

    def modes(self):
        return termios.tcgetattr(self._slave)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(60)
        os.close(self._slave)
        os.close(self._master)
        self._reader.join(10)


class Dev:
    """`outlive dev ledger:app` at a terminal, serving."""

    def __init__(self, terminal, wait_until, request_json):
        self.terminal, self.wait_until, self.ask = terminal, wait_until, request_json

    def says(self, pattern, place=0):
        """What matches `pattern` behind `place`, once it has been said."""

        def found():
            assert self.terminal.process.poll() is None or re.search(
                pattern, self.terminal.text[place:]
            ), self.terminal.text
            return re.search(pattern, self.terminal.text[place:])

        return self.wait_until(found, f"{pattern!r} behind {self.terminal.text[place:]!r}")

    @property
    def url(self):
        return self.says(r"serves +(http://[\d.:]+)").group(1)

    def begin(self):
        """The id of a parcel that waits."""
        status, told = self.ask(f"{self.url}/parcels", "a lamp")
        assert status == 202
        self.wait_until(lambda: self.status(told["id"]) == "waiting", "the wait")
        return told["id"]

    def status(self, id):
        return self.ask(f"{self.url}/parcels/{id}")[1]["status"]

    def finish(self, id):
        assert self.ask(f"{self.url}/parcels/{id}/signals/go", "home")[0] == 202
        self.wait_until(lambda: self.status(id) == "done", "its end")
        return self.ask(f"{self.url}/parcels/{id}")[1]["result"]


@pytest.fixture
def dev(tmp_path, wait_until, request_json):
    (tmp_path / "ledger.py").write_text(LEDGER)
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    terminal = Terminal(
        tmp_path, *(sys.executable, "-m", "outlive.commands", "dev", "ledger:app"),
        *("--port", "0", "--kills", "2"), BROWSER=f"{browser} %s",
    )  # fmt: skip
    yield Dev(terminal, wait_until, request_json)
    terminal.close()


def test_it_says_what_it_found_and_helps_and_ends_by_q(dev):
    assert dev.says(r"process +parcel v1 · POST /parcels")
    assert dev.says(r"steps +weigh")
    assert dev.says(r"signals +go")
    assert dev.says(r"store +sqlite:///.outlive/store.db")
    assert dev.says(r"promises +durable = flushed to one disk")
    dev.says(r"keys +r reload")
    assert dev.says("end in order", dev.terminal.press("?"))
    dev.terminal.press("q")
    assert dev.terminal.process.wait(60) == 0
    assert dev.terminal.modes() == dev.terminal.before


def test_k_kills_the_worker_and_what_waits_goes_on(dev, tmp_path):
    id = dev.begin()
    place = dev.terminal.press("k")
    dev.says(r"kill -9 \d+", place)
    dev.says(r"was ended by SIGKILL; another takes its place", place)
    dev.says(r"worker \d+ serves after [\d.]+ s", place)
    dev.says(r"take-over: nothing was in the middle of anything", place)
    assert dev.finish(id) == "a lamp home"
    assert (tmp_path / "calls").read_text() == "weigh "


def test_what_a_killed_worker_was_doing_is_counted(dev, tmp_path, wait_until):
    url = dev.url
    assert dev.ask(f"{url}/parcels", "slow")[0] == 202
    wait_until((tmp_path / "calls").exists, "the step")
    place = dev.terminal.press("k")
    dev.says(r"take-over: 1 that were under way went on", place)


def test_a_changed_file_reloads_and_a_broken_one_does_not(dev, tmp_path):
    id, code = dev.begin(), tmp_path / "ledger.py"
    place = len(dev.terminal.text)
    code.write_text(LEDGER.replace('+ " " +', '+ " goes " +'))
    dev.says(r"changed: ledger.py", place)
    dev.says(r"1 under way, all of them go on with this code", place)
    dev.says(r"reloaded in [\d.]+ s", place)
    place = len(dev.terminal.text)
    code.write_text(LEDGER.replace("return found", "return (found"))
    told = dev.says(r"not reloaded, what serves goes on serving: .*", place).group()
    assert "SyntaxError" in told and "ledger.py, line 20" in told
    assert dev.finish(id) == "a lamp goes home"


def test_code_that_would_hold_what_is_under_way_is_told_with_the_difference(dev, tmp_path):
    id = dev.begin()
    place = len(dev.terminal.text)
    (tmp_path / "ledger.py").write_text(LEDGER.replace("run(weigh, what)", "run(weigh, what * 2)"))
    dev.says(rf"DRIFT: 1 of 1 under way .*\n  drift  {id}  parcel v1  waiting", place)
    dev.says(r"weigh is recorded with arguments", place)
    dev.says(r"reloaded", place)


def test_r_reloads_d_opens_the_dashboard_and_ctrl_c_ends_in_order(dev, tmp_path, wait_until):
    dev.says(r"keys +r reload")
    dev.says(r"reloaded in", dev.terminal.press("r"))
    dev.terminal.press("d")
    wait_until((tmp_path / "opened").exists, "the browser")
    wait_until(lambda: (tmp_path / "opened").read_text(), "its address")
    assert (tmp_path / "opened").read_text() == f"{dev.url}/outlive\n"
    dev.terminal.press("\x03")
    assert dev.terminal.process.wait(60) == 0
    assert dev.terminal.modes() == dev.terminal.before


def test_p_proves_the_app_on_a_store_of_its_own(dev, tmp_path):
    dev.says(r"keys +r reload")
    place = dev.terminal.press("p")
    dev.says(r"kills=2 accepted=12 lost=0 doubled=0 other=0", place)
    assert not (tmp_path / "calls").exists(), "its steps were stood in for"


def test_without_a_terminal_there_are_no_keys_and_a_reload_all_the_same(start, tmp_path):
    (tmp_path / "ledger.py").write_text(LEDGER)
    running = start("-m", "outlive.commands", "dev", "ledger:app", "--port", "0")
    running.said("none: this is no terminal")
    (tmp_path / "other.py").write_text("made = True\n")
    running.said("changed: other.py")
    running.said("reloaded in")
    assert running.end(signal.SIGINT) == 0


SLOW_TO_START = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        open("starting", "w").close()
        await asyncio.sleep(5)  # what a model or a cache takes to be loaded
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"1"})
"""


@pytest.mark.parametrize("first", [True, False])
def test_what_changes_while_a_worker_starts_is_served_too(
    start, tmp_path, wait_until, request_json, first
):
    code = tmp_path / "slow.py"
    new = SLOW_TO_START.replace('b"1"', 'b"22"').replace("sleep(5)", "sleep(0)")
    code.write_text(SLOW_TO_START if first else new)
    command = ("-m", "outlive.commands", "dev", "slow:app", "--port", "0", "--grace-seconds", "1")
    running = start(*command)
    if not first:
        running.said("serves")
        (tmp_path / "starting").unlink()
        code.write_text(SLOW_TO_START)
    wait_until((tmp_path / "starting").exists, "the start")
    code.write_text(new)
    url = running.said("serves").split()[1]
    running.said("changed: slow.py" if first else "reloaded in")
    assert request_json(url) == (200, 22)
    assert running.end(signal.SIGINT) == 0
    assert "cannot start" not in running.err.read_text()


def test_a_bare_asgi_app_is_served_and_said_to_be_one(start, tmp_path):
    code = "async def app(scope, receive, send):\n    raise RuntimeError('never asked')\n"
    (tmp_path / "bare.py").write_text(code)
    running = start("-m", "outlive.commands", "dev", "bare:app", "--port", "0")
    running.said("there is no Outlive in it")
    running.said("serves")
    assert running.end() == 0


def test_a_start_that_cannot_be_is_one_line_and_a_number(outlive, tmp_path):
    (tmp_path / "ledger.py").write_text(LEDGER)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = outlive("dev", "ledger:app", "--port", port)
    assert done.returncode == 1
    assert done.stderr.startswith(f"outlive: cannot listen on 127.0.0.1:{port}:")
    (tmp_path / "broken.py").write_text("app = (\n")
    done = outlive("dev", "broken:app", "--port", "0")
    assert done.returncode == 2
    assert "SyntaxError" in done.stderr and "broken.py, line 1" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    for wrong in (("--store", "memory://", "--postgres"), ("--watch", "nowhere")):
        done = outlive("dev", "ledger:app", "--port", "0", *wrong)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_a_worker_that_dies_in_the_middle_of_its_metrics_is_no_defect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_half() -> None:
            asked, _ = listener.accept()
            with asked:
                asked.recv(65_536)
                asked.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf 1\n")

        dying = threading.Thread(target=answer_half, daemon=True)
        dying.start()
        assert _counts(f"http://127.0.0.1:{listener.getsockname()[1]}/metrics") == {}
        dying.join(10)


def test_a_key_that_is_held_down_begins_one_proof(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    begin, begun = asyncio.create_subprocess_exec, list[tuple[str, ...]]()

    async def begins(*command: str, **options: Any) -> asyncio.subprocess.Process:
        begun.append(command)
        await asyncio.sleep(0)
        return await begin(sys.executable, "-c", "")

    async def press_twice() -> None:
        developer = Developer("ledger:app", socket.socket(), 1.0, [], 1)
        try:
            await asyncio.gather(developer._prove(), developer._prove())
            assert len(begun) == 1
            await developer._prove()
            assert len(begun) == 2, "the next one, once it has ended"
        finally:
            developer.listener.close()

    monkeypatch.setattr(asyncio, "create_subprocess_exec", begins)
    asyncio.run(press_twice())
    assert "a proof runs already" in capfd.readouterr().out
