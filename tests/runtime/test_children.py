"""Children: started once, awaited durably, cancelled before their parent undoes anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.service import Outside

from outlive import ChildFailed, Outlive, Retry, Run, Unknown, attempt, step
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
