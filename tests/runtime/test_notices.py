"""The end of a process is told at least once, to whoever asked, and never lost."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.service import Outside, Place, crash, has_status, until

from outlive import Outlive, Retry, Run, Webhooks, ids
from outlive.errors import KeyReused, NothingToNotify, NotifyRefused
from outlive.kinds.processes.webhooks import Target
from outlive.runtime import outbound
from outlive.testing.killing import KillEverywhere
from outlive.testing.places import Place as Somewhere
from outlive.testing.trial import Trial

SECRETS = [
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_" + base64.b64encode(b"o" * 32).decode(),
]
URL = "http://ann:geheim@127.0.0.1:9/hook?token=geheim"
QUICK = Retry(attempts=3, base_seconds=0.0, cap_seconds=0.0)


class World:
    """Who is told: checks each signature by itself, and counts by `webhook-id`."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.targets: list[Target] = []
        self.answers: list[Any] = []
        """What is answered; then 200."""

    async def post(
        self, webhooks: Webhooks, target: Target, headers: dict[str, str], body: bytes
    ) -> int:
        self.targets.append(target)
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, BaseException):
            raise answer
        check(headers, body)
        self.told[headers["webhook-id"]] += 1
        self.bodies.append(json.loads(body))
        return int(answer)


def check(headers: dict[str, str], body: bytes) -> None:
    """As the specification says, with the standard library only."""
    signed = b".".join(
        (headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body)
    )
    found = [one.partition(",") for one in headers["webhook-signature"].split(" ")]
    assert len(found) == len(SECRETS)
    for secret, (version, _, given) in zip(SECRETS, found, strict=True):
        key = base64.b64decode(secret[len("whsec_") :])
        wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert version == "v1" and hmac.compare_digest(wanted, given)


world = World()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    reset()

    async def post(*args: Any) -> int:
        return await world.post(*args)

    monkeypatch.setattr(outbound, "post", post)


def reset() -> None:
    global world
    world = World()


def hooks(**options: Any) -> Webhooks:
    return Webhooks(SECRETS, allow_loopback=True, **({"retry": QUICK} | options))


def works(app: Outlive) -> Any:
    app.webhooks = app.webhooks or hooks()
    app.public_url = "https://api.example.org"

    @app.process("/works", version=1)
    async def work(run: Run, word: str) -> str:
        if word == "wait":
            await run.wait("go")
        if word == "fail":
            raise LookupError("no")
        return word

    @app.process("/tolds", version=1, notify="https://hooks.example.org/all")
    async def told(run: Run) -> None:
        pass

    return work


async def stands(app: Outlive, id: str, status: str) -> Any:
    async def look() -> Any:
        found = await app.notice(id)
        return found if found.status == status else None

    return await until(look, f"the notice of {id} is {status}")


@pytest.mark.parametrize(("word", "status"), [("tea", "done"), ("fail", "failed")])
async def test_the_end_is_told_once_with_what_get_says(
    place: Place, word: str, status: str
) -> None:
    app = await place.open(works)
    begun = await app.begin("work", b'"%s"' % word.encode(), notify=URL)
    found = await stands(app, begun.id, "delivered")
    assert (found.url, found.attempts, found.said, found.due) == (
        "http://…@127.0.0.1:9/hook?…", 1, "HTTP 200", None,
    )  # fmt: skip
    assert list(world.told.values()) == [1] and world.targets[0].path == "/hook?token=geheim"
    body = world.bodies[0]
    assert (body["id"], body["status"], body["type"]) == (begun.id, status, "work")
    assert body["links"]["self"] == f"https://api.example.org/works/{begun.id}"
    assert (await app.view(begun.id)).notice == found


async def test_a_type_may_name_who_is_told_and_a_start_another(place: Place) -> None:
    app = await place.open(works)
    first = (await app.begin("told", b"null")).id
    assert (await stands(app, first, "delivered")).url == "https://hooks.example.org/all"
    second = (await app.begin("told", b"null", notify=URL)).id
    await stands(app, second, "delivered")
    assert [target.host for target in world.targets] == ["hooks.example.org", "127.0.0.1"]
    third = (await app.begin("work", b'"x"')).id
    await app.result(third, within=20)
    with pytest.raises(NothingToNotify):
        await app.notice(third)
    assert len(world.targets) == 2


