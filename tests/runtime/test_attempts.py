"""One step: tried again as declared, timed, interrupted, and never twice once it is recorded."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from typing import Any

import msgspec
import pydantic
import pytest
from tests.service import Dying, Outside, Place, check_grammar, crash, has_status, until

from outlive import BlockingRun, NonRetryable, Outlive, Retry, Run, StepFailed, attempt, step

QUICK = Retry(attempts=4, base_seconds=0.001, cap_seconds=0.002)
world = Outside()
released = threading.Event()


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    global world
    world = outside
    released.clear()


def process(body: Any) -> Any:
    def declare(app: Outlive) -> None:
        async def thing(run: Run) -> Any:
            return await body(run)

        app.process("/things", version=1)(thing)

    return declare


async def run_once(place: Place, body: Any) -> Any:
    app = await place.open(process(body))
    begun = await app.begin("thing", b"null")
    return await app.result(begun.id, within=60)


@step(retry=QUICK)
async def flaky(until_number: int) -> int:
    world.do(attempt().key, f"try {attempt().number}")
    if attempt().number < until_number:
        raise ConnectionError("not yet")
    return attempt().number


async def test_a_step_is_tried_again_under_the_same_key(place: Place) -> None:
    assert await run_once(place, lambda run: run(flaky, 3)) == 3
    assert world.log == ["try 1", "try 2", "try 3"] and len(world.effects) == 1


async def test_attempts_are_not_counted_anew_when_the_node_dies(place: Place) -> None:
    @step(retry=Retry(attempts=3, base_seconds=0.0), name="counted")
    async def counted() -> None:
        world.do(attempt().key, f"try {attempt().number}")
        if attempt().number == 2:
            await asyncio.get_running_loop().create_future()
        raise ConnectionError("no")

    body = process(lambda run: run(counted))
    app = await place.open(body)
    begun = await app.begin("thing", b"null")
    await until(lambda: "try 2" in world.log)
    app = await place.again(app, body)
    await until(lambda: world.calls["try 2"] == 2)
    app = await place.again(app, body)
    assert world.calls["try 1"] == 1
    view = await app.view(begun.id)
    assert view.steps[0].attempts[0].error.message == "no"
    await crash(app)


async def test_a_step_gives_up_after_its_attempts_and_is_not_run_again(place: Place) -> None:
    async def body(run: Run) -> str:
        try:
            await run(flaky, 99)
        except StepFailed as error:
            return f"{error.step} {error.failure_type} {error.message}"
        return "?"

    assert await run_once(place, body) == "flaky ConnectionError not yet"
    assert world.log == [f"try {n}" for n in range(1, 5)]


@pytest.mark.parametrize("error", [NonRetryable("refused"), KeyError("never this")])
async def test_what_must_not_be_tried_again_fails_at_once(place: Place, error: Exception) -> None:
    @step(retry=Retry(attempts=9, never=(LookupError,)), name="refusing")
    async def refusing() -> None:
        world.do(attempt().key, "refusing")
        raise error

    async def body(run: Run) -> str:
        try:
            await run(refusing)
        except StepFailed as failed:
            return failed.failure_type
        return "?"

    assert await run_once(place, body) == type(error).__name__
    assert world.calls["refusing"] == 1


async def test_an_asynchronous_step_is_cancelled_when_its_time_is_up(place: Place) -> None:
    @step(retry=Retry(attempts=2, base_seconds=0.0), timeout=0.02, name="endless")
    async def endless() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            world.do("", "cancelled")
        return "?"

    async def body(run: Run) -> str:
        with pytest.raises(StepFailed, match=r"longer than 0\.02 s"):
            await run(endless)
        return "went on"

    assert await run_once(place, body) == "went on"
    assert world.calls["cancelled"] == 2


async def test_the_late_result_of_a_thread_is_refused(place: Place) -> None:
    @step(retry=Retry(attempts=2, base_seconds=0.0), timeout=0.5, name="thread")
    def thread() -> str:
        number = attempt().number
        if number == 1:
            released.wait(60)
        world.do(attempt().key, f"thread {number}")
        return f"from {number}"

    app = await place.open(process(lambda run: run(thread)))
    begun = await app.begin("thing", b"null")
    assert await app.result(begun.id, within=60) == "from 2"
    released.set()
    await until(lambda: "thread 1" in world.log)
    assert await app.result(begun.id, within=60) == "from 2"
    view = await app.view(begun.id)
    assert [found.outcome for found in view.steps[0].attempts] == ["failed", "done"]
    check_grammar(await app.journal(begun.id))


async def test_a_result_that_cannot_be_recorded_fails_its_step_at_once(place: Place) -> None:
    @step(retry=QUICK, name="unspeakable")
    async def unspeakable() -> object:
        world.do(attempt().key, "unspeakable")
        return object()

    async def body(run: Run) -> str:
        with pytest.raises(StepFailed, match="cannot be recorded"):
            await run(unspeakable)
        return "known"

    assert await run_once(place, body) == "known"
    assert world.calls["unspeakable"] == 1, "the effect has happened: trying again does not help"


async def test_a_result_that_is_too_large_fails_its_step_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.runtime.attempts.RECORD_BYTES_MAX", 1024 * 1024)

    @step(retry=QUICK, name="huge")
    async def huge() -> str:
        world.do(attempt().key, "huge")
        return "x" * (1024 * 1024)

    async def body(run: Run) -> str:
        with pytest.raises(StepFailed, match="at most"):
            await run(huge)
        return "known"

    assert await run_once(place, body) == "known"
    assert world.calls["huge"] == 1


class Plain(msgspec.Struct):
    name: str


@dataclasses.dataclass
class Data:
    plain: Plain
    numbers: list[int]


class Model(pydantic.BaseModel):
    name: str
    inner: list[pydantic.BaseModel] = []


class Outer(pydantic.BaseModel):
    model: Model
    when: int


@step
async def give_struct() -> Plain:
    return Plain("a")


@step
async def give_data() -> Data:
    return Data(Plain("b"), [1, 2**80])


@step
async def give_model() -> Outer:
    return Outer(model=Model(name="c"), when=2**60)


@step
async def give_nothing() -> None:
    return None


@step
async def give_mapping() -> dict[str, Outer]:
    return {"x": Outer(model=Model(name="d"), when=1)}


async def test_results_of_every_kind_come_back_the_same_from_the_journal(place: Place) -> None:
    seen: list[list[Any]] = []

    async def body(run: Run) -> None:
        given = (give_struct, give_data, give_model, give_nothing, give_mapping)
        seen.append([await run(one) for one in given])
        await run.wait("go")

    app = await place.open(process(body))
    begun = await app.begin("thing", b"null")
    await has_status(app, begun.id, "waiting")
    app = await place.again(app, process(body))
    await app.signal(begun.id, "go", b"")
    await app.result(begun.id, within=60)
    assert seen[0] == seen[1]
    assert isinstance(seen[1][0], Plain) and isinstance(seen[1][2], Outer)
    assert seen[1][1].numbers[1] == 2**80


async def test_a_synchronous_body_does_all_that_an_asynchronous_one_does(place: Place) -> None:
    """Also when it is killed in the middle."""

    @step(name="in_thread")
    def in_thread(name: str) -> str:
        return world.do(attempt().key, f"{name} in {threading.current_thread().name[:12]}")

    def declare(app: Outlive) -> None:
        app.schema(lambda db: db.execute("CREATE TABLE IF NOT EXISTS line (what TEXT)"))

        @app.process("/blocking", version=1)
        def blocking(run: BlockingRun, name: str) -> list[Any]:
            run.state = "begun"
            first = run(in_thread, name)
            keyed = [run.keyed(n)(in_thread, f"{name}{n}") for n in range(2)]
            run.transact(lambda db, what: db.execute("INSERT INTO line VALUES (?)", (what,)), name)
            signal = run.wait("go", within=60)
            run.sleep(0.001)
            facts = [run.now() is not None, len(str(run.uuid())), run.random().random() < 1]
            run.pivot()
            count = run.transact(lambda db: db.execute("SELECT count(*) FROM line")[0][0])
            return [first, *keyed, signal, *facts, count, run.state, run.version]

    app = await place.open(declare)
    begun = await app.begin("blocking", b'"a"')
    await has_status(app, begun.id, "waiting")
    app = await place.again(app, declare)
    await app.signal(begun.id, "go", b"3")
    found = await app.result(begun.id, within=60)
    assert found[0].startswith("a in outlive-step")
    assert found[3:] == [3, True, 36, True, 1, "begun", 1]
    assert all(count == 1 for count in world.calls.values())
    check_grammar(await app.journal(begun.id))


class Held(Dying):
    """A store that holds back the records of steps until it is let go."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.waits = False
        self.let_go = asyncio.Event()

    async def commit_group(self, batches: Any) -> Any:
        if any(add.kind == "step" for batch in batches for add in batch.append):
            self.waits = True
            await self.let_go.wait()
        return await super().commit_group(batches)


