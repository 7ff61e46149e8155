"""A place where nodes are born quickly: it has imported everything once, and forks.

    stdin    `start 2`            a node begins on the third socket
    stdout   `ports 1 2 3`        the sockets, held open over the lives of their nodes
             `born 2 4711`        a process of its own, which has imported the program already
             `ready 2 4711`       it serves

A node is a worker as `outlive serve` starts it: the same code, an identity, connections and a death
of its own. Only the second of imports is spared, so that a test has time for hundreds of deaths.
"""

from __future__ import annotations

import os
import select
import socket
import sys

from examples.signup.run import die_with_parent
from tests.cluster.namespaces import enter

from outlive.commands.serve import listen
from outlive.commands.target import load
from outlive.commands.worker import Order, work

GRACE_SECONDS = 20.0


def say(*words: object) -> None:
    print(*words, flush=True)


def bear(
    target: str, listener: socket.socket, life: int, held: int, namespace: str
) -> tuple[int, int]:
    """Fork a node, in a network namespace when one is named; gives its pid and the descriptor on
    which it says that it serves."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    code = 1
    try:
        die_with_parent()
        if namespace:
            enter(namespace)
        os.close(held)
        os.close(read)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = work(Order(target, listener.fileno(), life, write, GRACE_SECONDS))
    finally:
        os._exit(code)


def main(target: str, nodes: int) -> None:
    load(target)
    import asyncpg.pgproto.pgproto  # noqa: F401
    import uvicorn.lifespan.on
    import uvicorn.protocols.http.auto  # noqa: F401

    import outlive.runtime.node
    import outlive.stores.postgres
    import outlive.stores.sqlite
    import outlive.web.asgi  # noqa: F401

    listeners = [listen("127.0.0.1", 0) for _ in range(nodes)]
    life, held = os.pipe()
    namespaces = [name for name in os.environ.get("NAMESPACES", "").split(",") if name]
    say("ports", *(listener.getsockname()[1] for listener in listeners))
    awaited: dict[int, tuple[int, int]] = {}
    rest = b""
    while True:
        for descriptor in select.select([0, *awaited], [], [])[0]:
            if descriptor == 0:
                heard = os.read(0, 4096)
                if not heard:
                    return
                *lines, rest = (rest + heard).split(b"\n")
                for line in lines:
                    place = int(line.split()[1])
                    namespace = namespaces[place] if namespaces else ""
                    pid, read = bear(target, listeners[place], life, held, namespace)
                    awaited[read] = place, pid
                    say("born", place, pid)
            else:
                place, pid = awaited.pop(descriptor)
                report = os.read(descriptor, 65536)
                if b'"ready":true' in report:
                    say("ready", place, pid)
                elif report:
                    print(report.decode(), file=sys.stderr, flush=True)
                os.close(descriptor)
        while _one_ended():
            pass


def _one_ended() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] > 0
    except ChildProcessError:
        return False


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