async def test_it_is_tried_again_until_it_is_told(place: Place) -> None:
    world.answers = [500, ConnectionRefusedError()]
    app = await place.open(works)
    id = (await app.begin("work", b'"x"', notify=URL)).id
    assert (await stands(app, id, "delivered")).attempts == 3
    assert list(world.told.values()) == [2] and len(world.targets) == 3  # the 500 had it too


@pytest.mark.parametrize(
    ("answers", "said", "attempts"),
    [
        ([500, TimeoutError(), 302], "HTTP 302", 3),
        ([outbound.Unsafe()] * 3, "refused: not a public address", 3),
        ([410], "HTTP 410", 1),
    ],
)
async def test_what_cannot_be_told_is_shown_listed_and_told_again_when_asked(
    place: Place, answers: list[Any], said: str, attempts: int
) -> None:
    world.answers = answers
    app = await place.open(works)
    id = (await app.begin("work", b'"x"', notify=URL)).id
    found = await stands(app, id, "undelivered")
    assert (found.said, found.attempts) == (said, attempts)
    assert [line.id for line in await app.unnotified()] == [id]
    world.told.clear()
    reader = await place.client(works)
    await reader.notify(id, who="ann")
    await stands(app, id, "delivered")
    assert list(world.told.values()) == [1] and await app.unnotified() == []
    await app.notify(id)
    await until(lambda: list(world.told.values()) == [2], "it is told with the same webhook-id")


async def test_what_has_not_ended_or_names_nobody_is_not_told(place: Place) -> None:
    app = await place.open(works)
    open_one = (await app.begin("work", b'"wait"', notify=URL)).id
    await has_status(app, open_one, "waiting")
    assert (await app.notice(open_one)).status == "planned"
    nobody = (await app.begin("work", b'"x"')).id
    await app.result(nobody, within=20)
    for id in (open_one, nobody):
        with pytest.raises(NothingToNotify):
            await app.notify(id)
    assert not world.targets


async def test_an_address_that_may_not_be_told_starts_nothing(place: Place) -> None:
    app = await place.open(works)
    work = next(made.body for made in app.definitions.values() if made.name == "work")
    for url in ("https://10.0.0.1/", "http://example.org/", "https://geheim@169.254.169.254/"):
        with pytest.raises(NotifyRefused) as found:
            await app.start(work, "x", notify=url)
        assert "geheim" not in str(found.value)
    app.webhooks = None
    with pytest.raises(NotifyRefused, match="no secret"):
        await app.start(work, "x", notify=URL)
    assert (await app.processes())[0] == []
    with pytest.raises(ValueError, match="notify of"):
        Outlive("memory://").process("/x", version=1, notify=URL)(work)


async def test_who_is_told_belongs_to_what_the_key_was_used_for(place: Place) -> None:
    app = await place.open(works)
    first = await app.begin("work", b'"x"', key="k", notify=URL)
    again = await app.begin("work", b'"x"', key="k", notify=URL)
    assert again.replayed and again.id == first.id
    for other in ("", URL + "x"):
        with pytest.raises(KeyReused):
            await app.begin("work", b'"x"', key="k", notify=other)


