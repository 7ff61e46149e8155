"""Hosts of the test's own making: network namespaces, a line from each to the one of the database.

    node 0 ── 10.77.0.2/30 ──╮
    node 1 ── 10.77.1.2/30 ──┼── hub: PostgreSQL on 10.77.255.1, and on a socket of the file system
    node 2 ── 10.77.2.2/30 ──╯

Nothing of it is seen outside: no name, address or route of the machine itself is changed. A node
enters its namespace when it is born; the port on which its clients ask it was made outside, so
that only what it says to the database goes over its line. The line is broken in three ways:

    down       the link goes down at the hub: nothing goes either way, nobody is told
    deaf       what the database answers goes nowhere; what the node asks arrives
    mute       what the node asks goes nowhere; what the database says arrives

Namespaces are named after the process that made them; those of a test that was killed are removed
by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from tests.postgres_server import Server, folder_of_its_own

NAME = "outlive-test-"
PLACES = ("/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin")
NAMES = Path("/run/netns")
HUB = "10.77.255.1"
CLONE_NEWNET = 0x40000000
SECONDS_MAX = 30.0

Cut = Literal["down", "deaf", "mute"]

_libc = ctypes.CDLL(None, use_errno=True)


def ip(*words: object) -> str:
    """Run `ip`; fails the test with what it says."""
    program = shutil.which("ip", path=os.pathsep.join(PLACES))
    if program is None:
        pytest.fail("no `ip`: run `make servers` as root (apt-get install iproute2)")
    done = subprocess.run(
        [program, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"ip {' '.join(map(str, words))} (run as root): {done.stderr.strip()}")
    return done.stdout


def enter(namespace: str) -> None:
    """Move this thread, and what it starts from now on, into a namespace."""
    with open(NAMES / namespace, "rb") as file:
        _enter(file.fileno())


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread is in `namespace` meanwhile. Not to be held over an `await`."""
    with open("/proc/thread-self/ns/net", "rb") as own:
        enter(namespace)
        try:
            yield
        finally:
            _enter(own.fileno())


class Hosts:
    """A hub and `count` nodes around it."""

    def __init__(self, count: int) -> None:
        self.hub = f"{NAME}{os.getpid()}-hub"
        self.nodes = [f"{NAME}{os.getpid()}-{number}" for number in range(count)]

    def make(self) -> None:
        ip("netns", "add", self.hub)
        ip("-n", self.hub, "link", "set", "dev", "lo", "up")
        ip("-n", self.hub, "address", "add", f"{HUB}/32", "dev", "lo")
        for number, node in enumerate(self.nodes):
            here, there = f"10.77.{number}.2", f"10.77.{number}.1"
            ip("netns", "add", node)
            ip("-n", node, "link", "set", "dev", "lo", "up")
            peer = ("peer", "name", f"node{number}", "netns", self.hub)
            ip("-n", node, "link", "add", "name", "line", "type", "veth", *peer)
            for where, name, address in ((node, "line", here), (self.hub, f"node{number}", there)):
                ip("-n", where, "address", "add", f"{address}/30", "dev", name)
                ip("-n", where, "link", "set", "dev", name, "up")
            ip("-n", node, "route", "add", "default", "via", there)

    def cut(self, number: int, how: Cut) -> None:
        """Break the line of one node."""
        match how:
            case "down":
                ip("-n", self.hub, "link", "set", "dev", f"node{number}", "down")
            case "deaf":
                ip("-n", self.hub, "route", "add", "blackhole", f"10.77.{number}.2/32")
            case "mute":
                ip("-n", self.nodes[number], "route", "add", "blackhole", f"{HUB}/32")

    def heal(self, number: int, how: Cut) -> None:
        """Mend it."""
        match how:
            case "down":
                ip("-n", self.hub, "link", "set", "dev", f"node{number}", "up")
            case "deaf":
                ip("-n", self.hub, "route", "del", "blackhole", f"10.77.{number}.2/32")
            case "mute":
                ip("-n", self.nodes[number], "route", "del", "blackhole", f"{HUB}/32")

    def remove(self) -> None:
        """The kernel removes lines and addresses with their namespaces."""
        for name in (*self.nodes, self.hub):
            if (NAMES / name).exists():
                ip("netns", "del", name)


def sweep() -> None:
    """Remove the namespaces of tests that were killed: their makers are gone."""
    for left in NAMES.glob(f"{NAME}*"):
        pid = left.name.removeprefix(NAME).partition("-")[0]
        if not Path(f"/proc/{pid}").exists():
            ip("netns", "del", left.name)


@contextlib.contextmanager
def hosts(count: int) -> Iterator[Hosts]:
    """Namespaces that are removed with the block."""
    sweep()
    made = Hosts(count)
    try:
        made.make()
        yield made
    finally:
        made.remove()


@contextlib.contextmanager
def server_in(namespace: str) -> Iterator[Server]:
    """A server that listens inside of `namespace` only, and on a socket in its folder."""
    with folder_of_its_own() as folder:
        server = Server(folder, (f"listen_addresses={HUB}",))
        with (folder / "database" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.77.0.0/16 trust\n")
        with inside(namespace):
            server.start()
        try:
            yield server
        finally:
            server.stop()


def address_here(server: Server) -> str:
    """Of its socket, which is reached from every namespace."""
    return f"postgresql://postgres@/postgres?host={server.folder}&port={server.port}"


def address_there(server: Server) -> str:
    """Of the hub, as the nodes reach it."""
    return f"postgresql://postgres@{HUB}:{server.port}/postgres"
