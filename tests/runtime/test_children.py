"""Children: started once, awaited durably, cancelled before their parent undoes anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.service import Outside, Place, check_grammar, has_status, until

from outlive import ChildFailed, Outlive, Retry, Run, Unknown, attempt, ids, step
from outlive.testing.killing import KillEverywhere, Outcome

world = Outside()


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    reset()


def reset() -> None:
    world.__init__()  # type: ignore[misc]


async def unmake(what: str, made: str | Unknown) -> None:
    world.do("undo " + attempt().key, f"unmake {what}")


@step(undo=unmake, name="children_make")
async def make(what: str) -> str:
    return world.do(attempt().key, f"make {what}")


@step(retry=Retry(attempts=1))
async def refuse(what: str) -> str:
    world.do(attempt().key, f"refuse {what}")
    raise RuntimeError(f"no {what}")


async def ship(run: Run, what: str) -> str:
    await run(make, what)
    await run.sleep(5)
    return f"{what} shipped"


async def pay(run: Run, what: str) -> str:
    await run(make, what)
    return await run(refuse, what)


async def order(run: Run, what: str) -> list[str]:
    found = [await run(make, "order")]
    shipping = await run.start(ship, what)
    paying = await run.start(pay, "money")
    try:
        found.append(await paying)
    except ChildFailed as error:
        found.append(f"{error.outcome} {error.failure_type}")
    found.append(await shipping)
    return found


async def strict_order(run: Run, what: str) -> str:
    await run(make, "order")
    await run.start(ship, what)
    return await run.call(pay, "money")


def shop(store: Any = "memory://") -> Outlive:
    app = Outlive(store)
    for body in (ship, pay, order, strict_order):
        app.process(f"/{body.__name__}", version=1)(body)
    return app


@pytest.fixture(params=["memory://", "sqlite://"])
def kill(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[KillEverywhere]:
    made = KillEverywhere(shop(), request.param, tmp_path)
    yield made
    made.close()


def test_a_parent_with_two_children_survives_every_death(kill: KillEverywhere) -> None:
    def check(outcome: Outcome) -> None:
        assert outcome.result == ["make order", "rolled_back RuntimeError", "tea shipped"]
        assert [child.status for child in outcome.view.children] == ["done", "rolled_back"]
        assert world.made("make tea") == world.made("make money") == 1
        assert world.made("unmake money") == 1 and not world.made("unmake tea")

    assert kill(order, "tea", check=check, reset=reset, nested=False)


def test_a_child_that_fails_takes_its_parent_and_its_sibling_back(kill: KillEverywhere) -> None:
    def check(outcome: Outcome) -> None:
        assert outcome.status == "rolled_back"
        assert {child.status for child in outcome.view.children} == {"cancelled", "rolled_back"}
        for what in ("tea", "money", "order"):
            assert world.made(f"make {what}") == world.made(f"unmake {what}"), what
        assert world.log[-1] == "unmake order"

    assert kill(strict_order, "tea", check=check, reset=reset)


def test_they_survive_on_postgresql_too(postgres: str, tmp_path: Path) -> None:
    made = KillEverywhere(shop(), postgres, tmp_path)

    def check(outcome: Outcome) -> None:
        assert outcome.status == "rolled_back"
        for what in ("tea", "money", "order"):
            assert world.made(f"make {what}") == world.made(f"unmake {what}"), what

    for death in ("2-after", "5-before", "8-after", "11-after"):
        assert made(strict_order, "tea", check=check, reset=reset, only=death)
    made.close()


# --- many, and on several nodes -------------------------------------------------------------------


async def double(run: Run, number: int) -> int:
    if number == 13:
        return len(await run(refuse, "13"))
    return 2 * number


async def double_all(run: Run, count: int) -> int:
    done = await run.all(range(count), double, limit=200)
    assert [missed.item for missed in done.failures] == [13]
    return sum(done.results)


async def double_beside(run: Run, count: int) -> int:
    children = [await run.start(double, at, key=at) for at in range(count) if at != 13]
    return sum(await run.gather(*(lambda _, child=child: child.result() for child in children)))


def many(app: Outlive) -> None:
    for body in (double, double_all, double_beside):
        app.process(f"/{body.__name__}", version=1)(body)


@pytest.mark.parametrize("body", [double_all, double_beside])
async def test_a_thousand_children_of_one_parent(place: Place, body: Any) -> None:
    app = await place.open(many)
    handle = await app.start(body, 1000)
    assert await handle.result(within=60) == 999_000 - 26
    view = await handle.view()
    assert len(view.children) == 1000 - (body is double_beside)


async def test_what_is_near_is_not_taken_up_twice_though_clocks_differ(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.runtime.mail.NEAR_SECONDS", -5.0)  # due at once: the pump sees it
    app = await place.open(many)
    handle = await app.start(double_all, 200)
    assert await handle.result(within=60) == 39_800 - 26
    assert not [child for child in (await handle.view()).children if child.ended is None]


class Pair:
    """Two nodes on one store file, each with shards."""

    def __init__(self, place: Place, declare: Any) -> None:
        self.place, self.declare = place, declare

    async def __aenter__(self) -> tuple[Outlive, Outlive]:
        one, other = [await self.place.open(self.declare) for _ in range(2)]
        await until(lambda: shards_of(one) and shards_of(other), "both nodes have shards")
        return one, other

    async def __aexit__(self, *_: object) -> None:
        pass


def shards_of(app: Outlive) -> set[int]:
    assert app._runtime is not None
    return set(app._runtime.activations.leases)


async def held(run: Run, what: str) -> str:
    await run(make, what)
    await run.wait("go")
    return f"{what} went"


async def holding(run: Run, what: str) -> list[str]:
    await run(make, "parent")
    children = [await run.start(held, f"{what} {at}", key=at) for at in range(8)]
    return [await child for child in children]


def holds(app: Outlive) -> None:
    for body in (held, holding):
        app.process(f"/{body.__name__}", version=1)(body)


async def open_children(app: Outlive, id: str, count: int) -> list[str]:
    async def look() -> Any:
        children = (await app.view(id)).children
        views = [await app.view(child.id) for child in children]
        return len(views) == count and all(view.status == "waiting" for view in views) and views

    views = await until(look, f"{count} children wait")
    return [view.id for view in views]


async def test_children_live_on_other_nodes_than_their_parent(place: Place) -> None:
    async with Pair(place, holds) as (one, other):
        handle = await one.start(holding, "x")
        children = await open_children(one, handle.id, 8)
        nodes = {(await one.view(child)).node for child in children}
        assert len(nodes) == 2, "they are spread over the nodes"
        parent = await has_status(other, handle.id, "waiting")
        assert parent.waits_for in children
        for child in children:
            view = await other.view(child)
            assert view.parent == handle.id
            await other.signal(child, "go", b"")
        assert await handle.result(within=20) == [f"x {at} went" for at in range(8)]


async def test_parent_and_children_on_two_nodes_of_postgresql(postgres: str) -> None:
    address = f"{postgres}?schema=store_{ids.token(40)}"
    one, other = Outlive(address), Outlive(address)
    for app in (one, other):
        holds(app)
    async with one, other:
        await until(lambda: shards_of(one) and shards_of(other), "both nodes have shards")
        ended, cancelled = [await app.start(holding, "x") for app in (one, other)]
        children = await open_children(one, ended.id, 8)
        assert len({(await one.view(child)).node for child in children}) == 2
        for child in children:
            await other.signal(child, "go", b"")
        assert await ended.result(within=30) == [f"x {at} went" for at in range(8)]
        await open_children(one, cancelled.id, 8)
        await one.cancel(cancelled.id)
        view = await has_status(one, cancelled.id, "cancelled")
        assert {child.status for child in view.children} == {"cancelled"}
        assert world.log[-1] == "unmake parent"


async def test_a_cancel_reaches_children_on_other_nodes_first(place: Place) -> None:
    async with Pair(place, holds) as (one, other):
        handle = await one.start(holding, "x")
        children = await open_children(one, handle.id, 8)
        await other.cancel(handle.id, reason="enough")
        view = await has_status(one, handle.id, "cancelled")
        assert {child.status for child in view.children} == {"cancelled"}
        assert world.log[-1] == "unmake parent" and len(children) == 8
        assert sum(what.startswith("unmake x") for what in world.log) == 8


async def test_a_parent_that_waits_for_a_child_leaves_memory_and_comes_back(place: Place) -> None:
    app = await place.open(holds)
    handle = await app.start(holding, "x")
    children = await open_children(app, handle.id, 8)
    await until(lambda: app.stats().active == 0, "all have left memory")
    view = await handle.view()
    assert view.status == "waiting" and view.waits_for == children[0]
    app = await place.again(app, holds)
    for child in reversed(children):
        await app.signal(child, "go", b"")
    assert await app.result(handle.id, within=20) == [f"x {at} went" for at in range(8)]
    check_grammar(await app.journal(handle.id))
