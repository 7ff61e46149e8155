"""The nodes of a test: real processes on one store, each reached at a port of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from examples.signup.run import die_with_parent
from tests.crash.service import DEADLINE_SECONDS, ROOT, alive, send, until


class Nodes:
    """`count` places for nodes of `target`, filled and emptied by pid; see nursery.py."""

    def __init__(self, folder: Path, target: str, count: int, **environment: str) -> None:
        path = os.pathsep.join((str(ROOT), str(ROOT / "src")))
        self.environment = {**os.environ, "PYTHONPATH": path, **environment}
        self.target = target
        self.count = count
        self.err = folder / "nodes.err"
        self.pids: dict[int, int] = {}
        self.ready: set[int] = set()
        self.urls: list[str] = []

    async def open(self) -> None:
        """Start the nursery and a node in every place; they serve when this returns."""
        with self.err.open("wb") as err:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.cluster.nursery", self.target, str(self.count)),
                cwd=ROOT,
                env=self.environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=err,
                preexec_fn=die_with_parent,
            )
        self._listening = asyncio.create_task(self._listen())
        await until(lambda: self.urls, "the nursery is open")
        for place in range(self.count):
            await self.start(place)
        await self.all_serve()

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            word, *numbers = line.decode().split()
            if word == "ports":
                self.urls = [f"http://127.0.0.1:{port}" for port in numbers]
            elif word == "born":
                self.pids[int(numbers[0])] = int(numbers[1])
            else:
                self.ready.add(int(numbers[1]))

    async def start(self, place: int) -> None:
        """Let a node begin in `place`; comes back when it is born, long before it serves."""
        before = self.pids.get(place)
        assert self.process.stdin is not None
        self.process.stdin.write(f"start {place}\n".encode())
        await self.process.stdin.drain()
        await until(lambda: self.pids.get(place) != before, "a node is born")

    def serving(self) -> list[int]:
        """The places whose nodes live and have said that they serve."""
        return [at for at, pid in self.pids.items() if pid in self.ready and alive(pid)]

    async def all_serve(self) -> None:
        await until(lambda: len(self.serving()) == self.count, f"all serve: {self.said()}")

    async def end(self) -> None:
        """SIGTERM for all, and wait for their end."""
        for pid in self.pids.values():
            send(pid, signal.SIGTERM)
        await until(lambda: not any(map(alive, self.pids.values())), "the nodes' end")

    def said(self) -> str:
        return self.err.read_text()[-2000:]

    async def clean(self) -> None:
        """End whatever of it still lives, frozen or not."""
        for pid in self.pids.values():
            send(pid, signal.SIGKILL)
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.process.wait()
            await self._listening
