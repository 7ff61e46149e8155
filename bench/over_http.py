"""Durable processes behind HTTP: outlive in uvicorn on SQLite beside Restate, in one run.

A client starts a process of five trivial steps and waits for its result in one request; how many
such requests a second, at C connections. Both get the same load by the same program
(peers/load.py), in turn, in every round; ratios are taken within a round.

    outlive    uvicorn, one worker, default settings; `POST /steps` with `Prefer: wait=30`
    Restate    its server from npm, default settings (its log is flushed), one node; its Python SDK
               in Hypercorn; `POST /Steps/run` at the server's ingress

CPU is that of all programs of a service: of Restate, the server's and Hypercorn's. The load's is
not in it, but the load runs on the same cores: it takes from both what it needs.

    make bench-http                            measure and print
    make bench-http WRITE=1                    … and put the table into docs/benchmarks.md
    bench/over_http.py --quick                 one short round: does it run at all?

(The file is not named http.py because that would hide Python's own `http` from the scripts here.)
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from page import BENCH, measured, say, short, table, write

CONCURRENCIES = (1, 16, 128)
STEPS = 5
QUICKER = 10
READY_SECONDS_MAX = 60
RUN_SECONDS_MAX = 300
RESTATE = BENCH / ".venv-restate" / "bin" / "python"


@dataclass(frozen=True)
class Service:
    """What is running, and how a process is started there."""

    port: int
    path: str
    headers: tuple[str, ...]
    pids: tuple[int, ...]


@dataclass
class Figures:
    """What was measured of one service, round by round."""

    title: str
    serve: Callable[[Path], object]
    counts: tuple[int, ...]
    rates: dict[int, list[float]] = field(default_factory=dict)
    cpu_ms: dict[int, list[float]] = field(default_factory=dict)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(command: list[object], log: Path, **environment: str) -> Iterator[int]:
    """The pid of a program that is ended with the block."""
    with open(log, "ab") as said:
        started = subprocess.Popen(
            [str(part) for part in command],
            stdout=said,
            stderr=said,
            cwd=log.parent,
            env={**os.environ, **environment},
        )
    try:
        yield started.pid
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def await_answer(url: str, log: Path, body: bytes | None = None) -> None:
    """Ask until the answer is a success; ends the benchmark with the log when it does not come."""
    ends = time.monotonic() + READY_SECONDS_MAX
    while True:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=10).close()
            return
        except (OSError, urllib.error.HTTPError) as error:
            if time.monotonic() > ends:
                raise SystemExit(f"{url}: {error}\n{log.read_text()[-4000:]}") from error
            time.sleep(0.05)


@contextmanager
def outlive(folder: Path) -> Iterator[Service]:
    port, log = free_port(), folder / "log"
    script = BENCH / "peers" / "outlive_web.py"
    store = f"sqlite:///{folder / 'store.db'}"
    command = [sys.executable, script, "--store", store, "--port", port, "--steps", STEPS]
    with running(command, log) as pid:
        await_answer(f"http://127.0.0.1:{port}/readyz", log)
        yield Service(port, "/steps", ("Prefer: wait=30",), (pid,))


@contextmanager
def restate(folder: Path) -> Iterator[Service]:
    sdk, ingress, admin, node = (free_port() for _ in range(4))
    log = folder / "log"
    script = BENCH / "peers" / "restate_web.py"
    settings = {
        "RESTATE_BASE_DIR": str(folder / "restate"),
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_LOG_FILTER": "warn",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    serving = running([RESTATE, script, "--port", sdk, "--steps", STEPS], log)
    with serving as sdk_pid, running([restate_server()], log, **settings) as server_pid:
        await_answer(f"http://127.0.0.1:{admin}/health", log)
        uri = json.dumps({"uri": f"http://127.0.0.1:{sdk}"}).encode()
        await_answer(f"http://127.0.0.1:{admin}/deployments", log, uri)
        await_answer(f"http://127.0.0.1:{ingress}/Steps/run", log, b"1")
        yield Service(ingress, "/Steps/run", (), (sdk_pid, server_pid))


def restate_server() -> Path:
    """The program itself: npm's own entry is a script that starts it."""
    found = sorted((BENCH / "node_modules/@restatedev").glob("restate-server-*/bin/restate-server"))
    if not found:
        raise SystemExit("no Restate server in bench/node_modules: run `make bench-http`")
    return found[0]


