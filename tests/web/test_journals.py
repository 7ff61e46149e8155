"""Whole journals over HTTP: who may, what is refused, and that nothing is imported by halves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from msgspec import Raw
from tests.web.conftest import client_of

from outlive import Access, Outlive, Run, step
from outlive.doors import transfers
from outlive.doors.transfers import IMPORT_BYTES_MAX
from outlive.kinds.processes import Head
from outlive.kinds.processes.transfer import Lines
from outlive.kinds.processes.vocabulary import Started, pack
from outlive.model import Event
from outlive.web.asgi import create
from outlive.web.messages import Message

ANN, WALL = "ann-0123456789abcdef", "wall-0123456789abcdef"
AT = "/outlive/journals"
LINES = {"Content-Type": "application/x-ndjson"}


@step
async def pay(card: dict[str, str]) -> str:
    return card["number"][-2:]


async def order(run: Run, card: dict[str, str]) -> str:
    await run(pay, card)
    await run.wait("go")
    return "done"


def made(*, redact: tuple[str, ...] = ()) -> Outlive:
    access = Access(operators={"ann": ANN}, viewers={"wall": WALL})
    app = Outlive("memory://", dashboard=access, redact=redact)
    app.process("/orders", version=1, signals={"go": None})(order)
    return app


@pytest.fixture
def an_event_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "PART_EVENTS_MIN", 1)
    monkeypatch.setattr(transfers, "PART_EVENTS_MAX", 1)


@pytest.fixture
async def here() -> AsyncIterator[Outlive]:
    async with made() as app:
        yield app


@pytest.fixture
async def there() -> AsyncIterator[Outlive]:
    async with made() as app:
        yield app


@pytest.fixture
async def http(there: Outlive) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create(there)) as client:
        yield client


def by(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def waiting(app: Outlive) -> str:
    """The id of a process that waits."""
    handle = await app.start(order, {"number": "4711"})
    while (await app.view(handle.id)).status != "waiting":
        await app.changed(handle.id, await app.seq(handle.id), 5)
    return handle.id


async def exported(app: Outlive, id: str, token: str = WALL) -> httpx.Response:
    async with client_of(create(app)) as client:
        return await client.get(f"{AT}/{id}", headers=by(token))


async def test_a_viewer_exports_and_an_operator_imports_with_a_reason(
    here: Outlive, there: Outlive, http: httpx.AsyncClient
) -> None:
    id = await waiting(here)
    answer = await exported(here, id)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == LINES["Content-Type"]
    assert answer.headers["cache-control"] == "no-store" and f"{id}.jsonl" in str(answer.headers)
    assert [json.loads(line)["data"] for line in answer.text.splitlines()[1:-1]] == [
        json.loads(bytes(entry.data)) for entry in await here.journal(id)
    ]
    for token, status in ((WALL, 403), ("nobody-0123456789abc", 401), (ANN, 201)):
        told = await http.post(
            AT, content=answer.content, headers={**by(token), **LINES},
            params={"reason": "the old machine goes", "who": "eve"},
        )  # fmt: skip
        assert told.status_code == status, told.text
    assert told.json() == {"id": id} and told.headers["location"] == f"{AT}/{id}"
    assert (await there.view(id)).status == "paused"
    ((line,), _) = await there.activity()
    assert (line.who, line.verb, line.id) == ("ann", "import", id)
    assert line.why == "the old machine goes"
    again = await http.post(
        AT, content=answer.content, headers={**by(ANN), **LINES}, params={"reason": "again"}
    )
    assert again.status_code == 409 and again.json()["code"] == "OL2071"
    await there.retry(id)
    await there.signal(id, "go", b"null")
    assert await there.result(id, within=30) == "done"


async def test_head_mirrors_get_and_what_is_not_there_is_a_problem(
    there: Outlive, http: httpx.AsyncClient
) -> None:
    id = await waiting(there)
    seen = await http.head(f"{AT}/{id}", headers=by(WALL))
    assert seen.status_code == 200 and seen.content == b""
    assert seen.headers["content-type"] == LINES["Content-Type"]
    assert "content-length" not in seen.headers, "it is not known before it is read"
    gone = await http.get(f"{AT}/ord_none", headers=by(WALL))
    assert gone.status_code == 404 and gone.json()["code"] == "OL2001"
    assert (await http.get(f"{AT}/{id}")).status_code == 401
    assert (await http.get(AT, headers=by(ANN))).status_code == 405
    assert (await http.delete(f"{AT}/{id}", headers=by(ANN))).status_code == 405


REFUSED: dict[str, tuple[dict[str, str], dict[str, str], int, str]] = {
    "no reason": ({}, LINES, 422, "OL4014"),
    "a reason of blanks": ({"reason": "  "}, LINES, 422, "OL4014"),
    "a reason that is too long": ({"reason": "x" * 501}, LINES, 422, "OL4003"),
    "a parameter nobody knows": ({"reason": "x", "force": "1"}, LINES, 422, "OL4003"),
    "a wait that is no number": ({"reason": "x", "within": "long"}, LINES, 422, "OL4003"),
    "a wait that is none": ({"reason": "x", "within": "nan"}, LINES, 422, "OL4003"),
    "a wait that is too long": ({"reason": "x", "within": "61"}, LINES, 422, "OL4003"),
    "a form": ({"reason": "x"}, {"Content-Type": "text/plain"}, 415, "OL4004"),
    "a body of no kind": ({"reason": "x"}, {}, 415, "OL4004"),
    "a body that is packed": (
        {"reason": "x"}, {**LINES, "Content-Encoding": "gzip"}, 415, "OL4004"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
async def test_what_cannot_be_asked_is_a_problem_and_imports_nothing(
    name: str, here: Outlive, there: Outlive, http: httpx.AsyncClient
) -> None:
    params, headers, status, code = REFUSED[name]
    text = await here.export_journal(await waiting(here))
    told = await http.post(AT, content=text.encode(), params=params, headers={**by(ANN), **headers})
    assert told.status_code == status, told.text
    assert told.headers["content-type"] == "application/problem+json"
    assert told.json()["code"] == code and "Nothing" in told.text
    assert await there.processes() == ([], "") and await there.activity() == ([], "")


def of(id: str) -> str:
    """A journal that is whole, of something with this id."""
    head = Head("a-stream", "order", 1, "running", 1)
    lines = Lines(id, head, 1)
    data = pack(Started(id, "order", 1, Raw(b"7"), "a-node"))
    event = Event(0, 0, head.stream, 0, "started", data, 1, b"")
    return b"".join((lines.first(), lines.of(event), lines.last())).decode()


async def test_what_is_no_whole_journal_imports_nothing(
    here: Outlive, there: Outlive, http: httpx.AsyncClient
) -> None:
    text = await here.export_journal(await waiting(here))
    lines = text.splitlines()
    deep = '{"outlive":' + "[" * 300 + "]" * 300 + "}"
    broken: dict[str, tuple[str, int]] = {
        "nothing": ("", 422),
        "no JSON": ("not a journal", 422),
        "another document": ('{"id": "ord_1"}\n', 422),
        "two of them": (text + text, 422),
        "a line too few": ("\n".join((lines[0], *lines[2:])), 422),
        "a changed line": (text.replace("4711", "4712", 1), 422),
        "nested too deeply": (deep, 413),
        "of no id of a process": (of("ord_1\r\nX-Evil: 1"), 422),
        "of a place": (of("../../livez"), 422),
        **{f"cut at {at}": (text[:at], 422) for at in range(1, len(text) - 2, 97)},
    }
    for name, (body, status) in broken.items():
        told = await http.post(
            AT, content=body.encode(), params={"reason": "x"}, headers={**by(ANN), **LINES}
        )
        assert told.status_code == status, (name, told.text)
        assert told.json()["code"] == ("OL2072" if status == 422 else "OL4005")
    assert await there.processes() == ([], "") and await there.activity() == ([], "")


async def test_what_is_too_large_is_refused_before_it_is_read(http: httpx.AsyncClient) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(3 * IMPORT_BYTES_MAX // 65_536):
            sent += 65_536
            yield b" " * 65_536

    headers = {**by(ANN), **LINES}
    told = await http.post(AT, content=body(), params={"reason": "x"}, headers=headers)
    assert told.status_code == 413 and told.json()["code"] == "OL4005"
    assert sent <= IMPORT_BYTES_MAX + 2 * 65_536, "it was read on, although it is too large"
    assert str(IMPORT_BYTES_MAX) in told.json()["detail"]
    sent = 0
    headers["Content-Length"] = str(IMPORT_BYTES_MAX + 1)
    told = await http.post(AT, content=body(), params={"reason": "x"}, headers=headers)
    assert told.status_code == 413 and sent <= 65_536


async def test_without_a_node_for_it_an_import_is_kept_and_said_so(
    here: Outlive, tmp_path: Any
) -> None:
    text = await here.export_journal(await waiting(here))
    access = Access(operators={"ann": ANN})
    app = Outlive(f"sqlite:///{tmp_path}/it.db", dashboard=access)
    await app.open_client()
    try:
        async with client_of(create(app)) as client:
            told = await client.post(
                AT, content=text.encode(), params={"reason": "x", "within": "0"},
                headers={**by(ANN), **LINES},
            )  # fmt: skip
        assert told.status_code == 202, told.text
        id = told.json()["id"]
    finally:
        await app.close()
    node = Outlive(f"sqlite:///{tmp_path}/it.db")
    node.process("/orders", version=1, signals={"go": None})(order)
    async with node:
        while id not in [one.id for one in (await node.processes())[0]]:
            await node.store.changed(-1, 0.05)
        assert (await node.view(id)).status == "paused"


async def test_what_is_redacted_does_not_leave_and_cannot_come_in_to_go_on(
    there: Outlive, http: httpx.AsyncClient
) -> None:
    async with made(redact=("number", "id", "name")) as app:
        id = await waiting(app)
        answer = await exported(app, id, ANN)
        assert "4711" not in answer.text and "…" in answer.text
        first, started = map(json.loads, answer.text.splitlines()[:2])
        assert first["redacted"] is True and first["id"] == id
        assert started["data"]["input"] == {"number": "…"} and started["data"]["id"] == id
        told = await http.post(
            AT, content=answer.content, params={"reason": "x"}, headers={**by(ANN), **LINES}
        )
        assert told.status_code == 422 and "redacted" in told.json()["detail"]
        await app.signal(id, "go", b"null")
        assert await app.result(id, within=30) == "done"
        answer = await exported(app, id)
    told = await http.post(
        AT, content=answer.content, params={"reason": "for the record"},
        headers={**by(ANN), **LINES},
    )  # fmt: skip
    assert told.status_code == 201 and (await there.view(id)).status == "done"


async def test_where_nothing_is_redacted_in_it_it_is_not_called_so() -> None:
    async with made(redact=("password",)) as app:
        answer = await exported(app, await waiting(app))
    assert "redacted" not in json.loads(answer.text.splitlines()[0])


@pytest.mark.usefixtures("an_event_a_part")
async def test_a_long_journal_is_sent_in_parts_and_its_reader_may_leave(here: Outlive) -> None:
    id = await waiting(here)
    whole = (await exported(here, id)).text
    assert len(whole.splitlines()) == await here.seq(id) + 2
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope: Any = {
        "type": "http", "method": "GET", "path": f"{AT}/{id}", "raw_path": f"{AT}/{id}".encode(),
        "query_string": b"", "headers": [(b"authorization", f"Bearer {WALL}".encode())],
        "client": ("127.0.0.1", 1), "root_path": "",
    }  # fmt: skip
    await create(here)(scope, receive, send)
    bodies = [one["body"] for one in sent if one["type"] == "http.response.body"]
    assert 0 < len(bodies) < len(whole.splitlines()), "it was read on for nobody"


@pytest.mark.usefixtures("an_event_a_part")
async def test_an_export_that_breaks_off_has_no_end(
    here: Outlive, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await waiting(here)
    real, asked = here.store.events, 0

    async def events(stream: str, after: int = -1, limit: int = 100_000) -> Any:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise OSError("the disk is gone")
        return await real(stream, after, limit)

    monkeypatch.setattr(here.store, "events", events)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("asked for a body that is not there")

    scope: Any = {
        "type": "http", "method": "GET", "path": f"{AT}/{id}", "raw_path": f"{AT}/{id}".encode(),
        "query_string": b"", "headers": [(b"authorization", f"Bearer {WALL}".encode())],
        "client": ("127.0.0.1", 1), "root_path": "",
    }  # fmt: skip
    await create(here)(scope, receive, send)
    assert sent[0]["status"] == 200 and len(sent) > 1
    assert all(one.get("more_body", True) for one in sent), "it was ended as if it were whole"
