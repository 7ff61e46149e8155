"""Three PostgreSQL servers whose Patronis elect the primary through etcd, and what befalls them.

    Etcd ──── keeps who leads: a key that ends when it is not renewed for TTL seconds
    Member    one Patroni and its PostgreSQL: a data folder, an address, a line that can be cut
    Patroni   the members, and the questions: who leads, who is the synchronous standby?

The programs are the system's packages (`make cluster` installs them). Whatever is started here is
ended by pid; in name spaces of its own the kernel sees to it as well (__main__.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from examples.signup.run import die_with_parent
from tests.crash.service import alive, children_of, send, until
from tests.ports import free_port
from tests.postgres_server import folder_of_its_own, system_programs

IN_NAMESPACES = "OUTLIVE_FAILOVER_NAMESPACES"
BRIDGE, HUB, NET = "hub", "10.77.0.1", "10.77.0"
TTL_SECONDS, LOOP_SECONDS, RETRY_SECONDS = 20, 1, 5
"""20 is the least that Patroni takes for the life of the leader's key."""
UP_SECONDS = 90.0
MEMBERS = 3
SYNCHRONOUS = {"synchronous_mode": True, "synchronous_mode_strict": True}
ASYNCHRONOUS = {"synchronous_mode": False, "maximum_lag_on_failover": 1 << 30}


