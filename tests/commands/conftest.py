"""Real processes on free ports, waited for by condition, and ended by the one who started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.postgres_server import end_with_tests

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 60.0

STUB = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                print("shut down in order", flush=True)
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

number = 3
"""


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """The first true value of `condition`, looked at again and again until the deadline."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Running:
    """A process that was started by a test, with everything it has said."""

    def __init__(
        self, folder: Path, name: str, *command: str, cwd: Path | None = None, **environment: str
    ) -> None:
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                command,
                cwd=cwd or folder,
                env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
                stdout=out,
                stderr=err,
                preexec_fn=partial(end_with_tests, signal.SIGTERM),
            )
        self.pid = self.process.pid

    def said(self, text: str) -> str:
        """The line with `text` on stdout, once it has come."""

        def line() -> str | None:
            complaint = f"ended ({self.process.poll()}): {self.err.read_text()}"
            found = next((line for line in self.out.read_text().splitlines() if text in line), None)
            assert found or self.process.poll() is None, complaint
            return found

        return str(until(line, f"{text!r} on stdout"))

    def complained(self, text: str) -> None:
        """Wait for `text` on stderr."""
        until(lambda: text in self.err.read_text(), f"{text!r} on stderr")

    def url(self) -> str:
        """The address it serves at, once it does."""
        return self.said("ready on ").partition("ready on ")[2].split()[0]

    def workers(self) -> list[int]:
        """The pids in its ready line."""
        pids = self.said("ready on ").partition("workers ")[2].split(" · ")[0]
        return [int(pid) for pid in pids.split(", ")]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end by a signal; gives its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE_SECONDS)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start a Python process in the test's own folder; whatever still runs is ended afterwards."""
    started: list[Running] = []

    def run(*arguments: str, cwd: Path | None = None, **environment: str) -> Running:
        name = f"run{len(started)}"
        command = (sys.executable, *arguments)
        started.append(Running(tmp_path, name, *command, cwd=cwd, **environment))
        return started[-1]

    yield run
    for running in started:
        if running.process.poll() is None:
            running.process.terminate()
            try:
                running.process.wait(DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()


@pytest.fixture
def serve(start: Callable[..., Running], tmp_path: Path) -> Callable[..., Running]:
    """Start `outlive serve` on a free port, in a folder with a small ASGI app `stub:app`."""
    (tmp_path / "stub.py").write_text(STUB)

    def run(target: str = "stub:app", *options: str, **environment: str) -> Running:
        port = () if "--port" in options else ("--port", "0")
        command = ("-m", "outlive.commands", "serve", target, *port, *options)
        return start(*command, **environment)

    return run


@pytest.fixture
def outlive(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one command to its end in the test's own folder."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "outlive.commands", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def fetch(url: str, body: Any = None, method: str | None = None, **headers: str) -> tuple[int, Any]:
    """One request; gives the status and the decoded body."""
    data = None if body is None else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    if data is not None:
        names["content-type"] = "application/json"
    request = urllib.request.Request(url, data, names, method=method)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as response:
            status, text = response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read()
    return status, json.loads(text) if text else None


@pytest.fixture
def request_json() -> Callable[..., tuple[int, Any]]:
    return fetch


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    return until


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    return alive


SHOP = """
import os
from msgspec import Struct
from outlive import NonRetryable, Outlive, Run, step

app = Outlive()
face = app.asgi()


class Order(Struct):
    amount: int


class Paid(Struct):
    by: str


@step(undo="put_back")
async def reserve(order: Order) -> int:
    return order.amount


async def put_back(order: Order, made: object) -> None:
    if order.amount == 13 and not os.path.exists("mended"):
        raise NonRetryable("the shelf is gone")


@app.process("/orders", version=1, prefix="ord", signals={"paid": Paid})
async def order(run: Run, form: Order) -> str:
    await run(reserve, form)
    paid = await run.wait("paid", within=3600)
    run.pivot()
    return str(paid.by)
"""


class Shop:
    """A real service with one process, `order`, that waits to be paid."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.url = running.url()

    def order(self, amount: int = 1) -> str:
        """The id of a new order that waits already."""
        status, told = fetch(f"{self.url}/orders", {"amount": amount})
        assert status in (200, 201, 202), told
        self.reaches(told["id"], "waiting")
        return str(told["id"])

    def status(self, id: str) -> str:
        return str(fetch(f"{self.url}/orders/{id}")[1]["status"])

    def reaches(self, id: str, status: str) -> None:
        until(lambda: self.status(id) == status, f"{id} is {status}")


@pytest.fixture
def in_shop_folder(tmp_path: Path) -> str:
    """The folder has a module `shop` and names its store; gives the store's address."""
    (tmp_path / "shop.py").write_text(SHOP)
    return f"sqlite:///{tmp_path}/shop.db"


@pytest.fixture
def shop(serve: Callable[..., Running], in_shop_folder: str) -> Shop:
    return Shop(serve("shop:app", "--store", in_shop_folder))
