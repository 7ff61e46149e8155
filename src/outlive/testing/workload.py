"""The service that `python -m outlive.testing.simulate` simulates: everything at once, on few keys.

    order     steps with retries and undos, a sleep, a wait, branches, a pivot, a child, a row of
              its own table in the transaction of its end; some fail on the way and are rolled back
    parcel    the child: at most two go at once
    tour      branches, eras, updates, callbacks and what else processes can: see tours.py
    visits    limits, sessions and requests: see visits.py
    pairs     cells that clients write in pairs, each at the version it has read; durable or relaxed
    work      cells that are claimed, done outside, and finished under the claim's version

The outside (`World`) knows idempotency keys, as a good one does: what is done again under a key is
one effect, and what was taken back stays so, also when the order to do it comes late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from outlive.app import Outlive
from outlive.errors import NonRetryable, OutcomeUnknown, OutliveError, WaitTimeout
from outlive.kinds.processes import Unknown
from outlive.kinds.processes.limits import Limit
from outlive.model import ABSENT, Batch, Put, Ref, Require
from outlive.runtime.run import Run
from outlive.steps import Retry, attempt, step
from outlive.stores import sql
from outlive.testing import tours, visits
from outlive.testing.cluster import Cluster, NoAnswer
from outlive.testing.oracles import (
    Effect,
    Facts,
    p2_rows_agree,
    p5_one_effect_per_key,
)
from outlive.testing.promises import (
    Deed,
    p2_pairs_agree,
    p3_cells_are_linearizable,
    p6_claimed_work_ends_once,
    p13_unknown_is_unknown,
)

ORDERS, PAIRS, WORKERS = 3, 2, 2
"""Clients of each sort."""
PAIR_KEYS = ("x", "y", "z")
THINK_SECONDS = 8.0
HOLD_SECONDS = 4.0
WAIT_SECONDS = 300.0
SQL = sql.named(Path(__file__).with_name("workload.sql"))

app = Outlive("memory://", lease_seconds=10.0, public_url=tours.PUBLIC)
tours.declare(app)


class World:
    """What is outside of the service, and survives it."""

    def __init__(self) -> None:
        self.keys: dict[str, set[str]] = {}
        """For each thing done, the keys under which it was."""
        self.undone: set[str] = set()
        self.calls = 0
        self.done: list[str] = []
        """Work of the cells, each time that a worker was told that it is finished."""

    def do(self, what: str) -> None:
        """Do `what` under the key of the step that runs."""
        self.calls += 1
        self.keys.setdefault(what, set()).add(attempt().key)

    def undo(self) -> None:
        """Take back what was done under the key of the step that is undone."""
        self.calls += 1
        self.undone.add(attempt().undoes)

    def effects(self) -> list[Effect]:
        """What stands."""
        return [Effect(what, len(keys - self.undone)) for what, keys in self.keys.items()]


world: ContextVar[World] = ContextVar("outlive_simulated_world")


class Order(Struct):
    """What an order has to go through."""

    name: str
    flaky: int = 0
    """Attempts of its charge that fail behind their effect."""
    fails: str = ""
    """The step that refuses for good."""
    sleeps: float = 0.0
    waits: bool = False
    parcel: bool = False


async def call(what: str, form: Order, seconds: float = 0.4) -> str:
    """Ask the outside for something: it takes its time, and the answer too."""
    await asyncio.sleep(seconds / 2)
    if form.fails == what:
        raise NonRetryable(f"no {what}")
    world.get().do(f"{form.name}/{what}")
    await asyncio.sleep(seconds / 2)
    if what == "charge" and attempt().number <= form.flaky:
        raise ConnectionError("the answer was lost")
    return what


async def take_back(form: Order, made: str | Unknown) -> None:
    await asyncio.sleep(0.1)
    world.get().undo()


@step(undo="take_back", timeout=30)
async def reserve(form: Order) -> str:
    return await call("reserve", form)


@step(retry=Retry(attempts=5, base_seconds=0.5), undo="take_back", timeout=30)
async def charge(form: Order) -> str:
    return await call("charge", form, 1.5)


@step(undo="take_back")
async def pack(form: Order) -> str:
    return await call("pack", form)


@step(undo="take_back")
def label(form: Order) -> str:
    """A step without await: in production it runs in a thread."""
    world.get().do(f"{form.name}/label")
    return "label"


@step(retry=Retry(attempts=5))
async def ship(form: Order) -> str:
    return await call("ship", form)


def make_tables(tables: Any) -> None:
    tables.execute(SQL["make"])


def note(tables: Any, name: str) -> str:
    tables.execute(SQL["write"], (name, "done"))
    return name


app.schema(make_tables)


@app.process("/parcels", version=1, prefix="par", limit=Limit(concurrency=2))
async def parcel(run: Run, form: Order) -> str:
    return await run(ship, form)


@app.process("/orders", version=1, prefix="ord", signals={"approved": str})
async def order(run: Run, form: Order) -> str:
    await run(reserve, form)
    await run(charge, form)
    if form.sleeps:
        await run.sleep(form.sleeps)
    if form.waits:
        try:
            await run.wait("approved", within=WAIT_SECONDS)
        except WaitTimeout:
            raise NonRetryable("nobody approved it") from None

    async def packing(run: Run) -> str:
        return await run(pack, form)

    async def labelling(run: Run) -> str:
        return await run(label, form)

    await run.gather(packing, labelling)
    run.pivot()
    if form.parcel:
        child = await run.start(parcel, form)
        await child
    return await run.transact(note, form.name)


WANTED = ("reserve", "charge", "pack", "label")


class Clients:
    """Everybody who uses the simulated service, and what they were told."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.world = World()
        world.set(self.world)
        self.orders: dict[str, Order] = {}
        self.deeds: list[Deed] = []
        self.pairs: list[tuple[str, str, str]] = []
        self.wanted: set[str] = set()
        self.tickets = 0
        self.tourists = tours.Tourists(cluster)
        self.visitors = visits.Visitors(cluster)

    async def work(self) -> None:
        """Use the cluster until its faults are over, and come to an end with what was begun."""
        jobs = [self.tourists.work(), self.visitors.work()]
        jobs += [self._orders(at) for at in range(ORDERS)]
        jobs += [self._pairs(at) for at in range(PAIRS)]
        jobs += [self._workers(at) for at in range(WORKERS)]
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)

    # --- orders -----------------------------------------------------------------------------------

    async def _orders(self, at: int) -> None:
        cluster, dice, number = self.cluster, self.cluster.dice, 0
        async with asyncio.TaskGroup() as group:
            while not cluster.over:
                number += 1
                form = Order(
                    f"{at}-{number}",
                    dice.choice((0, 0, 0, 1, 3)),
                    dice.choice(("", "", "", "", "charge", "pack")),
                    dice.choice((0.0, 0.0, 0.7, 5.0, 40.0)),
                    dice.random() < 0.4,
                    dice.random() < 0.4,
                )
                group.create_task(self._order(form))
                await cluster.pause(2 * THINK_SECONDS * cluster.stretch)

    async def _order(self, form: Order) -> None:
        cluster = self.cluster
        id = await cluster.start(order, form, key=f"order {form.name}")
        self.orders[id] = form
        if form.waits:
            await cluster.pause(THINK_SECONDS * cluster.stretch)
            await cluster.signal(id, "approved", "yes", key=f"approved {form.name}")
        await cluster.end_of(id)

    # --- cells in pairs ---------------------------------------------------------------------------

    async def _pairs(self, at: int) -> None:
        cluster = self.cluster
        number = 0
        while not cluster.over:
            number += 1
            key = cluster.dice.choice(PAIR_KEYS)
            found = await self._read(key)
            if found is not None and cluster.dice.random() < 0.6:
                await self._write(key, f"{at}.{number}", found)
            await cluster.pause(THINK_SECONDS * cluster.stretch)
        for key in PAIR_KEYS:
            while await self._read(key) is None:
                await cluster.pause(1.0)

    async def _read(self, key: str) -> list[int] | None:
        """The versions of a pair; None when nobody answered."""
        refs = [Ref("simulated", f"{key}.a"), Ref("simulated", f"{key}.b")]
        began = self._tick()
        outcome, cells = await self._tell(lambda app: app.store.read(refs))
        if outcome != "ok":
            return None
        a, b = ["" if cell is None else cell.value.decode() for cell in cells]
        versions = [0 if cell is None else cell.version for cell in cells]
        self.pairs.append((key, a, b))
        for ref, value, version in zip(refs, (a, b), versions, strict=True):
            ended = self._tick()
            self.deeds.append(Deed(ref.key, "read", value, version, 0, began, ended, "ok"))
        return versions

    async def _write(self, key: str, value: str, versions: list[int]) -> None:
        refs = [Ref("simulated", f"{key}.a"), Ref("simulated", f"{key}.b")]
        batch = Batch(
            require=tuple(Require(ref, at) for ref, at in zip(refs, versions, strict=True)),
            put=tuple(Put(ref, value.encode()) for ref in refs),
            storage="relaxed" if key == "z" else "durable",
        )
        began = self._tick()
        outcome, committed = await self._tell(lambda app: app.store.commit(batch))
        made = committed.versions if outcome == "ok" else (0, 0)
        for ref, version, required in zip(refs, made, versions, strict=True):
            ended = self._tick()
            deed = Deed(ref.key, "write", value, version, required, began, ended, outcome)
            self.deeds.append(deed)

    async def _tell(self, work: Callable[[Any], Awaitable[Any]]) -> tuple[Any, Any]:
        """What a client learns of one call: how it came out, and what it gave."""
        try:
            return "ok", await self.cluster.ask(work)
        except (NoAnswer, OutcomeUnknown):
            return "unknown", None
        except OutliveError:
            return "failed", None

    def _tick(self) -> int:
        self.tickets += 1
        return self.tickets

    # --- work that is claimed ---------------------------------------------------------------------

    async def _workers(self, at: int) -> None:
        cluster, number = self.cluster, 0
        while True:
            if not cluster.over:
                number += 1
                await self._want(f"{at}.{number}")
            await self._claim()
            if cluster.over and not await cluster.eye.scan("simulated.work"):
                return
            await cluster.pause(THINK_SECONDS * cluster.stretch)

    async def _want(self, name: str) -> None:
        cell = Ref("simulated.work", name)

        async def put(app: Any) -> None:
            now = await app.store.now()
            batch = Batch(require=(Require(cell, ABSENT),), put=(Put(cell, b"", now),))
            await app.store.commit(batch)

        outcome, _ = await self._tell(put)
        if outcome == "ok":
            self.wanted.add(name)

    async def _claim(self) -> None:
        outcome, cells = await self._tell(
            lambda app: app.store.claim(["simulated.work"], 5, HOLD_SECONDS)
        )
        for cell in cells if outcome == "ok" else ():
            await self.cluster.pause(2 * HOLD_SECONDS / 5)
            done = Batch(
                require=(Require(cell.ref, cell.version),),
                drop=(cell.ref,),
                put=(Put(Ref("simulated.done", cell.key), b"1"),),
            )
            finished, _ = await self._tell(partial(_commit, done))
            if finished == "ok":
                self.world.done.append(cell.key)

    # --- afterwards -------------------------------------------------------------------------------

    async def check(self, facts: Facts) -> list[str]:
        """What is not as it must be, when all has come to rest."""
        store = self.cluster.eye
        rows = await self.cluster.insist(lambda app: app.transact(_rows))
        done = {id for id, found in facts.processes.items() if found.head.status == "done"}
        names = {form.name: form for id, form in self.orders.items() if id in done}
        wanted = {f"{name}/{what}" for name in names for what in WANTED}
        wanted |= {f"{name}/ship" for name, form in names.items() if form.parcel}
        jobs = [cell.key for cell in await store.scan("simulated.work")]
        finished = {cell.key for cell in await store.scan("simulated.done", limit=100_000)}
        told = [name for name in self.world.done if name not in finished]
        return [
            *p2_rows_agree(rows, dict.fromkeys(names, "done")),
            *p2_pairs_agree(self.pairs),
            *p3_cells_are_linearizable(self.deeds),
            *p5_one_effect_per_key(self.world.effects(), wanted),
            *p6_claimed_work_ends_once(
                self.wanted | finished,
                jobs,
                [*self.world.done, *(finished - set(self.world.done))],
            ),
            *(f"P1: {name} was done and is not" for name in told),
            *p13_unknown_is_unknown(self.deeds),
            *await self.tourists.check(facts),
            *self.visitors.check(),
        ]


async def _commit(batch: Batch, app: Any) -> None:
    await app.store.commit(batch)


def _rows(tables: Any) -> list[tuple[str, str]]:
    return list(tables.execute(SQL["read"]))