def measure(service: Service, c: int, count: int, figures: Figures) -> None:
    command = [sys.executable, BENCH / "peers" / "load.py", "--port", service.port]
    command += ["--path", service.path, *(f"--header={header}" for header in service.headers)]
    command += ["--processes", count, "--concurrency", c, "--steps", STEPS]
    command += ["--server-pid", *service.pids]
    ran = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=RUN_SECONDS_MAX
    )
    if ran.returncode:
        raise SystemExit(f"{figures.title} failed; nothing was written:\n{ran.stderr[-4000:]}")
    line = json.loads(ran.stdout)
    figures.rates.setdefault(c, []).append(count / line["seconds"])
    figures.cpu_ms.setdefault(c, []).append(1000 * line["server_cpu_seconds"] / count)


def compare(given: argparse.Namespace) -> list[Figures]:
    """Each service has one new store for all its runs of a round, and is alone while it runs."""
    found = [
        Figures("outlive", outlive, (500, 4000, 10_000)),
        Figures(restate_title(), restate, (100, 600, 1500)),
    ]
    shrink = QUICKER if given.quick else 1
    for turn in range(1 if given.quick else given.rounds):
        for figures in found:
            with tempfile.TemporaryDirectory(prefix=".stores-", dir=given.folder) as made:
                with figures.serve(Path(made).absolute()) as service:
                    for c, count in zip(CONCURRENCIES, figures.counts, strict=True):
                        say(f"round {turn + 1}, c={c}: {figures.title}")
                        measure(service, c, max(count // shrink, 10), figures)
    say("")
    return found


def restate_title() -> str:
    code = "from importlib.metadata import version; print(version('restate-sdk'))"
    sdk = subprocess.run([RESTATE, "-c", code], capture_output=True, text=True, check=True).stdout
    server = subprocess.run([restate_server(), "--version"], capture_output=True, text=True)
    return f"Restate {server.stdout.split()[1]}, Python SDK {sdk.strip()}"


def rows_of(found: list[Figures]) -> list[list[str]]:
    rows = [["processes/s over HTTP", *(f"c={c}" for c in CONCURRENCIES), "CPU ms"]]
    for figures in found:
        cpu = " · ".join(short(median(figures.cpu_ms[c])) for c in CONCURRENCIES)
        rates = [short(median(figures.rates[c])) for c in CONCURRENCIES]
        rows.append([figures.title, *rates, cpu])
    ours, theirs = found
    ratios = []
    for c in CONCURRENCIES:
        pairs = zip(ours.rates[c], theirs.rates[c], strict=True)
        ratios.append(f"× {short(median(mine / other for mine, other in pairs))}")
    rows.append([f"outlive ÷ {theirs.title.partition(',')[0]}", *ratios, ""])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Durable processes over HTTP, side by side.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=BENCH, help="the disk that is measured")
    parser.add_argument("--quick", action="store_true", help="one round, a tenth of the work")
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md"
    )
    given = parser.parse_args()
    found = compare(given)
    text = (
        f"{measured()}. Median of {1 if given.quick else given.rounds} rounds in which the services"
        " take turns, ratios taken within a round. A request starts a process of five trivial"
        " steps, each durable before the next begins, and is answered with its result; c"
        " connections. CPU is a process, of all programs of the service and not of the load, at"
        " c = " + " · ".join(map(str, CONCURRENCIES)) + ".\n\n" + table(rows_of(found))
    )
    print(text)
    if given.write:
        write("http", "Durable processes behind HTTP", text)


if __name__ == "__main__":
    main()
