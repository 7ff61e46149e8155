"""A process killed at every commit: sound ones end as ever, and each planted bug is named."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.testing.conftest import Shop

from outlive import NonRetryable, Retry, Run, attempt, step
from outlive.runtime import attempts
from outlive.testing.killing import KillEverywhere, Outcome, UnreachedDeaths, _tell_of


@pytest.fixture(params=["memory://", "sqlite://"])
def kill(shop: Shop, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[KillEverywhere]:
    made = KillEverywhere(shop.app, request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def in_memory(shop: Shop, tmp_path: Path) -> Iterator[KillEverywhere]:
    made = KillEverywhere(shop.app, "memory://", tmp_path)
    yield made
    made.close()


def sign_up(shop: Shop) -> Any:
    async def close(name: str, made: Any) -> None:
        shop.world.do("undo " + attempt().key, f"close {name}")

    @step(undo=close)
    async def open_account(name: str) -> str:
        await asyncio.sleep(0)
        return shop.world.do(attempt().key, f"open {name}")

    @step(retry=Retry(attempts=3, base_seconds=5))
    def mail(name: str) -> str:
        shop.world.do(attempt().key, f"mail {name}")
        if attempt().number == 1:
            raise ConnectionError("the answer was lost")
        return "sent"

    def note(tables: Any, name: str) -> str:
        if hasattr(tables, "execute"):
            tables.execute("CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY)")
            tables.execute("INSERT INTO names VALUES (?)", (name,))
        else:
            assert name not in tables
            tables[name] = True
        return name

    @shop.process
    async def register(run: Run, name: str) -> str:
        await run(open_account, name)
        await run(mail, name)
        await run.transact(note, name)
        word = await run.wait("confirmed", within=86_400)
        await run.sleep(3600)
        if word == "fail":
            raise NonRetryable("refused")
        return f"{name} {word}"

    return register


def client(word: str) -> Any:
    async def confirm(outlive: Any, handle: Any) -> None:
        await outlive.run_until_idle()
        await handle.signal("confirmed", word)

    return confirm


@pytest.mark.parametrize(("word", "status"), [("yes", "done"), ("fail", "rolled_back")])
def test_a_sound_process_ends_as_ever_wherever_it_is_killed(
    shop: Shop, kill: KillEverywhere, word: str, status: str
) -> None:
    seen: list[str] = []

    def check(outcome: Outcome) -> None:
        seen.append(outcome.deaths)
        assert outcome.status == status
        assert outcome.result == ("ada yes" if word == "yes" else None)
        assert shop.world.made("open ada") == 1 and shop.world.made("mail ada") == 1
        assert shop.world.made("close ada") == (word == "fail")

    register = sign_up(shop)
    where = kill(register, "ada", client=client(word), check=check, reset=shop.reset)
    assert seen == ["", *where]
    assert len(where) >= 16 and where[:3] == ["1-before", "1-after", "2-before"]
    assert shop.app.phase == "new"


def test_it_is_killed_again_in_its_recovery(shop: Shop, in_memory: KillEverywhere) -> None:
    def check(outcome: Outcome) -> None:
        assert outcome.result == "ada yes"
        assert shop.world.made("open ada") == 1

    where = in_memory(
        sign_up(shop), "ada", client=client("yes"), check=check, nested=True,
        reset=shop.reset,
    )  # fmt: skip
    nested = [death for death in where if "/" in death]
    assert len(nested) > 150 and "3-after/2-before" in nested


def test_a_dead_life_runs_no_further_line(shop: Shop, in_memory: KillEverywhere) -> None:
    """Not even a `finally`: what a killed process cannot do is not done here either."""
    cleaned: list[str] = []

    @step
    async def careful() -> str:
        try:
            await asyncio.sleep(0)
            return "done"
        finally:
            cleaned.append("step")

    @shop.process
    async def order(run: Run) -> str:
        try:
            return await run(careful)
        finally:
            cleaned.append("body")

    counts: list[tuple[str, list[str]]] = []
    in_memory(
        order, reset=cleaned.clear, check=lambda found: counts.append((found.deaths, [*cleaned]))
    )
    by_death = dict(counts)
    assert by_death[""] == ["step", "body"]
    assert by_death["2-before"] == ["step", "step", "body"], "the body of the dead ran no finally"
    assert by_death["2-after"] == ["step", "body"]


def test_synchronous_bodies_and_steps_are_killed_too_and_leave_no_thread(
    shop: Shop, kill: KillEverywhere
) -> None:
    @shop.process
    def plain(run: Any) -> list[str]:
        first = run(shop.doing("one"))
        run.sleep(60)
        return [first, run(shop.doing("two"))]

    def check(outcome: Outcome) -> None:
        assert outcome.result == ["one", "two"]
        assert shop.world.made("one") == 1 and shop.world.made("two") == 1

    where = kill(plain, check=check, reset=shop.reset)
    assert len(where) >= 8
    for thread in threading.enumerate():
        if thread.name.startswith("outlive-body"):
            thread.join(60)
            assert not thread.is_alive()


async def test_in_an_asynchronous_test_it_is_awaited(
    shop: Shop, in_memory: KillEverywhere, tmp_path: Path
) -> None:
    @shop.process
    async def order(run: Run) -> str:
        return str(await run(shop.doing("one")))

    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    assert await in_memory(order) == [
        "1-before", "1-after", "2-before", "2-after", "3-before", "3-after",
    ]  # fmt: skip
    assert loop.get_task_factory() is before
    forgotten = KillEverywhere(shop.app, "memory://", tmp_path)
    forgotten(order)
    with pytest.raises(AssertionError, match="await kill_everywhere"):
        forgotten.close()


# --- planted bugs ---------------------------------------------------------------------------------


def test_an_effect_that_is_not_deduplicated_is_found_and_named(
    shop: Shop, in_memory: KillEverywhere
) -> None:
    charged: list[str] = []

    @step
    async def charge(what: str) -> str:
        charged.append(what)  # without a key
        return what

    @shop.process
    async def order(run: Run) -> str:
        return await run(charge, "tea")

    def check(outcome: Outcome) -> None:
        assert charged == ["tea"], "charged once"

    with pytest.raises(AssertionError, match="charged once") as failed:
        in_memory(order, check=check, reset=charged.clear)
    assert failed.value.__notes__ == [
        "killed before commit 2: charge done at attempt 1",
        'repeat only this one: kill_everywhere(..., only="2-before")',
    ]
    with pytest.raises(AssertionError, match="charged once"):
        in_memory(order, check=check, reset=charged.clear, only="2-before")
    assert in_memory(order, check=check, reset=charged.clear, only="2-after") == ["2-after"]


def test_a_body_that_is_not_deterministic_is_found(shop: Shop, in_memory: KillEverywhere) -> None:
    runs: list[int] = []

    @step
    async def take(number: int) -> int:
        return number

    @shop.process
    async def order(run: Run) -> int:
        runs.append(1)
        await run(take, len(runs))
        return await run(take, 0)

    with pytest.raises(AssertionError, match="it is paused; undisturbed it is done"):
        in_memory(order, reset=runs.clear)


def test_a_runtime_that_runs_a_recorded_step_again_is_found(
    shop: Shop, in_memory: KillEverywhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    @shop.process
    async def order(run: Run) -> str:
        await run(shop.doing("one"))
        return str(await run(shop.doing("two")))

    async def forgetful(self: Any, spec: Any, id: str, hashed: str, args: Any, kwargs: Any) -> Any:
        if (done := await self._recorded(id, hashed)) is not None:
            await attempts.call(self._activation, spec, args, kwargs)
            attempts.steps.set_attempt(
                attempts.steps.Attempt(self._activation.head.stream, id, 1, self.id)
            )
            return self._replay(done, spec.shapes()[1])
        return await attempts.perform(
            self._activation, self._course, spec, id, self._ask(id), hashed, args, kwargs
        )

    monkeypatch.setattr(Run, "_again", forgetful)
    with pytest.raises(AssertionError, match="step one was recorded and has run again"):
        in_memory(order)


def test_deaths_that_are_never_reached_are_told_of(shop: Shop, in_memory: KillEverywhere) -> None:
    known: list[str] = []

    @shop.process
    async def order(run: Run) -> None:
        await run(shop.doing("one"))
        if not known:
            known.append("the outside is not new")
            await run(shop.doing("two"))

    with pytest.warns(UnreachedDeaths, match="2 of 8 deaths were never reached.*4-before"):
        where = in_memory(order)
    assert "3-after" in where and "4-after" not in where
    assert len(in_memory(order, reset=known.clear)) == 8
    with pytest.raises(AssertionError, match="1 of 1 deaths were never reached"):
        _tell_of(["1-before"], [])


def test_a_process_that_fails_undisturbed_says_so(shop: Shop, in_memory: KillEverywhere) -> None:
    @shop.process
    async def order(run: Run) -> None:
        raise ValueError("no")

    def check(outcome: Outcome) -> None:
        assert outcome.status == "done"

    with pytest.raises(AssertionError) as failed:
        in_memory(order, check=check)
    assert failed.value.__notes__ == ["not killed at all: this is the first, undisturbed run"]
    with pytest.raises(AssertionError, match="9-after was not reached: 2 commits"):
        in_memory(order, only="9-after")
    with pytest.raises(ValueError, match="write it like 7-after"):
        in_memory(order, only="seven")