async def test_nothing_secret_is_shown_or_logged(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world.answers = [500] * 3
    app = await place.open(works)
    id = (await app.begin("work", b'"x"', notify=URL)).id
    await stands(app, id, "undelivered")
    shown = [repr(await app.view(id)), repr(await app.journal(id)), repr(await app.notice(id))]
    assert not [text for text in (*shown, caplog.text) if "geheim" in text]


async def test_what_is_redacted_is_told_to_nobody(place: Place) -> None:
    app = place.new(works, redact=("card",))

    @app.process("/pays", version=1)
    async def pay(run: Run, order: dict[str, str]) -> dict[str, str]:
        return order

    await app.open()
    id = (await app.start(pay, {"card": "4111", "what": "tea"}, notify=URL)).id
    await stands(app, id, "delivered")
    assert world.bodies[0]["data"] == world.bodies[0]["result"] == {"card": "…", "what": "tea"}


async def test_a_fork_that_is_made_while_the_end_is_told_is_not_forgotten(place: Place) -> None:
    told, forked = asyncio.Event(), asyncio.Event()

    async def wait(*_: Any) -> int:
        told.set()
        await forked.wait()
        return 200

    app = await place.open(works)
    world.post = wait  # type: ignore[method-assign]
    id = (await app.begin("work", b'"wait"', notify=URL)).id
    await app.signal(id, "go", b"")
    await until(told.is_set, "it is being told")
    fork = await app.fork(id, "wait go")
    forked.set()
    await stands(app, id, "delivered")
    assert (await app.view(id)).forks == (fork.id,)


async def test_another_node_tells_what_the_first_could_not(place: Place) -> None:
    held = asyncio.Event()

    async def hang(*_: Any) -> int:
        held.set()
        await asyncio.Event().wait()
        return 0

    app = await place.open(works)
    usual, world.post = world.post, hang  # type: ignore[method-assign]
    id = (await app.begin("work", b'"x"', notify=URL)).id
    await until(held.is_set, "it is being told")
    world.post = usual  # type: ignore[method-assign]
    await crash(app)
    app = await place.open(works)
    await stands(app, id, "delivered")
    assert list(world.told.values()) == [1]


async def test_one_started_elsewhere_is_told_by_its_owner(place: Place) -> None:
    app = await place.open(works)
    client = await place.client(works)
    id = (await client.begin("work", b'"x"', notify=URL)).id
    await stands(app, id, "delivered")
    assert world.bodies[0]["id"] == id


async def test_its_retention_begins_when_it_was_told(tmp_path: Path) -> None:
    app = Outlive(
        "sqlite:///never/opened.db", retention_seconds=3600,
        webhooks=hooks(retry=Retry(attempts=9, base_seconds=600, cap_seconds=6000)),
    )  # fmt: skip
    work = works(app)
    world.answers = [500] * 5
    async with Trial(app, Somewhere("memory://", tmp_path).store) as trial:
        handle = await trial.start(work, "x", notify=URL)
        await trial.run_until_idle()
        assert (await app.notice(handle.id)).status == "pending"
        await trial.advance(hours=20)
        assert list(world.told.values()) == [6] and len(world.bodies) == 6
        with pytest.raises(Exception, match=r"past its retention|no process"):
            await trial.view(handle.id)


async def test_a_node_without_a_secret_keeps_it_for_one_that_has(tmp_path: Path) -> None:
    app = Outlive("sqlite:///never/opened.db")
    work = works(app)
    async with Trial(app, Somewhere("memory://", tmp_path).store) as trial:
        trial.runtime.activations.notices.webhooks = None
        handle = await trial.start(work, "x", notify=URL)
        await trial.run_until_idle()
        found = await app.notice(handle.id)
        assert (found.status, found.said, found.attempts) == ("pending", "no secret", 0)
        trial.runtime.activations.notices.webhooks = app.webhooks
        await trial.advance(minutes=2)
        assert (await app.notice(handle.id)).status == "delivered"


async def test_it_is_the_same_on_postgres(postgres: str) -> None:
    app = Outlive(f"{postgres}?schema=notices_{ids.token(40)}")
    works(app)
    world.answers = [500] * 3
    async with app:
        id = (await app.begin("work", b'"x"', notify=URL)).id
        await stands(app, id, "undelivered")
        assert [line.id for line in await app.unnotified()] == [id]
        await app.notify(id)
        await stands(app, id, "delivered")


def test_it_survives_every_death(tmp_path: Path) -> None:
    """0 lost, and the receiver can tell a second delivery by its id."""
    app = Outlive("sqlite:///never/opened.db")
    work = works(app)

    @app.process("/all", version=1, notify=URL)
    async def everything(run: Run) -> str:
        await run.sleep(5)
        return "done"

    async def client(outlive: Any, handle: Any) -> None:
        await outlive.advance(seconds=30)

    def check(outcome: Any) -> None:
        assert outcome.status == "done"
        assert len(world.told) == 1 and len({body["id"] for body in world.bodies}) == 1
        assert outcome.view.notice.status == "delivered"

    killer = KillEverywhere(app, "sqlite://", tmp_path)
    where = killer(everything, None, client=client, check=check, reset=reset, nested=True)
    assert len(where) > 20 and work is not None
    killer.close()


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, list[bytes]]]:
    got: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        got.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], got
    server.close()


async def test_it_goes_over_a_real_connection(
    place: Place, monkeypatch: pytest.MonkeyPatch, outside: Outside
) -> None:
    monkeypatch.undo()
    app = await place.open(works)
    async with listening() as (port, got):
        id = (await app.begin("work", b'"x"', notify=f"http://127.0.0.1:{port}/hook")).id
        await stands(app, id, "delivered")
    assert got[0].startswith(b"POST /hook HTTP/1.1\r\n") and b"webhook-signature: v1," in got[0]