async def test_nothing_follows_from_a_step_before_its_record_is_durable(place: Place) -> None:
    async def body(run: Run) -> int:
        number = await run(flaky, 1)
        world.log.append("it follows")
        return number

    store = Held(place.store())
    app = await place.open(process(body), store=store)
    begun = await app.begin("thing", b"null")
    await until(lambda: store.waits)
    for _ in range(100):
        await asyncio.sleep(0)
    seen = list(world.log)
    store.let_go.set()
    assert seen == ["try 1"]
    assert await app.result(begun.id, within=60) == 1
    assert world.log == ["try 1", "it follows"]


async def test_no_step_begins_once_the_lease_may_be_over(place: Place) -> None:
    lives: list[float] = []

    async def body(run: Run) -> int:
        node: Any = place.apps[-1]._runtime.activations  # type: ignore[union-attr]
        lives.append(node.trusted_until)
        if len(lives) == 1:
            node.trusted_until = 0.0
        return await run(flaky, 1)

    app = await place.open(process(body))

    begun = await app.begin("thing", b"null")
    await until(lambda: bool(lives))
    for _ in range(100):
        await asyncio.sleep(0)
    assert world.log == []
    app = await place.again(app, process(body))
    assert await app.result(begun.id, within=60) == 1
    assert world.log == ["try 1"]


async def test_a_lease_that_is_renewed_late_leaves_nobody_behind(place: Place) -> None:
    """Found by the simulation (seed 3007): what had begun nothing meanwhile was run by nobody until
    its shard was taken over, for the lease had not been lost."""
    lives: list[float] = []

    async def body(run: Run) -> int:
        node: Any = place.apps[-1]._runtime.activations  # type: ignore[union-attr]
        lives.append(node.trusted_until)
        if len(lives) == 1:
            node.trusted_until = 0.0  # until it is renewed
        return await run(flaky, 1)

    app = await place.open(process(body))
    begun = await app.begin("thing", b"null")
    assert await app.result(begun.id, within=60) == 1
    assert len(lives) >= 2 and world.log == ["try 1"]
