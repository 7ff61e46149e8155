"""`make run`: the sign-up and its partner, two real services, until Ctrl-C.

    run.py ── partner.py                 somebody else's service, its ledger in .outlive/partner.db
          └── outlive serve ── worker    ours, its store in .outlive/store.db

Kill any of them (kill -9), or this script, and start it again: the work goes on where it was. What
is killed is replaced; when this script dies its children are told by the kernel and end in order.

    PORT           where the service listens (8000)
    WORKERS        how many processes serve (2)
    PARTNER_PORT   where the partner listens (any free port)
    OUTLIVE_STORE  the store's address (sqlite:///.outlive/store.db)
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
STORE = "sqlite:///.outlive/store.db"
PR_SET_PDEATHSIG = 1

TRY = """
  Look     {url}/outlive
  Sign up  curl -i {url}/registrations -H 'Content-Type: application/json' \\
             -d '{{"firstName": "Ada", "lastName": "Lovelace", "email": "ada@example.org"}}'
  Follow   curl {url}/registrations/ID      (the Location above)
  Confirm  curl {url}/registrations/ID/signals/confirmed \\
             -H 'Content-Type: application/json' -d '{{"newsletter": true}}'
  List     {outlive} process list
  Break    kill -9 {victim}      (a worker: what it did is taken over)
           curl -X PUT {partner}/behaviour -d '{{"answer": "after_commit_drop"}}'
           curl -X PUT {partner}/behaviour -d '{{"fail": "always"}}'     ('{{}}' mends it)
  Count    curl {partner}/ledger      (one effect a key, whatever you broke)
  End      Ctrl-C
"""

_libc = ctypes.CDLL(None)


def die_with_parent() -> None:
    """Runs in the child before it becomes the service: when this script dies, it gets SIGTERM."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port(wanted: int, variable: str) -> int:
    """`wanted` if it can be had (0: any). Ends the script with one line if it cannot."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            sys.exit(f"port {wanted} is taken; choose another: make run {variable}={wanted + 1}")
        return int(probe.getsockname()[1])


def command_line(store: str) -> str:
    """How `outlive` is called from here on this store."""
    script = Path(sys.executable).with_name("outlive")
    called = os.path.relpath(script) if script.exists() else f"{sys.executable} -m outlive.commands"
    return called if store == STORE else f"OUTLIVE_STORE={store} {called}"


class Child:
    """A service of ours: started again when it dies, ended with the script."""

    def __init__(self, name: str, *command: str, **environment: str) -> None:
        self.name = name
        self.command = (sys.executable, *command)
        self.environment = {**os.environ, **environment}
        self.process: subprocess.Popen[str] | None = None
        self.leaving = threading.Event()

    def lines(self) -> Iterator[str]:
        """What it prints, until it has ended for good; its first life must get as far as a line."""
        spoke = False
        while not self.leaving.is_set():
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=die_with_parent,
                process_group=0,
            )
            assert self.process.stdout is not None
            for line in self.process.stdout:
                spoke = True
                yield line.rstrip()
            status = self.process.wait()
            if not spoke:
                return
            if not self.leaving.wait(0.2):
                print(f"run: {self.name} ended ({status}); it is started again", flush=True)

    def end(self) -> None:
        self.leaving.set()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()


class Ground:
    """Where a sample and its partner listen, and what the sample is told of it."""

    def __init__(self, store: str) -> None:
        port = free_port(int(os.environ.get("PORT") or 8000), "PORT")
        self.port, self.url = str(port), f"http://{HOST}:{port}"
        port = free_port(int(os.environ.get("PARTNER_PORT") or 0), "PARTNER_PORT")
        self.partner_port, self.partner_url = str(port), f"http://{HOST}:{port}"
        self.store = os.environ.get("OUTLIVE_STORE") or store
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.variables = {
            "PARTNER_URL": self.partner_url, "OUTLIVE_STORE": self.store, "PYTHONPATH": path,
        }  # fmt: skip
        Path(".outlive").mkdir(exist_ok=True)

    def service(self, name: str, target: str, workers: str) -> Child:
        """`target` on its workers: as many as WORKERS says, else `workers`."""
        count = os.environ.get("WORKERS") or workers
        serve = ("-m", "outlive.commands", "serve", target, "--port", self.port)
        return Child(name, *serve, "--workers", count, **self.variables)


def run(partner: Child, service: Child, tell: Callable[[str], str]) -> int:
    """Both until Ctrl-C; `tell` says what to try, and is given the pid of a worker. Gives the
    service's exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: service.end())
    said = partner.lines()
    keeper = threading.Thread(target=lambda: [print(line, flush=True) for line in said])
    keeper.start()
    try:
        for line in service.lines():
            print(line, flush=True)
            if line.startswith("outlive ready"):
                victim = line.partition("workers ")[2].split(" · ")[0].split(",")[0]
                print(tell(victim), flush=True)
    finally:
        partner.end()
        keeper.join()
    return service.process.returncode if service.process else 1


def main() -> int:
    ground = Ground(STORE)
    script, ledger = str(Path(__file__).with_name("partner.py")), ".outlive/partner.db"
    partner = Child("the partner", script, "--port", ground.partner_port, "--ledger", ledger)
    told = {"url": ground.url, "partner": ground.partner_url, "outlive": command_line(ground.store)}
    return run(
        partner,
        ground.service("the service", "examples.signup.app:app", "2"),
        lambda victim: TRY.format(victim=victim, **told),
    )


if __name__ == "__main__":
    sys.exit(main())
