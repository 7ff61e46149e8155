"""Published events: every subscriber hears of each once, and what does not arrive is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest
from tests.service import Outside, Place, has_status, until

from outlive import Limit, Outlive, Run, attempt, step
from outlive.stores.memory import MemoryStore
from outlive.testing.killing import KillEverywhere, Outcome
from outlive.testing.trial import Trial

world = Outside()


class Placed(msgspec.Struct):
    order: str
    cents: int = 0


class Paid(msgspec.Struct):
    process: str


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    reset()


def reset() -> None:
    world.__init__()  # type: ignore[misc]


@step
async def note(what: str) -> str:
    return world.do(attempt().key, what)


async def place_order(run: Run, what: str) -> str:
    await run(note, f"place {what}")
    event = await run.publish(Placed(what, 3))
    await run(note, f"placed {what}")
    return event


async def ship(run: Run, placed: Placed) -> str:
    await run(note, f"ship {placed.order}")
    return placed.order


async def bill(run: Run, placed: Placed) -> str:
    await run(note, f"bill {placed.order} {placed.cents}")
    return placed.order


async def dun(run: Run, what: str) -> str:
    paid = await run.wait("paid", within=600)
    await run(note, f"paid {what}")
    return str(paid)


def shop(app: Outlive) -> None:
    app.process("/orders", version=1)(place_order)
    for body in (ship, bill):
        app.on(Placed)(app.process(f"/{body.__name__}", version=1)(body))
    app.process("/dunnings", version=1, signals={"paid": Paid})(dun)
    app.on(Paid, signal="paid", to=lambda event: event.process)(dun)


@pytest.fixture(params=["memory://", "sqlite://"])
def kill(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[KillEverywhere]:
    app = Outlive("memory://")
    shop(app)
    made = KillEverywhere(app, request.param, tmp_path)
    yield made
    made.close()


def test_two_subscribers_hear_once_of_what_is_published(
    kill: KillEverywhere, request: pytest.FixtureRequest
) -> None:
    nested = "memory" in request.node.name

    def check(outcome: Outcome) -> None:
        assert outcome.status == "done" and outcome.result.startswith("evt_")
        assert world.made("ship tea") == world.made("bill tea 3") == 1
        assert sorted(set(world.log)) == ["bill tea 3", "place tea", "placed tea", "ship tea"]

    assert kill(place_order, "tea", check=check, reset=reset, nested=nested)


async def test_an_event_from_outside_signals_the_process_it_names(place: Place) -> None:
    app = await place.open(shop)
    handle = await app.start(dun, "tea")
    await has_status(app, handle.id, "waiting")
    event = await app.publish(Paid(handle.id))
    assert "process" in await handle.result(within=10)
    assert event.startswith("evt_") and await app.undelivered() == []
    (signal,) = [entry for entry in await app.journal(handle.id) if entry.kind == "signal"]
    assert msgspec.json.decode(signal.data)["key"] == f"{event}/dun signal paid"


async def test_an_event_for_an_ended_process_is_kept_and_said(place: Place) -> None:
    app = await place.open(shop)
    handle = await app.start(dun, "tea")
    await app.publish(Paid(handle.id))
    await handle.result(within=10)
    event = await app.publish(Paid(handle.id))
    (kept,) = await until(app.undelivered, "it is kept")
    assert (kept.event, kept.subscriber) == (event, "dun signal paid")
    assert "has ended: done" in kept.why and handle.id in bytes(kept.payload).decode()


async def test_what_is_redacted_is_not_shown_of_an_event_either(place: Place) -> None:
    app = await place.open(shop, redact=("process",))
    event = await app.publish(Paid("dun_nobody"))
    (kept,) = await until(app.undelivered, "it is kept")
    assert kept.event == event and msgspec.json.decode(kept.payload) == {"process": "…"}


@pytest.mark.parametrize("named", ["dun_nobody", ""])
async def test_an_event_that_names_no_process(place: Place, named: str) -> None:
    app = await place.open(shop)
    await app.publish(Paid(named))
    handle = await app.start(dun, "tea")
    await app.publish(Paid(handle.id))
    await handle.result(within=10)
    kept = await app.undelivered()
    assert [found.why for found in kept] == ["there is no dun dun_nobody"] * bool(named)


async def test_a_subscriber_that_names_no_text_keeps_the_event_from_nobody_else(
    place: Place,
) -> None:
    def declare(app: Outlive) -> None:
        app.on(Paid, signal="paid", to=lambda _: 17)(  # type: ignore[arg-type,return-value]
            app.process("/duns", version=1, signals={"paid": None})(dun)
        )
        app.on(Paid)(app.process("/thanks", version=1)(thank))

    async def thank(run: Run, paid: Paid) -> str:
        return paid.process

    app = await place.open(declare)
    await app.publish(Paid("ann"))
    (kept,) = await until(app.undelivered, "it is kept")
    assert "it gave a int" in kept.why
    assert [one.type for one in (await app.processes()).items] == ["thank"]


async def test_a_subscriber_that_finds_no_line_keeps_the_event_from_nobody_else(
    place: Place,
) -> None:
    async def pick(run: Run, paid: Paid) -> None:
        pass

    async def thank(run: Run, paid: Paid) -> None:
        pass

    def declare(app: Outlive) -> None:
        limit = Limit(concurrency=1, per=lambda paid: {"ann": "a"}[paid.process])
        app.on(Paid)(app.process("/picks", version=1, limit=limit)(pick))
        app.on(Paid)(app.process("/thanks", version=1)(thank))

    app = await place.open(declare)
    await app.publish(Paid("bob"))
    (kept,) = await until(app.undelivered, "it is kept")
    assert kept.subscriber == "pick" and "KeyError" in kept.why
    assert [one.type for one in (await app.processes()).items] == ["thank"]


async def test_what_is_published_by_a_client_is_delivered_by_a_node(place: Place) -> None:
    app, client = await place.open(shop), await place.client(shop)
    await client.publish(Placed("tea"))

    async def ended() -> bool:
        found, _ = await app.processes(status="done")
        return {summary.type for summary in found} == {"ship", "bill"}

    await until(ended, "both subscribers are done")
    assert sorted(world.log) == ["bill tea 0", "ship tea"]


async def test_what_was_not_delivered_is_kept_as_long_as_an_ended_process() -> None:
    app = Outlive("memory://")
    shop(app)
    async with Trial(app, lambda clock: MemoryStore(4, clock)) as trial:
        await app.publish(Paid("dun_nobody"))
        await trial.run_until_idle()
        await trial.advance(days=29)
        assert len(await app.undelivered()) == 1
        await trial.advance(days=2)
        assert await app.undelivered() == []


async def test_two_nodes_deliver_each_event_once(place: Place) -> None:
    one, other = await place.open(shop), await place.open(shop)
    runtimes = [app._runtime for app in (one, other)]
    await until(
        lambda: all(runtime and runtime.activations.leases for runtime in runtimes),
        "both nodes have shards",
    )
    for at in range(20):
        await (one if at % 2 else other).publish(Placed(str(at)))

    async def all_done() -> bool:
        found, _ = await one.processes(status="done", limit=200)
        return len(found) >= 40

    await until(all_done, "every subscriber is done")
    assert len(world.log) == len(set(world.log)) == 40


async def test_a_subscriber_that_cannot_read_the_event_does_not_hold_up_the_others(
    place: Place,
) -> None:
    async def strict(run: Run, number: int) -> None: ...

    def declare(app: Outlive) -> None:
        app.on(Placed)(app.process("/strict", version=1)(strict))
        app.on(Paid, signal="paid", to=lambda event: event.nothing)(
            app.process("/dunnings", version=1)(dun)
        )
        shop_ship = app.process("/ship", version=1)(ship)
        app.on(Placed)(shop_ship)

    app = await place.open(declare)
    await app.publish(Placed("tea"))
    await app.publish(Paid("x"))
    await until(lambda: world.made("ship tea"), "the other is started")

    async def both() -> Any:
        found = await app.undelivered()
        return len(found) == 2 and {kept.subscriber: kept.why for kept in found}

    kept = await until(both, "both are kept")
    assert kept["strict"].startswith("The body does not fit")
    assert "AttributeError" in kept["dun signal paid"]


@dataclasses.dataclass
class Told:
    word: str


class Asked(pydantic.BaseModel):
    word: str


@pytest.mark.parametrize("kind", [Told, Asked])
async def test_dataclasses_and_pydantic_models_are_events_too(place: Place, kind: Any) -> None:
    async def hear(run: Run, event: kind) -> str:
        assert type(event) is kind
        return await run(note, f"heard {event.word}")

    hear.__annotations__["event"] = kind

    async def say(run: Run, word: str) -> str:
        return await run.publish(kind(word=word))

    def declare(app: Outlive) -> None:
        app.process("/say", version=1)(say)
        app.on(kind)(app.process("/hear", version=1)(hear))

    app = await place.open(declare)
    await app.start(say, "hello")
    await until(lambda: world.made("heard hello"), "it was heard")
