"""Clients of the workshop: each has one job after the other done, asking any node."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import httpx
from tests.crash.service import Machine

from outlive.testing import oracles
from outlive.testing.oracles import Facts

ANSWER_SECONDS_MAX = 60.0
AGAIN = frozenset((429, 502, 503, 507))


class Jobs:
    """Jobs of `form`, started by `clients` clients, each when its last one has ended."""

    def __init__(
        self, machine: Machine, urls: list[str], seed: int, clients: int, **form: Any
    ) -> None:
        machine.closing.append(self.close)
        self.urls = urls
        self.random = random.Random(seed)
        self.seed = seed
        self.form = form
        self.clients = clients
        self.ids: dict[str, set[str]] = {}
        self.done: set[str] = set()
        self.refused = 0
        self._ending = asyncio.Event()
        self._http = httpx.AsyncClient(timeout=5)
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        self._tasks = [asyncio.create_task(self._client(at)) for at in range(self.clients)]

    async def end(self) -> None:
        """No new jobs; those under way come to their end."""
        self._ending.set()
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    def check(self) -> None:
        """Raise what a client has met that no client should meet."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _client(self, at: int) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            name = f"{self.seed}-{at}-{number}"
            id = await self.start(name)
            if self.form.get("waits"):
                await self.ask("POST", f"/jobs/{id}/signals/go", {}, f"go-{name}")
            while (await self.ask("GET", f"/jobs/{id}"))["status"] != "done":
                await asyncio.sleep(self.random.uniform(0.05, 0.2))
            self.done.add(id)

    async def start(self, name: str) -> str:
        """Start a job under the key `name`; gives its id."""
        told = await self.ask("POST", "/jobs", {"name": name, **self.form}, name)
        self.ids.setdefault(name, set()).add(told["id"])
        return str(told["id"])

    async def ask(self, method: str, path: str, body: Any = None, key: str = "") -> Any:
        """Ask any node until one answers."""
        headers = {"Idempotency-Key": key} if key else {}
        end = time.monotonic() + ANSWER_SECONDS_MAX
        while True:
            url = self.random.choice(self.urls) + path
            try:
                answer = await self._http.request(method, url, json=body, headers=headers)
            except httpx.TransportError:
                self.refused += 1
            else:
                if answer.is_success:
                    return answer.json()
                assert answer.status_code in AGAIN, f"{path}: {answer.status_code} {answer.text}"
                self.refused += 1
            assert time.monotonic() < end, f"{path}: no answer in {ANSWER_SECONDS_MAX:g} s"
            await asyncio.sleep(self.random.uniform(0.02, 0.2))


async def flaws(machine: Machine, jobs: Jobs, facts: Facts) -> list[str]:
    """Everything that is not as it must be, when all is over."""
    names = [name for (name,) in await machine.rows("SELECT name FROM notes")]
    ids = {id for found in jobs.ids.values() for id in found}
    return [
        *oracles.p1_acknowledged_is_durable(facts, ids),
        *oracles.p4_one_effective_holder(facts),
        *oracles.p5_one_answer_per_key(facts, jobs.ids),
        *oracles.p6_work_ends_once(facts, ids),
        *oracles.p7_journal_grammar(facts),
        *oracles.p8_nothing_is_stuck(facts),
        *oracles.p9_tails_are_dense(facts),
        *oracles.p10_chain_verifies(facts),
        *(f"{name} has {names.count(name)} rows" for name in jobs.ids if names.count(name) != 1),
    ]
