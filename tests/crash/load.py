"""Clients that do not give up, and what they may believe when all is over.

A client registers under an Idempotency-Key and sends the same request again until it has an
answer: refused connections, resets, time-outs and 503 are everyday while somebody kills workers.
What it was answered it remembers; at the end `verdict` holds that against the store, the service's
own table and the partner's ledger.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
from msgspec import Struct
from tests.crash.service import Machine, looking_at, until

from outlive.errors import PastPivot, ProcessTerminal
from outlive.kinds.processes import FINAL
from outlive.steps import step_key
from outlive.testing import oracles
from outlive.testing.oracles import Facts

ANSWER_SECONDS_MAX = 60.0
"""Longer than this without an answer is a failure of the service, not of the moment."""
SETTLE_SECONDS = 40.0
AGAIN = frozenset((429, 502, 503, 507))
TOO_LATE = frozenset((ProcessTerminal.code, PastPivot.code))


class Load:
    """Registrations of `clients` clients at once, each with a pause of its own.

    Every request goes to any one of `urls`, without them of the machine's services.
    """

    def __init__(
        self,
        machine: Machine,
        seed: int,
        clients: int = 20,
        pause_seconds: float = 0.3,
        urls: Sequence[str] = (),
    ) -> None:
        self.urls = urls or [service.url for service in machine.services]
        machine.closing.append(self.close)
        self.random = random.Random(seed)
        self.seed = seed
        self.clients = clients
        self.pause_seconds = pause_seconds
        self.answers: defaultdict[str, set[str]] = defaultdict(set)
        self.statuses: Counter[int] = Counter()
        self.broken = 0
        self.cancelled: set[str] = set()
        self._ending = asyncio.Event()
        self._count = 0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def acknowledged(self) -> set[str]:
        """The ids that clients were given."""
        return {id for ids in self.answers.values() for id in ids}

    def begin(self) -> None:
        self._http = httpx.AsyncClient(
            timeout=5, limits=httpx.Limits(max_connections=self.clients * len(self.urls))
        )
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self.clients)]

    async def end(self) -> None:
        """No new registrations; those under way are brought to their end."""
        self._ending.set()
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Leave at once, whatever is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    def check(self) -> None:
        """Raise what a client has met that no client should meet."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _client(self) -> None:
        while not self._ending.is_set():
            await self._register()
            await asyncio.sleep(self.random.uniform(0, 2 * self.pause_seconds))

    async def _register(self) -> None:
        self._count += 1
        key = f"{self.seed}-{self._count}"
        form = {"firstName": "Ada", "lastName": key, "email": f"{key}@example.org"}
        times = 2 if self.random.random() < 0.1 else 1
        for _ in range(times):
            answer = await self._until_answered("/registrations", form, key, (200, 201))
            self.answers[key].add(answer.json()["id"])
        place = httpx.URL(answer.headers["location"]).path
        shown = await self._until_answered(place, None, "", (200,))
        assert shown.json()["id"] == answer.json()["id"]
        await asyncio.sleep(self.random.choice((0.0, 0.05, 0.5)))
        if self.random.random() < 0.1:
            self.cancelled.add(answer.json()["id"])
            told = await self._until_answered(
                f"{place}/cancel", {"reason": "a test"}, "", (202, 409)
            )
            assert told.status_code == 202 or told.json()["code"] in TOO_LATE, told.text
        # Sent again because the answer was lost, it may find that its first copy did its work.
        form = {"newsletter": self.random.random() < 0.5}
        signals = f"{place}/signals/confirmed"
        told = await self._until_answered(signals, form, f"{key}-c", (202, 409))
        assert told.status_code == 202 or told.json()["code"] == ProcessTerminal.code, told.text

    async def _until_answered(
        self, path: str, body: Any, key: str, wanted: tuple[int, ...]
    ) -> httpx.Response:
        headers = {"Idempotency-Key": f'"{key}"'} if key else {}
        end = time.monotonic() + ANSWER_SECONDS_MAX
        while True:
            url = self.random.choice(self.urls) + path
            try:
                if body is None:
                    answer = await self._http.get(url)
                else:
                    answer = await self._http.post(url, json=body, headers=headers)
                self.statuses[answer.status_code] += 1
                if answer.status_code in wanted:
                    return answer
                assert answer.status_code in AGAIN, f"{path}: {answer.status_code} {answer.text}"
            except httpx.TransportError:
                self.broken += 1
            assert time.monotonic() < end, f"{path}: no answer in {ANSWER_SECONDS_MAX:g} s"
            await asyncio.sleep(self.random.uniform(0.02, 0.2))


