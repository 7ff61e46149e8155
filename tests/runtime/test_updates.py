"""An update is accepted once, answered once, and its answer is the same for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from tests.service import Outside, Place, crash, has_status, until

from outlive import Outlive, Run, Update, WaitTimeout, attempt, ids, step
from outlive.errors import (
    InvalidInput,
    KeyReused,
    NoSuchUpdate,
    ProcessTerminal,
    TooLarge,
    TooManySignals,
    UpdateNotExpected,
    UpdateRefused,
    UpdateUnanswered,
)
from outlive.testing.killing import KillEverywhere
from outlive.testing.trial import Trial

world = Outside()


class Address(Struct):
    street: str


class Receipt(Struct):
    number: int
    street: str


def somewhere(address: Address) -> None:
    if not address.street:
        raise ValueError("a street is needed")


move = Update("move", Address, Receipt, check=somewhere)


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    global world
    world = outside


@step
async def book(address: Address) -> str:
    return world.do(attempt().key, address.street)


def orders(app: Outlive) -> Any:
    @app.process("/orders", version=1, updates=[move], signals={"send": None})
    async def order(run: Run, moves: int) -> int:
        for number in range(moves):
            asked = await run.wait_update(move)
            if asked.value.street == "nowhere":
                await asked.refuse("we do not ship there")
                continue
            await asked.answer(Receipt(number, await run(book, asked.value)))
        await run.wait("send")
        return moves

    return order


async def test_an_update_is_answered_by_the_body(place: Place) -> None:
    app = await place.open(orders)
    order = app.handle((await app.begin("order", b"3")).id)
    assert await order.update(move, Address("a"), within=20) == Receipt(0, "a")
    with pytest.raises(UpdateRefused, match="we do not ship there"):
        await order.update(move, Address("nowhere"), within=20)
    assert await order.update("move", {"street": "b"}, within=20) == {"number": 2, "street": "b"}
    await order.signal("send")
    assert await order.result(within=20) == 3


async def test_the_same_key_has_the_same_answer_also_after_a_crash_and_after_the_end(
    place: Place,
) -> None:
    app = await place.open(orders)
    order = app.handle((await app.begin("order", b"1")).id)
    first = await order.update(move, Address("a"), key="k", within=20)
    app = await place.again(app, orders)
    order = app.handle(order.id)
    assert await order.update(move, Address("a"), key="k", within=20) == first
    with pytest.raises(KeyReused):
        await order.update(move, Address("b"), key="k", within=20)
    await order.signal("send")
    await order.result(within=20)
    assert await order.update(move, Address("a"), key="k", within=20) == first
    with pytest.raises(ProcessTerminal):
        await order.update(move, Address("a"), key="other", within=20)
    assert world.calls["a"] == 1
    kinds = [entry.kind for entry in await app.journal(order.id)]
    assert kinds.count("asked") == kinds.count("answered") == 1


@pytest.mark.parametrize(
    ("name", "payload", "error"),
    [
        ("move", b'{"street":""}', InvalidInput),
        ("move", b'{"street":1}', InvalidInput),
        ("move", b"null", InvalidInput),
        ("move", b'"' + b"x" * 70_000 + b'"', TooLarge),
        ("nope", b"{}", UpdateNotExpected),
    ],
)
async def test_what_does_not_fit_is_refused_and_not_kept(
    place: Place, name: str, payload: bytes, error: type[Exception]
) -> None:
    app = await place.open(orders)
    id = (await app.begin("order", b"1")).id
    await has_status(app, id, "waiting")
    before = await app.seq(id)
    with pytest.raises(error):
        await app.ask(id, name, payload, key="k")
    assert await app.seq(id) == before
    with pytest.raises(NoSuchUpdate):
        await app.standing(id, "move", "k")


async def test_early_ones_are_kept_in_order_and_bounded(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.runtime.deliveries.UPDATES_WAITING_MAX", 3)

    def busy(app: Outlive) -> None:
        @app.process("/orders", version=1, updates=[move])
        async def order(run: Run) -> list[str]:
            await run.wait("begin")
            found = []
            for _ in range(3):
                asked = await run.wait_update(move)
                found.append(asked.value.street)
                await asked.answer(Receipt(0, asked.value.street))
            return found

    app = await place.open(busy)
    order = app.handle((await app.begin("order", b"null")).id)
    for street in "abc":
        await app.ask(order.id, "move", b'{"street":"%s"}' % street.encode(), key=street)
    await app.ask(order.id, "move", b'{"street":"a"}', key="a")
    with pytest.raises(TooManySignals):
        await app.ask(order.id, "move", b'{"street":"d"}', key="d")
    assert (await app.standing(order.id, "move", "b")).status == "accepted"
    await order.signal("begin")
    assert await order.result(within=20) == ["a", "b", "c"]
    assert (await app.standing(order.id, "move", "b")).status == "answered"


async def test_who_asks_a_process_that_ends_without_answering_is_told(place: Place) -> None:
    def deaf(app: Outlive) -> None:
        @app.process("/orders", version=1, updates=[move])
        async def order(run: Run) -> None:
            await run.wait("end")

    app = await place.open(deaf)
    order = app.handle((await app.begin("order", b"null")).id)
    with pytest.raises(TimeoutError):
        await order.update(move, Address("a"), key="k", within=0.01)
    waits = asyncio.ensure_future(order.update(move, Address("a"), key="k", within=20))
    await order.signal("end")
    with pytest.raises(UpdateUnanswered):
        await waits


async def test_a_wait_for_an_update_has_its_time_and_no_signal_has_its_name(
    place: Place,
) -> None:
    def short(app: Outlive) -> None:
        @app.process("/orders", version=1, updates=[move])
        async def order(run: Run) -> str:
            try:
                await run.wait_update(move, within=0.05)
            except WaitTimeout as error:
                return error.detail
            return "asked"

    app = await place.open(short)
    order = app.handle((await app.begin("order", b"null")).id)
    with pytest.raises(Exception, match="no name of a signal"):
        await order.signal("update move", {"street": "a"})
    assert await order.result(within=20) == "No update move came within 0.05 s."


async def test_it_is_asked_on_one_node_and_answered_on_another(place: Place) -> None:
    app = await place.open(orders)
    other = await place.client(orders)
    order = other.handle((await app.begin("order", b"2")).id)
    asked = asyncio.gather(*(order.update(move, Address("a"), key="k", within=20) for _ in "ab"))
    assert await asked == [Receipt(0, "a")] * 2
    with pytest.raises(KeyReused):
        await order.update(move, Address("c"), key="k", within=20)
    await crash(app)
    waits = asyncio.ensure_future(order.update(move, Address("b"), key="é/1", within=20))

    async def kept() -> bool:
        try:
            return (await other.standing(order.id, "move", "é/1")).status == "accepted"
        except NoSuchUpdate:
            return False

    await until(kept)
    app = await place.open(orders)
    assert await waits == Receipt(1, "b")
    await order.signal("send")
    assert await order.result(within=20) == 2


async def test_it_is_the_same_on_postgres(postgres: str) -> None:
    address = f"{postgres}?schema=updates_{ids.token(40)}"
    app, other = Outlive(address), Outlive(address)
    orders(app)
    orders(other)
    async with app:
        order = app.handle((await app.begin("order", b"1")).id)
        assert await order.update(move, Address("a"), key="k", within=20) == Receipt(0, "a")
        await other.open_client()
        elsewhere = other.handle(order.id)
        assert await elsewhere.update(move, Address("a"), key="k", within=20) == Receipt(0, "a")
        await other.close()


def test_it_survives_every_death(tmp_path: Path) -> None:
    app = Outlive("sqlite:///never/opened.db")
    order = orders(app)

    async def client(outlive: Any, handle: Any) -> None:
        if (await handle.view()).final:
            return
        assert await handle.update(move, Address("a")) == Receipt(0, "a")
        with pytest.raises(UpdateRefused):
            await handle.update(move, Address("nowhere"))
        await handle.signal("send")

    def check(outcome: Any) -> None:
        assert outcome.status == "done" and outcome.result == 2
        kinds = [entry.kind for entry in outcome.journal]
        assert kinds.count("asked") == kinds.count("answered") == 2
        assert world.made("a") == 1

    def reset() -> None:
        global world
        world = Outside()

    killer = KillEverywhere(app, "sqlite://", tmp_path)
    where = killer(order, 2, client=client, check=check, reset=reset)
    assert len(where) > 15
    killer.close()


async def test_a_replay_gives_the_recorded_answer(tmp_path: Path) -> None:
    from outlive.testing.places import Place as Somewhere

    app = Outlive("sqlite:///never/opened.db")
    order = orders(app)
    async with Trial(app, Somewhere("memory://", tmp_path).store, always_replay=True) as trial:
        handle = await trial.start(order, 2)
        assert await handle.update(move, Address("a")) == Receipt(0, "a")
        with pytest.raises(UpdateRefused):
            await handle.update(move, Address("nowhere"))
        await handle.signal("send")
        assert await handle.result() == 2


async def test_a_plain_body_and_a_plain_client_have_them_too(place: Place) -> None:
    def plain(app: Outlive) -> None:
        @app.process("/orders", version=1, updates=[move])
        def order(run: Any) -> str:
            asked = run.wait_update(move)
            asked.answer(Receipt(1, asked.value.street))
            run.wait_update(move).refuse(LookupError("closed"))
            return str(asked.value.street)

    app = await place.open(plain)
    client = app.blocking()
    id = (await app.begin("order", b"null")).id

    def use() -> str:
        order = client.handle(id)
        assert order.update(move, Address("a"), within=20) == Receipt(1, "a")
        with pytest.raises(UpdateRefused, match="closed"):
            order.update(move, Address("a"), within=20)
        return str(order.result(within=20))

    assert await asyncio.to_thread(use) == "a"
