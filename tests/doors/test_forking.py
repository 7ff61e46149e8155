"""A process goes on from a part of another: nothing is run again, and both know of each other."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from msgspec import Struct
from tests.service import Outside, Place, check_grammar, has_status, until
from tests.testing.conftest import Shop

from outlive import NonRetryable, Outlive, Run, Unknown, Update, attempt, step
from outlive.errors import (
    InvalidInput,
    KeyReused,
    NoSuchProcess,
    NoSuchStep,
    NotForkable,
    PastPivot,
    RollingBack,
    TooLargeToFork,
)
from outlive.model import Batch
from outlive.stores.memory import MemoryStore
from outlive.testing.oracles import facts_of, p7_journal_grammar
from outlive.testing.trial import Trial

world = Outside()
keys: dict[str, list[str]] = {}
broken = True


@pytest.fixture(autouse=True)
def fresh() -> None:
    global world, broken
    world, broken = Outside(), True
    keys.clear()


async def unreserve(what: str, made: str | Unknown) -> None:
    keys.setdefault("unreserve", []).append(attempt().undoes)
    world.do(attempt().key, f"unreserve {what}")


@step(undo=unreserve)
def reserve(what: str) -> str:
    keys.setdefault("reserve", []).append(attempt().key)
    return world.do(attempt().key, f"reserve {what}")


@step
def ship(what: str) -> str:
    keys.setdefault("ship", []).append(attempt().key)
    if broken:
        raise NonRetryable("no such address")
    return world.do(attempt().key, f"ship {what}")


async def order(run: Run, what: str) -> str:
    number = run.uuid()
    began = run.now()
    await run(reserve, what)
    seen = run.now()
    colour = await run.wait("colour", within=86_400)
    run.state = f"{number} {began} {seen}"
    await run(ship, what)
    await run.wait("received", within=86_400)
    return f"{what} in {colour}"


@pytest.fixture
def orders(shop: Shop) -> Any:
    return shop.app.process("/orders", version=1)(order)


async def stuck_order(trial: Trial, orders: Any) -> Any:
    """One that was rolled forward to a step which fails, past its pivot or not."""
    handle = await trial.start(orders, "tea")
    await trial.run_until_idle()
    await handle.signal("colour", "green")
    await trial.run_until_idle()
    return handle


async def ended_order(trial: Trial, orders: Any) -> Any:
    global broken
    broken = False
    handle = await stuck_order(trial, orders)
    await handle.signal("received")
    assert await handle.result() == "tea in green"
    return handle


async def sound(trial: Trial) -> None:
    assert not p7_journal_grammar(await facts_of(trial.app.store))


async def test_what_stands_before_the_step_is_not_done_again_and_the_rest_has_new_keys(
    trial: Trial, orders: Any
) -> None:
    old = await ended_order(trial, orders)
    before = await trial.app.seq(old.id)
    new = await trial.app.fork(old.id, "ship", input="coffee", who="ann", why="wrong address")
    new = trial.handle(new.id)
    await trial.run_until_idle()
    await new.signal("received")
    assert await new.result() == "coffee in green", "the signal before it was taken over"
    assert world.calls == {"reserve tea": 1, "ship tea": 1, "ship coffee": 1}
    assert len(set(keys["ship"])) == 2
    was, view = await old.view(), await new.view()
    assert (was.status, was.forks, await trial.app.seq(old.id)) == ("done", (new.id,), before)
    assert view.forked_from == old.id
    assert f"goes on from {old.id} at ship by ann: wrong address" in [
        past.why for past in view.history
    ]
    assert bytes(view.data) == bytes(was.data), "chance and time came out as before"
    check_grammar(await trial.app.journal(new.id))
    await sound(trial)


async def test_a_fork_is_replayed_like_any_other(trial: Trial, orders: Any) -> None:
    old = await ended_order(trial, orders)
    new = trial.handle((await trial.app.fork(old.id, "ship")).id)
    await trial.run_until_idle()
    for _ in range(2):
        await trial.evict(new)
    await new.signal("received")
    assert await new.result() == "tea in green"
    again = trial.handle((await trial.app.fork(new.id, "wait received")).id)
    await trial.run_until_idle()
    await again.signal("received")
    assert await again.result() == "tea in green"
    assert world.calls == {"reserve tea": 1, "ship tea": 2}
    assert (await trial.app.view(again.id)).forked_from == new.id
    await sound(trial)


async def test_at_the_first_step_everything_is_done_anew(trial: Trial, orders: Any) -> None:
    old = await ended_order(trial, orders)
    new = trial.handle((await trial.app.fork(old.id, "reserve")).id)
    await trial.run_until_idle()
    assert (await new.view()).waits_for == "colour", "later signals are not taken over"
    await new.signal("colour", "red")
    await trial.run_until_idle()
    await new.signal("received")
    assert await new.result() == "tea in red"
    assert world.calls["reserve tea"] == 2


async def test_an_open_process_is_cancelled_in_the_same_call_and_keeps_nothing_to_undo(
    trial: Trial, orders: Any
) -> None:
    global broken
    broken = False
    old = await stuck_order(trial, orders)
    with pytest.raises(NotForkable):
        await trial.app.fork(old.id, "ship")
    fork = await trial.app.fork(old.id, "ship", cancel=True, who="ann")
    new = trial.handle(fork.id)
    await trial.run_until_idle()
    was = await old.view()
    assert (was.status, was.forks) == ("cancelled", (new.id,))
    assert world.calls == {"reserve tea": 1, "ship tea": 2}, "nothing was undone"
    await trial.app.cancel(new.id)
    await trial.run_until_idle()
    assert await new.status() == "cancelled"
    assert world.calls["unreserve tea"] == 1, "the new one undoes what it took over"
    assert keys["unreserve"] == keys["reserve"], "under the key it was done with"
    with pytest.raises(NotForkable):
        await trial.app.fork(old.id, "ship")
    await sound(trial)


async def test_what_was_taken_over_from_one_that_is_done_is_never_undone(
    trial: Trial, orders: Any
) -> None:
    old = await ended_order(trial, orders)
    new = trial.handle((await trial.app.fork(old.id, "ship")).id)
    await trial.run_until_idle()
    await trial.app.cancel(new.id)
    await trial.run_until_idle()
    assert await new.status() == "cancelled"
    assert "unreserve tea" not in world.calls


async def test_a_process_that_was_rolled_back_is_forked_only_before_what_was_undone(
    trial: Trial, orders: Any
) -> None:
    old = await stuck_order(trial, orders)
    assert await old.status() == "rolled_back"
    with pytest.raises(NotForkable, match="was undone"):
        await trial.app.fork(old.id, "ship")
    new = await trial.app.fork(old.id, "reserve")
    assert (await trial.app.view(new.id)).forked_from == old.id


async def test_what_cannot_be_forked_is_refused_and_nothing_is_started(
    trial: Trial, shop: Shop, orders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @shop.process
    async def pivoted(run: Run) -> None:
        run.pivot()
        await run.wait("go")

    async def never(made: Any) -> None:
        raise ConnectionError("no")

    one = shop.doing("one", undo=never)

    @shop.process
    async def rolling(run: Run) -> None:
        await run(one)
        raise ValueError("no")

    past, back = await trial.start(pivoted), await trial.start(rolling)
    old = await ended_order(trial, orders)
    with pytest.raises(PastPivot):
        await trial.app.fork(past.id, "wait go", cancel=True)
    with pytest.raises(RollingBack):
        await trial.app.fork(back.id, "one", cancel=True)
    with pytest.raises(NoSuchStep):
        await trial.app.fork(old.id, "nothing")
    with pytest.raises(InvalidInput):
        await trial.app.fork(old.id, "ship", input=7)
    with pytest.raises(NotForkable, match="Version 9"):
        await trial.app.fork(old.id, "ship", version=9)
    with pytest.raises(NoSuchProcess):
        await trial.app.fork("order_nobody", "ship")
    monkeypatch.setattr("outlive.kinds.processes.forking.EVENTS_MAX", 2)
    with pytest.raises(TooLargeToFork):
        await trial.app.fork(old.id, "ship")
    assert len((await trial.app.processes())[0]) == 3


async def test_a_fork_repeated_with_its_key_is_one(trial: Trial, orders: Any) -> None:
    old = await ended_order(trial, orders)
    found = {(await trial.app.fork(old.id, "ship", key="k")).id for _ in range(3)}
    assert len(found) == 1
    with pytest.raises(KeyReused):
        await trial.app.fork(old.id, "ship", input="coffee", key="k")
    assert (await old.view()).forks == tuple(found)


async def test_a_fork_runs_under_a_newer_version(trial: Trial, shop: Shop, orders: Any) -> None:
    old = await ended_order(trial, orders)

    @shop.app.process("/orders", version=2, name="order")
    async def newer(run: Run, what: str) -> str:
        await run(reserve, what)
        return "v2 " + await run.wait("colour")

    new = trial.handle((await trial.app.fork(old.id, "ship", version=2)).id)
    assert await new.result() == "v2 green"
    assert (await new.view()).version == 2


async def test_branches_and_signals_keep_their_places(trial: Trial, shop: Shop) -> None:
    one, two, three = (shop.doing(name) for name in ("one", "two", "three"))

    async def left(run: Run) -> Any:
        await run(one)
        return await run.wait("a")

    async def right(run: Run) -> Any:
        await run.sleep(5)
        return await run(two)

    @shop.process
    async def body(run: Run) -> Any:
        await run.wait("b")
        got = await run.gather(left, right)
        return [*got, await run(three)]

    old = await trial.start(body)
    await trial.run_until_idle()
    await old.signal("a", 1)
    await old.signal("b", 2)
    assert await old.result() == [1, "two", "three"]
    new = trial.handle((await trial.app.fork(old.id, "three")).id)
    assert await new.result() == [1, "two", "three"]
    assert shop.world.calls == {"one": 1, "two": 1, "three": 2}
    again = trial.handle((await trial.app.fork(old.id, "right/two")).id)
    assert await again.result() == [1, "two", "three"]
    assert shop.world.calls == {"one": 1, "two": 2, "three": 3}
    await sound(trial)


# --- two nodes ------------------------------------------------------------------------------------


@pytest.fixture
async def place(tmp_path: Any) -> Any:
    made = Place(tmp_path)
    yield made
    await made.close()


def declare(app: Outlive) -> None:
    app.process("/orders", version=1)(order)


async def test_the_owner_forks_what_is_asked_of_a_client(place: Place) -> None:
    global broken
    broken = False
    app, client = await place.open(declare), await place.client(declare)
    old = await app.start(order, "tea")
    await has_status(app, old.id, "waiting")
    new = await client.fork(old.id, "wait colour", cancel=True, key="k")
    assert (await client.fork(old.id, "wait colour", cancel=True, key="k")).id == new.id
    await has_status(app, old.id, "cancelled")
    await client.signal(new.id, "colour", b'"blue"')
    await client.signal(new.id, "received", b"")
    assert await client.result(new.id, within=10) == "tea in blue"
    assert world.calls == {"reserve tea": 1, "ship tea": 1}


# --- replayed after every record ------------------------------------------------------------------


async def test_a_body_that_is_replayed_after_each_record_is_paused_skipped_and_forked(
    shop: Shop, orders: Any
) -> None:
    global broken
    broken = False
    trial = Trial(shop.app, lambda clock: MemoryStore(clock=clock), always_replay=True)
    async with trial:
        old = await stuck_order(trial, orders)
        await trial.app.pause(old.id)
        await old.signal("received")
        await trial.app.resume(old.id)
        assert await old.result() == "tea in green"
        new = trial.handle((await trial.app.fork(old.id, "ship")).id)
        await trial.run_until_idle()
        await trial.app.pause(new.id)
        await trial.app.resume(new.id)
        await new.signal("received")
        assert await new.result() == "tea in green"
        assert world.calls == {"reserve tea": 1, "ship tea": 2}
        await sound(trial)


class Packed(Struct):
    what: str


change = Update("change", str, str)


async def test_children_events_updates_and_callbacks_before_the_step_are_not_done_again(
    place: Place,
) -> None:
    async def parcel(run: Run, what: str) -> str:
        return await run(reserve, what)

    async def slow(run: Run, what: str) -> None:
        await run.wait("never")

    async def loses(run: Run) -> None:
        await run.call(slow, "parcel")

    async def wins(run: Run) -> None:
        await run.sleep(0.01)

    async def body(run: Run) -> str:
        number = await run.call(parcel, "tea")
        await run.first(loses, wins)
        await run.publish(Packed("tea"))
        asked = await run.wait_update(change)
        await asked.answer(f"now {asked.value}")
        called = await run.callback("paid")
        world.log.append(called.token)
        paid = await called
        await run(ship, "tea")
        return f"{number} {asked.value} {paid} {run.now()}"

    def declare(app: Outlive) -> None:
        app.process("/parcels", version=1)(parcel)
        app.process("/slow", version=1)(slow)
        app.process("/orders", version=1, name="order", updates=[change])(body)

    global broken
    broken = False
    app = await place.open(declare)
    old = await app.begin("order", b"null")
    answer = await app.update(old.id, "change", b'"green"', key="k")
    assert bytes(answer) == b'"now green"'
    await until(lambda: len(world.log) == 2)
    await app.call_back(world.log[1], b'"yes"')
    await app.result(old.id, within=60)
    new = await app.fork(old.id, "ship")
    assert (await app.result(new.id, within=60)).startswith("reserve tea green yes ")
    assert len(keys["reserve"]) == 1 and len(keys["ship"]) == 2
    kinds = Counter(line.kind for line in await app.journal(new.id))
    assert (kinds["child"], kinds["child_ended"], kinds["published"]) == (2, 2, 1)
    assert (kinds["asked"], kinds["answered"], kinds["called_back"]) == (1, 1, 1)
    assert not p7_journal_grammar(await facts_of(app.store))


async def test_what_was_to_be_forked_and_is_in_another_era_by_then_is_left_as_it_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(run: Run, what: str) -> None:
        await run(reserve, f"{what} {run.era}")
        await run.wait("next")
        if run.era == 1:
            await run.again(what)
        raise ValueError("no")

    app = await place.open(lambda app: app.process("/endless", version=1)(endless))
    old = await app.begin("endless", b'"tea"')
    await has_status(app, old.id, "waiting")
    tell = app._tell

    async def late(command: Any) -> None:
        monkeypatch.setattr(app, "_tell", tell)
        await app.signal(old.id, "next", b"null")
        await until(lambda: len(keys["reserve"]) == 2)
        await tell(command)

    monkeypatch.setattr(app, "_tell", late)
    with pytest.raises(NotForkable, match="another era"):
        await app.fork(old.id, "wait next", cancel=True)
    await app.cancel(old.id)
    await has_status(app, old.id, "cancelled")
    assert world.calls["unreserve tea 2"] == 1


async def test_a_fork_that_begins_after_the_retention_of_the_old_one_has_failed(
    trial: Trial, orders: Any
) -> None:
    old = await ended_order(trial, orders)
    stream = (await trial.app._head(old.id)).stream
    new = trial.handle((await trial.app.fork(old.id, "ship")).id)
    await trial.app.store.erase([stream], Batch())
    await trial.run_until_idle()
    view = await new.view()
    assert view.status == "failed"
    assert view.failure is not None and "not kept any more" in view.failure.message