def program(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/usr/local/bin:/usr/sbin")
    assert found, f"no {name}: run `make cluster` as root (apt-get install patroni etcd-server)"
    return found


def is_isolated() -> bool:
    """Whether the servers have network name spaces of their own."""
    return IN_NAMESPACES in os.environ


def family_of(pid: int) -> list[int]:
    """A process and everything below it."""
    return [pid, *(below for child in children_of(pid) for below in family_of(child))]


class Etcd:
    """One etcd. It is not what is proven here, and nobody kills it."""

    def __init__(self, folder: Path) -> None:
        self.host = HUB if is_isolated() else "127.0.0.1"
        self.port = free_port()
        peer = f"http://{self.host}:{free_port()}"
        self.url = f"http://{self.host}:{self.port}"
        self._log = folder / "etcd.log"
        self._command = [
            program("etcd"), "--name", "etcd", "--data-dir", str(folder / "etcd"),
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"etcd={peer}", "--unsafe-no-fsync",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, preexec_fn=die_with_parent
            )

    def clean(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Member:
    """A Patroni and the PostgreSQL that it runs."""

    def __init__(self, number: int, folder: Path, etcd: Etcd, how: dict[str, Any]) -> None:
        self.name = f"p{number}"
        self.folder = folder / self.name
        self.folder.mkdir()
        self.data = self.folder / "data"
        self.port, rest_port = 5432, 8008
        self.host = f"{NET}.{10 + number}"
        if is_isolated():
            self._lay_line()
        else:
            self.host, self.port, rest_port = "127.0.0.1", free_port(), free_port()
        self.rest = f"http://{self.host}:{rest_port}"
        self.settings = self.folder / "patroni.yml"
        self.settings.write_text(json.dumps(self._said(f"{self.host}:{rest_port}", etcd, how)))
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody", "nogroup")
        self._process: subprocess.Popen[bytes] | None = None

    def _lay_line(self) -> None:
        name, line = self.name, f"line-{self.name}"
        inside = ("ip", "-n", name)
        for command in (
            ("ip", "netns", "add", name),
            ("ip", "link", "add", line, "type", "veth", "peer", "name", "eth0", "netns", name),
            ("ip", "link", "set", line, "master", BRIDGE, "up"),
            (*inside, "address", "add", f"{self.host}/24", "dev", "eth0"),
            (*inside, "link", "set", "eth0", "up"),
            (*inside, "link", "set", "lo", "up"),
        ):
            subprocess.run(command, check=True)

    def _said(self, rest: str, etcd: Etcd, how: dict[str, Any]) -> dict[str, Any]:
        """Patroni's settings; JSON is YAML."""
        who = {"username": "postgres"}
        return {
            "scope": "outlive",
            "name": self.name,
            "restapi": {"listen": rest, "connect_address": rest},
            "etcd3": {"host": f"{etcd.host}:{etcd.port}"},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_SECONDS,
                    "loop_wait": LOOP_SECONDS,
                    "retry_timeout": RETRY_SECONDS,
                    "primary_start_timeout": 0,
                    **how,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "parameters": {
                            "wal_log_hints": "on",
                            "max_connections": 60,
                            "shared_buffers": "64MB",
                            "wal_keep_size": "256MB",
                            "wal_retrieve_retry_interval": "500ms",
                        },
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"{self.host}:{self.port}",
                "connect_address": f"{self.host}:{self.port}",
                "data_dir": str(self.data),
                "bin_dir": str(system_programs()),
                "pgpass": str(self.folder / "pgpass"),
                "authentication": {"superuser": who, "replication": who, "rewind": who},
                "parameters": {"unix_socket_directories": str(self.folder)},
                "pg_hba": ["local all all trust", "host all all all trust",
                           "host replication all all trust"],
                "basebackup": [{"checkpoint": "fast"}],
                "remove_data_directory_on_rewind_failure": True,
                "remove_data_directory_on_diverged_timelines": True,
            },
        }  # fmt: skip

    def start(self) -> None:
        """Start Patroni, which starts, rewinds or refills its server as it must."""
        command = [program("patroni"), str(self.settings)]
        if os.geteuid() == 0:
            ids = ("--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
            command = ["setpriv", *ids, "--inh-caps=-all", *command]
        if is_isolated():
            command = ["ip", "netns", "exec", self.name, *command]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, preexec_fn=die_with_parent,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
            )  # fmt: skip

    @property
    def watcher(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def postmaster(self) -> int:
        """The pid of the server; 0 when none runs."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
        except (OSError, IndexError, ValueError):
            return 0
        return pid if alive(pid) else 0

    def kill_server(self) -> None:
        """SIGKILL for the postmaster and all of its children; Patroni lives and sees it."""
        for pid in family_of(self.postmaster):
            send(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """SIGKILL for Patroni and the server at once: as if the host had lost its power."""
        for pid in [*family_of(self.watcher), *family_of(self.postmaster)]:
            send(pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def kill_watcher(self) -> None:
        """SIGKILL for Patroni alone: the server is left behind and still takes itself to lead."""
        send(self.watcher, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP for all of it."""
        for pid in [*family_of(self.watcher), *family_of(self.postmaster)]:
            send(pid, signal.SIGSTOP)

    def cut(self) -> None:
        """Its line goes dead: whatever is sent is lost, and nobody is told."""
        subprocess.run(("ip", "link", "set", f"line-{self.name}", "down"), check=True)

    def mend(self) -> None:
        subprocess.run(("ip", "link", "set", f"line-{self.name}", "up"), check=True)

    def clean(self) -> None:
        """End whatever of it still lives, and take its line away: the next cluster lays its own."""
        if self._process is not None:
            for pid in [*family_of(self.watcher), *family_of(self.postmaster)]:
                if pid:
                    send(pid, signal.SIGKILL)
            self._process.wait()
        if is_isolated():
            subprocess.run(("ip", "link", "delete", f"line-{self.name}"), check=True)
            subprocess.run(("ip", "netns", "delete", self.name), check=True)


class Patroni:
    """The members of one cluster, run as `how` says; see SYNCHRONOUS and ASYNCHRONOUS."""

    def __init__(self, folder: Path, how: dict[str, Any]) -> None:
        folder.chmod(0o755)  # the servers' user must come through
        self.how = how
        self.etcd = Etcd(folder)
        self.members = [Member(n, folder, self.etcd, how) for n in range(1, MEMBERS + 1)]
        self._http = httpx.AsyncClient(timeout=2)

    @property
    def address(self) -> str:
        """The address of the store: all members, and whoever of them can be written."""
        hosts = ",".join(f"{member.host}:{member.port}" for member in self.members)
        return f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"

    async def start(self) -> None:
        self.etcd.start()
        await until(self._etcd_answers, "etcd answers")
        for member in self.members:
            member.start()
        await self.well()

    async def _etcd_answers(self) -> bool:
        try:
            return (await self._http.get(f"{self.etcd.url}/health")).is_success
        except httpx.TransportError:
            return False

    async def state(self, *besides: Member) -> list[dict[str, Any]]:
        """What the members say of themselves, asked of any that answers but `besides`."""
        for member in self.members:
            if member not in besides:
                try:
                    answer = await self._http.get(f"{member.rest}/cluster")
                except httpx.TransportError:
                    continue
                if answer.is_success:
                    return list(answer.json()["members"])
        return []

    async def leader(self, *besides: Member) -> Member | None:
        """Who leads, unless it is one of `besides`."""
        for said in await self.state(*besides):
            if said["role"] in ("leader", "master") and said["state"] == "running":
                found = next(one for one in self.members if one.name == said["name"])
                return None if found in besides else found
        return None

    async def is_well(self) -> bool:
        """Whether there is a leader, everybody follows it, and one does so synchronously."""
        members = await self.state()
        lead = next((said for said in members if said["role"] == "leader"), None)
        if lead is None or lead["state"] != "running" or len(members) != MEMBERS:
            return False
        followers = [said for said in members if said is not lead]
        alike = all(
            said["state"] in ("running", "streaming")
            and said.get("timeline") == lead.get("timeline")
            and isinstance(said.get("lag"), int)
            for said in followers
        )
        roles = {said["role"] for said in followers}
        return alike and ("sync_standby" in roles or not self.how["synchronous_mode"])

    async def well(self) -> None:
        """Wait until it is; says what the members wrote when it does not come."""
        try:
            await until(self.is_well, "the cluster is well", UP_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {await self.state()}\n{self.said()}") from None

    def said(self) -> str:
        """The last lines of every member's log."""
        logs = {one.name: (one.folder / "log").read_text() for one in self.members}
        return "\n".join(f"{name}: {text[-1500:]}" for name, text in logs.items())

    async def clean(self) -> None:
        await self._http.aclose()
        for member in self.members:
            member.clean()
        self.etcd.clean()


@contextlib.asynccontextmanager
async def running_patroni(how: dict[str, Any]) -> AsyncIterator[Patroni]:
    """A cluster that is well; it is ended and removed with the block."""
    with folder_of_its_own() as folder:
        made = Patroni(folder, how)
        try:
            await made.start()
            yield made
        finally:
            await made.clean()
