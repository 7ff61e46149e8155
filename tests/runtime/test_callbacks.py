"""A callback says one thing once, whoever dies in between, and its token is nowhere recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from tests.service import Outside, Place, crash, has_status, until

from outlive import Outlive, Run, WaitTimeout, attempt, ids, step
from outlive.errors import (
    CallbackExpired,
    CallbackUsed,
    InvalidInput,
    MalformedInput,
    NoSuchCallback,
    OutcomeUnknown,
    OutliveError,
    StoreUnavailable,
    TooLarge,
)
from outlive.model import Batch, Ref
from outlive.testing.killing import KillEverywhere
from outlive.testing.places import Place as Somewhere
from outlive.testing.trial import Trial

world = Outside()
given: dict[str, str] = {}


class Result(Struct):
    clean: bool
    score: int = 0


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    reset()


def reset() -> None:
    global world
    world = Outside()
    given.clear()


@step
async def order_scan(document: str, url: str) -> None:
    world.do(attempt().key, "order")
    assert given.setdefault(document, url) == url, "the same address on every replay"


def scans(app: Outlive) -> Any:
    app.public_url = "https://api.example.org/v1"

    @app.process("/scans", version=1, callbacks={"scan": Result})
    async def scan(run: Run, document: str) -> int:
        callback = await run.callback("scan", type=Result, within=3600)
        await run(order_scan, document, callback.url)
        found = await callback
        assert await callback == found
        await run.wait("end")
        return found.score

    return scan


def token(document: str = "a") -> str:
    assert given[document].startswith("https://api.example.org/v1/outlive/callbacks/")
    return given[document].rpartition("/")[2]


async def begun(app: Outlive, document: str = "a") -> str:
    id = (await app.begin("scan", b'"%s"' % document.encode())).id
    await until(lambda: document in given)
    return id


async def test_what_is_said_reaches_the_body_once(place: Place) -> None:
    app = await place.open(scans)
    id = await begun(app)
    assert await app.call_back(token(), b'{"clean":true,"score":7}') == "taken"
    assert await app.call_back(token(), b' {"score":7, "clean":true}') == "replayed"
    with pytest.raises(CallbackUsed):
        await app.call_back(token(), b'{"clean":false}')
    await app.handle(id).signal("end")
    assert await app.result(id, within=20) == 7
    assert await app.call_back(token(), b'{"clean":true,"score":7}') == "replayed"
    with pytest.raises(CallbackUsed):
        await app.call_back(token(), b'{"clean":false}')


@pytest.mark.parametrize(
    ("change", "body", "error"),
    [
        (lambda token: token, b"{", MalformedInput),
        (lambda token: token, b"", MalformedInput),
        (lambda token: token, b'{"clean":3}', InvalidInput),
        (lambda token: token, b'"' + b"x" * 70_000 + b'"', TooLarge),
        (lambda token: token[:-1] + ("0" if token[-1] != "0" else "1"), b"{}", NoSuchCallback),
        (lambda token: token[:-1], b"{}", NoSuchCallback),
        (lambda token: token.upper(), b"{}", NoSuchCallback),
        (lambda token: "../" + token, b"{}", NoSuchCallback),
        (lambda token: "", b"{}", NoSuchCallback),
    ],
)
async def test_a_wrong_token_or_body_is_refused_and_not_kept(
    place: Place, change: Callable[[str], str], body: bytes, error: type[Exception]
) -> None:
    app = await place.open(scans)
    id = await begun(app)
    await has_status(app, id, "waiting")
    before = await app.seq(id)
    with pytest.raises(error):
        await app.call_back(change(token()), body)
    assert await app.seq(id) == before
    assert await app.call_back(token(), b'{"clean":true}') == "taken"


async def test_the_token_is_long_random_and_stands_nowhere(place: Place) -> None:
    app = await place.open(scans)
    first, second = await begun(app), await begun(app, "b")
    assert len(token()) == 52 and token() != token("b")
    stored: list[bytes] = []
    for id in (first, second):
        stored += [bytes(entry.data) for entry in await app.journal(id)]
        stored.append(repr(await app.view(id)).encode())
    stored += [cell.value + cell.key.encode() for cell in await app.store.scan("request")]
    assert len(await app.store.scan("request")) == 2
    assert not [row for row in stored if token().encode() in row]
    secret = (await app.store.read((Ref("secret", "callbacks"),)))[0]
    assert secret is not None and len(secret.value) == 52


async def test_behind_its_time_it_is_gone(tmp_path: Path) -> None:
    app = Outlive("sqlite:///never/opened.db")

    @app.process("/scans", version=1)
    async def scan(run: Run) -> str:
        callback = await run.callback("scan", within=60)
        given["a"] = "https://api.example.org/v1/outlive/callbacks/" + callback.token
        try:
            return str(await callback)
        except WaitTimeout as error:
            await run.sleep(10)
            return error.detail

    async with Trial(app, Somewhere("memory://", tmp_path).store) as trial:
        handle = await trial.start(scan)
        await trial.advance(seconds=61)
        with pytest.raises(CallbackExpired):
            await app.call_back(token(), b"1")
        assert await handle.result() == "No callback scan came in time."
        with pytest.raises(CallbackExpired):
            await app.call_back(token(), b"1")
        await trial.advance(days=8)
        with pytest.raises(NoSuchCallback):
            await app.call_back(token(), b"1")


async def test_nobody_waits_for_it_when_the_process_has_ended(place: Place) -> None:
    app = await place.open(scans)
    id = await begun(app)
    await app.cancel(id)
    await has_status(app, id, "cancelled")
    with pytest.raises(CallbackExpired):
        await app.call_back(token(), b'{"clean":true}')


async def test_nobody_hears_it_in_the_moment_in_which_the_retention_ends(place: Place) -> None:
    app = await place.open(scans)
    id = await begun(app)
    await app.call_back(token(), b'{"clean":true}')
    await app.signal(id, "end", b"")
    await has_status(app, id, "done")
    await app.store.erase([(await app._head(id)).stream], Batch())  # its cell was read before
    with pytest.raises(CallbackExpired):
        await app.call_back(token(), b'{"clean":true}')


async def test_it_may_be_said_before_it_is_waited_for_and_in_a_race(place: Place) -> None:
    def racing(app: Outlive) -> None:
        @app.process("/races", version=1)
        async def race(run: Run) -> str:
            one, two = await run.callback("c"), await run.keyed("x").callback("c")
            world.do("one", one.token)
            world.do("two", two.token)
            await run.wait("go")

            async def slow(run: Run) -> str:
                return str(await run.wait(one))

            async def quick(run: Run) -> str:
                return str(await run.wait(two))

            return str(await run.first(slow, quick))

    app = await place.open(racing)
    id = (await app.begin("race", b"null")).id
    await has_status(app, id, "waiting")
    assert await app.call_back(world.effects["two"], b'"two"') == "taken"
    app = await place.again(app, racing)
    await app.handle(id).signal("go")
    assert await app.result(id, within=20) == "two"
    with pytest.raises(CallbackExpired):
        await app.call_back(world.effects["one"], b'"one"')


async def test_it_is_said_to_one_node_and_heard_on_another(place: Place) -> None:
    app = await place.open(scans)
    other = await place.client(scans)
    id, late = await begun(app), await begun(app, "b")
    assert await other.call_back(token(), b'{"clean":true,"score":3}') == "taken"
    with pytest.raises(CallbackUsed):
        await other.call_back(token(), b'{"clean":false}')
    await crash(app)
    said = asyncio.ensure_future(other.call_back(token("b"), b'{"clean":true,"score":4}'))
    assert await said == "kept"
    with pytest.raises(CallbackUsed):
        await other.call_back(token("b"), b'{"clean":false}')
    assert await other.call_back(token("b"), b'{"clean":true,"score":4}') == "kept"
    app = await place.open(scans)
    for one, score in ((id, 3), (late, 4)):
        await app.handle(one).signal("end")
        assert await app.result(one, within=20) == score


async def test_it_is_the_same_on_postgres(postgres: str) -> None:
    app = Outlive(f"{postgres}?schema=callbacks_{ids.token(40)}")
    scans(app)
    async with app:
        id = await begun(app)
        assert await app.call_back(token(), b'{"clean":true,"score":7}') == "taken"
        assert await app.call_back(token(), b'{"clean":true,"score":7}') == "replayed"
        await app.handle(id).signal("end")
        assert await app.result(id, within=20) == 7


def test_it_survives_every_death(tmp_path: Path) -> None:
    app = Outlive("sqlite:///never/opened.db")
    scan = scans(app)

    async def client(outlive: Any, handle: Any) -> None:
        await outlive.run_until_idle()
        await outlive.app.call_back(token(), b'{"clean":true,"score":7}')
        await handle.signal("end")

    def check(outcome: Any) -> None:
        assert outcome.status == "done" and outcome.result == 7
        kinds = [entry.kind for entry in outcome.journal]
        assert kinds.count("callback") == kinds.count("called_back") == 1
        assert world.made("order") == 1

    killer = KillEverywhere(app, "sqlite://", tmp_path)
    assert len(killer(scan, "a", client=client, check=check, reset=reset)) > 12
    killer.close()


async def test_what_is_not_declared_is_a_mistake_of_the_program(place: Place) -> None:
    wrong: dict[str, Callable[[Run], Any]] = {
        "not declared": lambda run: run.callback("other"),
        "another type": lambda run: run.callback("scan", type=int),
        "above 0": lambda run: run.callback("scan", within=0),
    }
    said: list[str] = []

    def declare(app: Outlive) -> None:
        @app.process("/scans", version=1, callbacks={"scan": Result})
        async def scan(run: Run) -> None:
            for make in wrong.values():
                try:
                    await make(run)
                except ValueError as error:
                    said.append(str(error))
            nameless = await run.callback("scan")
            said.append(repr(nameless))
            with pytest.raises(ValueError, match="public_url"):
                _ = nameless.url

    app = await place.open(declare)
    await app.result((await app.begin("scan", b"null")).id, within=20)
    for text, error in zip(wrong, said, strict=False):
        assert text in error
    assert said[-1] == "<callback scan>"
    with pytest.raises(ValueError, match="public_url"):
        Outlive(public_url="ftp://example.org")
    with pytest.raises(ValueError, match="public_url"):
        Outlive(public_url="https://user@example.org")


@pytest.mark.parametrize("error", [StoreUnavailable, OutcomeUnknown])
async def test_a_store_that_does_not_answer_rolls_nothing_back(
    place: Place, error: type[OutliveError]
) -> None:
    app = await place.open(scans)
    assert app._runtime is not None
    real, left = app._runtime.activations.addresses.secret, [error("away"), error("away")]

    async def secret() -> str:
        if left:
            raise left.pop()
        return await real()

    app._runtime.activations.addresses.secret = secret  # type: ignore[method-assign]
    id = (await app.begin("scan", b'"a"')).id
    await has_status(app, id, "waiting")
    assert not left and not [e for e in await app.journal(id) if e.kind == "compensating"]


async def test_a_plain_body_has_them_too(place: Place) -> None:
    def plain(app: Outlive) -> None:
        @app.process("/scans", version=1)
        def scan(run: Any) -> str:
            callback = run.callback("scan")
            world.do("token", callback.token)
            return str(callback.result())

    app = await place.open(plain)
    id = (await app.begin("scan", b"null")).id
    await until(lambda: "token" in world.effects)
    await app.call_back(world.effects["token"], b'"clean"')
    assert await app.result(id, within=20) == "clean"


async def test_a_callback_of_an_era_that_is_over_does_not_speak_for_the_next_one(
    place: Place,
) -> None:
    """Found by the simulation (seed 114): the next era's callback has the same name, and what came
    to the old address again was taken for it."""
    tokens: list[str] = []

    def declare(app: Outlive) -> None:
        @app.process("/watches", version=1)
        async def watch(run: Run, era: int) -> str:
            made = await run.callback("scan", within=600)
            if len(tokens) < era:
                tokens.append(made.token)
            said = str(await made)
            if era < 2:
                await run.again(era + 1)
            return said

    app = await place.open(declare)
    begun = await app.begin("watch", b"1")
    await until(lambda: len(tokens) == 1)
    assert await app.call_back(tokens[0], b'"first"') == "taken"
    await until(lambda: len(tokens) == 2)
    assert tokens[0] != tokens[1]
    assert await app.call_back(tokens[0], b'"first"') == "replayed"
    with pytest.raises(CallbackUsed):
        await app.call_back(tokens[0], b'"other"')
    assert await app.call_back(tokens[1], b'"second"') == "taken"
    assert await app.result(begun.id, within=60) == "second"
