"""`make cluster`: fail-overs of real PostgreSQL servers under Patroni and etcd, under load.

As root everything runs in name spaces of its own: network, mounts and processes. Nothing of it is
reachable from the host or left behind, however it ends, because the kernel ends all processes of a
process name space with its first. Each server has an address of its own there, which can be cut
off. Without root all servers share the loopback address, and nobody is cut off.

    python -m tests.failover [arguments of pytest]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from tests.failover.patroni import BRIDGE, HUB, IN_NAMESPACES

PROOFS = ("synchronous.py", "asynchronous.py")
UNSHARE = (
    *("unshare", "--net", "--mount", "--propagation", "private"),
    *("--pid", "--fork", "--kill-child", "--mount-proc"),
)


def main() -> int:
    given = sys.argv[1:]
    if os.geteuid() == 0 and shutil.which("unshare") and shutil.which("ip"):
        if IN_NAMESPACES not in os.environ:
            os.environ[IN_NAMESPACES] = "1"
            os.execvp(UNSHARE[0], [*UNSHARE, sys.executable, "-m", "tests.failover", *given])
        lay_network()
        proof = os.fork()
        if proof:
            return reap(proof)
    run(given)


def run(given: list[str]) -> NoReturn:
    """Become pytest, as a program of its own: its plugins must be imported by itself."""
    folder = Path(__file__).parent
    files = [word for word in given if word.endswith(".py")]
    words = [word for word in given if word not in files]
    wanted = files or [str(folder / name) for name in PROOFS]
    options = ("-s", "-o", "faulthandler_timeout=0")
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *options, *words, *wanted])


def reap(proof: int) -> int:
    """Be the first process of the name space, until `proof` has ended; gives its exit code.

    Whoever loses his parent is ours. If nobody took note of a killed server's end, its number
    would stay taken, and Patroni would wait for ever for that server to stop.
    """
    while True:
        pid, status = os.wait()
        if pid == proof:
            return os.waitstatus_to_exitcode(status)


def lay_network() -> None:
    """A bridge in this network name space, and a place for the names of those of the servers."""
    for command in (
        ("ip", "link", "set", "lo", "up"),
        ("mkdir", "-p", "/run/netns"),
        ("mount", "-t", "tmpfs", "none", "/run/netns"),
        ("ip", "link", "add", BRIDGE, "type", "bridge"),
        ("ip", "address", "add", f"{HUB}/24", "dev", BRIDGE),
        ("ip", "link", "set", BRIDGE, "up"),
    ):
        subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
