"""A part of the simulated service: the small kinds of state, asked on any node while nodes die.

    limit       so many calls for each caller, and never more, whoever is asked
    session     signed in on one node, changed on others, signed out on a third: it stays so, and
                nobody is signed out before
    request     carried out at most once for its key, and everybody who is told gets one answer

What nobody was told counts as not known, in the favour of neither side.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from outlive.errors import (
    OutcomeUnknown,
    OutliveError,
    RequestRunning,
    RequestUnknown,
    SessionExpired,
)
from outlive.kinds.ratelimits import Quota
from outlive.testing.cluster import NoAnswer

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.testing.cluster import Cluster

CALLERS = ("ada", "bob")
CALLS_MAX = 12
"""For each caller in `LONG_SECONDS`, which no run lasts: all that there ever are."""
LONG_SECONDS = 20 * 86_400.0
GIVEN_BACK_MAX = 1
"""What may come back within a run: far less than one call."""
THINK_SECONDS = 10.0
WORK_SECONDS = 1.0


class Kinds:
    """The small kinds of one node."""

    def __init__(self, app: Outlive) -> None:
        self.calls = app.ratelimits(
            Quota("calls", CALLS_MAX, per_seconds=LONG_SECONDS), storage="durable",
            on_failure="closed", timeout_seconds=20.0,
        )  # fmt: skip
        self.sessions = app.sessions(idle_seconds=LONG_SECONDS, absolute_seconds=LONG_SECONDS)


class Visitors:
    """Who uses the small kinds, and what they were told."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.admitted: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        """How often each request's effect has happened."""
        self.told: defaultdict[str, set[str]] = defaultdict(set)
        self._kinds: dict[Outlive, Kinds] = {}
        self._number = 0

    async def work(self) -> None:
        """Use the cluster until its faults are over, and come to an end with what was begun."""
        async with asyncio.TaskGroup() as group:
            for visit in (self._call, self._visit, self._order):
                group.create_task(self._again_and_again(visit))

    async def _again_and_again(self, visit: Any) -> None:
        cluster = self.cluster
        async with asyncio.TaskGroup() as group:
            while not cluster.over:
                self._number += 1
                group.create_task(visit(str(self._number)))
                await cluster.pause(2 * THINK_SECONDS * cluster.stretch)

    def _of(self, app: Outlive) -> Kinds:
        if app not in self._kinds:
            self._kinds[app] = Kinds(app)
        return self._kinds[app]

    async def _ask(self, work: Any) -> Any:
        """What one node says; None when nobody knows, or nothing was done."""
        try:
            return await self.cluster.ask(work)
        except (NoAnswer, OutcomeUnknown):
            self.cluster.counts["no answer"] += 1
        except OutliveError as error:
            self.cluster.counts[error.code] += 1
        return None

    # --- calls ------------------------------------------------------------------------------------

    async def _call(self, name: str) -> None:
        caller = self.cluster.dice.choice(CALLERS)
        if await self._ask(lambda app: self._of(app).calls.hit(caller)):
            self.admitted[caller] += 1
            self.cluster.counts["calls admitted"] += 1

    # --- sessions ---------------------------------------------------------------------------------

    async def _visit(self, name: str) -> None:
        """Sign in, look around on other nodes while somebody signs it out, and look again."""
        cluster = self.cluster

        async def sign_in(app: Outlive) -> str:
            sessions = self._of(app).sessions
            session = sessions.visit(None)
            session.sign_in(f"guest {name}")
            return (await sessions.settle(None, session.change())).id

        id = await self._ask(sign_in)
        if not id:
            return
        leaving, ended = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wander(name, id, leaving, ended))
            await cluster.pause(THINK_SECONDS * cluster.stretch)
            leaving.set()
            await self._sign_out(id)
            ended.set()
        for _ in range(3):
            await cluster.pause(THINK_SECONDS)
            if await self._ask(lambda app: self._of(app).sessions.load(id)):
                cluster.flaws.append(f"P1: guest {name} was signed out and is signed in")
        cluster.counts["sessions signed out"] += 1

    async def _wander(
        self, name: str, id: str, leaving: asyncio.Event, ended: asyncio.Event
    ) -> None:
        """Requests that change the session, some of them still under way when it ends."""

        async def change(app: Outlive) -> None:
            sessions = self._of(app).sessions
            held = await sessions.load(id)
            if held is None and not leaving.is_set():
                self.cluster.flaws.append(f"P1: guest {name} was signed in and is not")
            if held is not None:
                session = sessions.visit(held)
                session["seen"] = session.get("seen", 0) + 1
                await asyncio.sleep(self.cluster.dice.random() * WORK_SECONDS)
                await sessions.settle(held, session.change())

        while not ended.is_set():
            await self._ask(change)
            await self.cluster.pause(2 * WORK_SECONDS * self.cluster.stretch)

    async def _sign_out(self, id: str) -> None:
        """Until somebody says that it is."""

        async def sign_out(app: Outlive) -> bool:
            sessions = self._of(app).sessions
            held = await sessions.load(id)
            if held is not None:
                session = sessions.visit(held)
                session.sign_out()
                with suppress(SessionExpired):
                    await sessions.settle(held, session.change())
            return True

        while not await self._ask(sign_out):
            await self.cluster.pause(1.0)

    # --- requests ---------------------------------------------------------------------------------

    async def _order(self, name: str) -> None:
        """The same request by two clients, each until it has an answer, or nobody can know it."""
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(self._request(name))

    async def _request(self, name: str) -> None:
        cluster = self.cluster

        async def carry_out(app: Outlive) -> str:
            async with app.once("orders", name, "one") as once:
                if once.replayed:
                    return str(once.value)
                await asyncio.sleep(cluster.dice.random() * WORK_SECONDS)
                self.done[name] += 1
                answer = f"{name} was done as number {sum(self.done.values())}"
                once.finish(answer)
            return answer

        while True:
            try:
                said = await cluster.ask(carry_out)
            except RequestUnknown:
                cluster.counts["requests unknown"] += 1
                return
            except (NoAnswer, OutliveError) as error:
                again = isinstance(error, (NoAnswer, RequestRunning)) or error.retryable
                if not again and not isinstance(error, OutcomeUnknown):
                    raise
            else:
                self.told[name].add(said)
                cluster.counts["requests answered"] += 1
                return
            await cluster.pause(4 * cluster.stretch)

    # --- afterwards -------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """What is not as it must be, when all has come to rest."""
        most = CALLS_MAX + GIVEN_BACK_MAX
        calls = [(who, count) for who, count in self.admitted.items() if count > most]
        twice = [(name, count) for name, count in self.done.items() if count > 1]
        torn = [(name, said) for name, said in self.told.items() if len(said) > 1]
        lost = [name for name in self.told if not self.done[name]]
        return [
            *(f"P4: {who} had {count} calls of {CALLS_MAX}" for who, count in calls),
            *(f"P5: request {name} was done {count} times" for name, count in twice),
            *(f"P5: request {name} was answered {said}" for name, said in torn),
            *(f"P1: request {name} was answered and not done" for name in lost),
        ]