async def settled(machine: Machine, seconds: float = SETTLE_SECONDS) -> None:
    """Wait until every process has ended; what has not by then is the oracles' business."""
    async with looking_at(machine.address) as store:
        spaces = [oracles.space_of(shard) for shard in range(store.shards)]

        async def over() -> bool:
            for status in ("queued", "running", "compensating", "waiting"):
                low, high = f"{status} ", f"{status} ~"
                if await store.select(spaces, "process.status", low, high, 1):
                    return False
            return True

        end = time.monotonic() + seconds
        while not await over() and time.monotonic() < end:
            await asyncio.sleep(0.1)


class Verdict(Struct):
    """What a test is about: counted at its end."""

    facts: Facts
    accepted: int
    lost: list[str]
    doubled: list[str]
    stuck: list[str]
    others: list[str]

    @property
    def flawless(self) -> bool:
        return not (self.lost or self.doubled or self.stuck or self.others)

    def line(self, kills: int, **more: float | int | str) -> str:
        ended = Counter(found.head.status for found in self.facts.processes.values())
        figures: dict[str, Any] = {
            "kills": kills,
            "accepted": self.accepted,
            "lost": len(self.lost),
            "doubled": len(self.doubled),
            "stuck": len(self.stuck),
            "other": len(self.others),
            **dict(sorted(ended.items())),
            **more,
        }
        return " ".join(f"{name}={value}" for name, value in figures.items())

    def demand(self) -> None:
        """Fail with everything that was found."""
        found = [*self.lost, *self.doubled, *self.stuck, *self.others]
        assert self.flawless, f"{len(found)} violations:\n" + "\n".join(found[:30])


def recorded_rows(facts: Facts) -> dict[str, str]:
    """What the service's own table must say of each process, judged by its journal alone."""
    said: dict[str, str] = {}
    for id, process in facts.processes.items():
        for event in process.journal:
            if event.kind in ("step", "undone"):
                match event.kind, msgspec.json.decode(event.data)["id"]:
                    case "step", "add_user":
                        said[id] = "pending"
                    case "step", "activate":
                        said[id] = "active"
                    case "undone", "add_user":
                        del said[id]
    return said


async def verdict(machine: Machine, load: Load, *, calm: bool = True) -> Verdict:
    """Hold what the clients were told against what is there.

    `calm`: the partner was well, so that whoever was not cancelled has no reason to roll back.
    """
    assert machine.partner is not None
    facts = await machine.facts()
    accepted = load.acknowledged
    done = facts.ended_as("done")
    rows = await machine.rows("SELECT id, state FROM users")
    customers = await machine.partner.effects("customer")
    mails = await machine.partner.effects("mail")
    streams = {id: found.head.stream for id, found in facts.processes.items()}
    mail_of = {id: step_key(stream, "send_mail") for id, stream in streams.items()}
    unmailed = {key for id, key in mail_of.items() if id not in done}
    pending = {id for id, found in facts.processes.items() if found.head.status not in FINAL}
    return Verdict(
        facts,
        len(accepted),
        lost=oracles.p1_acknowledged_is_durable(facts, accepted),
        doubled=[
            *oracles.p5_one_answer_per_key(facts, load.answers),
            *oracles.p5_one_effect_per_key(customers, done, pending),
            *oracles.p5_one_effect_per_key(mails, {mail_of[id] for id in done}, unmailed),
            *oracles.p2_rows_agree(rows, recorded_rows(facts)),
        ],
        stuck=[*oracles.p6_work_ends_once(facts, accepted), *oracles.p8_nothing_is_stuck(facts)],
        others=[
            *store_flaws(facts),
            *(
                f"{id} was {facts.processes[id].head.status} for no reason of its own"
                for id in facts.ended_as("rolled_back", "failed", "cancelled") - load.cancelled
                if calm
            ),
        ],
    )


def store_flaws(facts: Facts) -> list[str]:
    """What the store itself can be asked, whatever was run on it."""
    return [
        *oracles.p4_one_effective_holder(facts),
        *oracles.p7_journal_grammar(facts),
        *oracles.p9_tails_are_dense(facts),
        *oracles.p10_chain_verifies(facts),
    ]


async def loaded(load: Load, registrations: int) -> None:
    """Wait until the load has got so many answers."""
    await until(lambda: len(load.answers) >= registrations, f"{registrations} registrations")
