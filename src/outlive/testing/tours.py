"""A part of the simulated service: processes that use what orders do not.

    tour    two branches of which the first counts, a scope that may be undone, a step past its time
            limit, a result too big for its row, an update, a callback, a tag; then the next era

What it did outside is in its own ledger, for each era. Who sends updates and calls back does it as
such clients do: again and again under one key, until somebody has answered.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from outlive.errors import (
    CallbackExpired,
    NonRetryable,
    NoSuchCallback,
    ProcessTerminal,
    StepFailed,
    WaitTimeout,
)
from outlive.kinds.processes import Unknown
from outlive.kinds.processes.updates import Update
from outlive.runtime.run import Run
from outlive.steps import Retry, attempt, step
from outlive.testing.oracles import Effect, Facts, p5_one_effect_per_key

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.testing.cluster import Cluster

THINK_SECONDS = 12.0
WAIT_SECONDS = 600.0
BIG_CHARACTERS = 300_000
"""More than a row of the journal holds: it becomes a blob."""
SLOW_SECONDS = 9.0
LIMIT_SECONDS = 3.0
PUBLIC = "http://127.0.0.1:8000"
"""Where callbacks would be called; nobody listens there."""


class Tour(Struct):
    """What a tour has to go through in this era and the ones after it."""

    name: str
    eras: int = 1
    big: bool = False
    slow: bool = False
    hotel: bool = True
    """Whether the hotel takes them; else its scope is undone."""
    asked: bool = False
    called: bool = False


class Change(Struct):
    """What a guest wants to have changed."""

    to: str


class Outside:
    """What tours did outside, and the callbacks that they have handed out."""

    def __init__(self) -> None:
        self.keys: dict[str, set[str]] = {}
        self.undone: set[str] = set()
        self.posted: dict[str, str] = {}

    def effects(self) -> list[Effect]:
        """What stands."""
        return [Effect(what, len(keys - self.undone)) for what, keys in self.keys.items()]


outside: ContextVar[Outside] = ContextVar("outlive_simulated_outside")
change = Update("change", Change, str)


@step(retry=Retry(attempts=6, base_seconds=0.5), undo="give_back")
async def book(what: str) -> str:
    await asyncio.sleep(0.2)
    if what.endswith("/none"):
        raise NonRetryable("there is none")
    outside.get().keys.setdefault(what, set()).add(attempt().key)
    await asyncio.sleep(0.2)
    return what


async def give_back(what: str, made: str | Unknown) -> None:
    await asyncio.sleep(0.1)
    outside.get().undone.add(attempt().undoes)


@step(retry=Retry(attempts=6, base_seconds=0.5), timeout=LIMIT_SECONDS)
async def draw_map(form: Tour) -> str:
    """Its first attempt may take longer than it may."""
    await asyncio.sleep(SLOW_SECONDS if form.slow and attempt().number == 1 else 0.2)
    return form.name + "m" * (BIG_CHARACTERS if form.big else 10)


@step(retry=Retry(attempts=6, base_seconds=0.5))
async def post(name: str, url: str) -> None:
    outside.get().posted[name] = url.rpartition("/")[2]


async def tour(run: Run, form: Tour) -> str:
    """See the module."""
    era = f"{form.name}/{form.eras}"
    run.tags["stage"] = f"{form.eras} to go"
    drawn = await run(draw_map, form)
    if drawn.rstrip("m") != form.name.rstrip("m"):
        raise NonRetryable(f"{form.name} has got the map of {drawn[:20]}")

    async def quick(run: Run) -> str:
        return await run(book, f"{era}/guide")

    async def late(run: Run) -> str:
        await run.sleep(10 * WAIT_SECONDS)
        return "late"

    await run.first(quick, late)
    with suppress(StepFailed, NonRetryable):
        async with run.scope():
            await run(book, f"{era}/train")
            await run(book, f"{era}/hotel" if form.hotel else f"{era}/none")
    said = await _told(run, form, era)
    if form.eras > 1:
        await run.again(msgspec.structs.replace(form, eras=form.eras - 1))
    return said


async def _told(run: Run, form: Tour, era: str) -> str:
    """What guests and the agency said of it."""
    said = ""
    if form.asked:
        with suppress(WaitTimeout):
            asked = await run.wait_update(change, within=WAIT_SECONDS)
            said = asked.value.to
            await asked.answer(said.upper())
    if form.called:
        called = await run.callback("confirmed", type=str, within=WAIT_SECONDS)
        await run(post, era, called.url)
        with suppress(WaitTimeout):
            said += await called
    return said


def declare(app: Outlive) -> None:
    """Make the type of process a part of `app`."""
    app.process(
        "/tours", version=1, prefix="tou", updates=[change], callbacks={"confirmed": str},
        tags=["stage"],
    )(tour)  # fmt: skip


class Tourists:
    """Who starts tours, changes them, and calls back; and what they were told."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.outside = Outside()
        outside.set(self.outside)
        self.tours: dict[str, Tour] = {}

    async def work(self) -> None:
        """Use the cluster until its faults are over, and come to an end with what was begun."""
        cluster, dice, number = self.cluster, self.cluster.dice, 0
        async with asyncio.TaskGroup() as group:
            while not cluster.over:
                number += 1
                form = Tour(
                    f"tour {number}",
                    dice.choice((1, 1, 2, 3)),
                    dice.random() < 0.25,
                    dice.random() < 0.2,
                    dice.random() < 0.7,
                    dice.random() < 0.4,
                    dice.random() < 0.4,
                )
                group.create_task(self._tour(form))
                await cluster.pause(2 * THINK_SECONDS * cluster.stretch)

    async def _tour(self, form: Tour) -> None:
        cluster = self.cluster
        id = await cluster.start(tour, form, key=form.name)
        self.tours[id] = form
        async with asyncio.TaskGroup() as group:
            if form.asked:
                group.create_task(self._change(id, form))
            agency = group.create_task(self._call_back(form))
            await cluster.end_of(id)
            agency.cancel()

    async def _change(self, id: str, form: Tour) -> None:
        """One update an era, each under its key, until it is decided."""
        for era in range(form.eras, 0, -1):
            key = f"change {era}"
            try:
                found = await self._decided(id, key, msgspec.json.encode(Change(f"to {era}")))
            except ProcessTerminal:
                return
            if found.status == "answered":
                self.cluster.counts["updates answered"] += 1
                said = msgspec.json.decode(found.answer)
                if said != f"TO {era}":
                    self.cluster.flaws.append(f"P5: {form.name}, {key} was answered {said}")

    async def _decided(self, id: str, key: str, asked: bytes) -> Any:
        cluster = self.cluster
        await cluster.insist(lambda app: app.ask(id, "change", asked, key=key))
        while True:
            found = await cluster.insist(lambda app: app.standing(id, "change", key))
            if found.status != "accepted":
                return found
            await cluster.pause(4 * cluster.stretch)

    async def _call_back(self, form: Tour) -> None:
        """What the agency does: it calls every address that it was sent, twice."""
        cluster, left = self.cluster, [f"{form.name}/{era}" for era in range(form.eras, 0, -1)]
        while form.called and left:
            token = self.outside.posted.get(left[0])
            if token is not None:
                said = msgspec.json.encode(f", seen {left.pop(0)}")
                for _ in range(2):
                    with suppress(CallbackExpired, NoSuchCallback):
                        await cluster.insist(partial(_call_back, token, said))
                        cluster.counts["callbacks"] += 1
            await cluster.pause(4 * cluster.stretch)

    async def check(self, facts: Facts) -> list[str]:
        """What is not as it must be, when all has come to rest."""
        heads = {id: facts.processes[id].head for id in self.tours if id in facts.processes}
        wanted, flaws = set[str](), list[str]()
        for id, head in heads.items():
            form = self.tours[id]
            if head.status != "done":
                flaws.append(f"{form.name} ended as {head.status}")
            self.cluster.counts["eras"] += head.era
            self.cluster.counts["large results"] += form.big
            if head.status == "done" and head.era != form.eras:
                flaws.append(f"P7: {form.name} has been through {head.era} eras of {form.eras}")
            for era in range(form.eras, 0, -1):
                wanted |= {f"{form.name}/{era}/guide"}
                wanted |= {f"{form.name}/{era}/{w}" for w in ("train", "hotel") if form.hotel}
        done = {id for id, head in heads.items() if head.status == "done"}
        flaws += p5_one_effect_per_key(self.outside.effects(), wanted)
        flaws += await self._found(done)
        return flaws

    async def _found(self, done: set[str]) -> list[str]:
        """All that are done are found by their tag."""
        found, cursor = set[str](), ""
        while True:
            page = await self.cluster.insist(partial(_page, cursor))
            found |= {line.id for line in page.items}
            cursor = page.cursor
            if not cursor:
                return [f"P1: {id} is not found by its tag" for id in sorted(done - found)]


async def _call_back(token: str, said: bytes, app: Outlive) -> None:
    await app.call_back(token, said)


async def _page(cursor: str, app: Outlive) -> Any:
    tags = {"stage": "1 to go"}
    return await app.processes(type="tour", tags=tags, limit=200, cursor=cursor)
