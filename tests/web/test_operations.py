"""What `outlive --context` asks over HTTP: who may, and that what is refused is not done."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.web.conftest import client_of

from outlive import Access, Outlive, Run
from outlive.doors.desk import Desk
from outlive.doors.operations import OPERATIONS
from outlive.web.asgi import create

ANN, WALL = "ann-0123456789abcdef", "wall-0123456789abcdef"
AT = "/outlive/operations"


async def order(run: Run, what: str) -> str:
    await run.wait("paid")
    return what


@pytest.fixture
async def app() -> AsyncIterator[Outlive]:
    made = Outlive("memory://", dashboard=Access(operators={"ann": ANN}, viewers={"wall": WALL}))
    made.process("/orders", version=1, signals={"paid": None})(order)
    async with made:
        yield made


@pytest.fixture
async def http(app: Outlive) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create(app)) as client:
        yield client


def by(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def looking(**arguments: Any) -> dict[str, str]:
    return {"arguments": json.dumps(arguments)}


async def test_every_operation_is_a_method_of_what_it_asks() -> None:
    for one in OPERATIONS.values():
        assert callable(getattr(Desk if one.at_desk else Outlive, one.name))


async def test_a_viewer_looks_and_only_an_operator_acts(
    http: httpx.AsyncClient, app: Outlive
) -> None:
    id = (await app.start(order, "tea")).id
    found = await http.get(f"{AT}/view", params=looking(id=id), headers=by(WALL))
    assert found.status_code == 200 and found.json()["id"] == id
    assert found.headers["cache-control"] == "no-store"
    for token, status in ((WALL, 403), ("nobody-0123456789abc", 401), (ANN, 200)):
        told = await http.post(f"{AT}/pause", json={"id": id, "who": "eve"}, headers=by(token))
        assert told.status_code == status
    assert (await http.get(f"{AT}/view", params=looking(id=id))).status_code == 401
    whys = [past.why for past in (await app.view(id)).history]
    assert any("ann" in why for why in whys) and not any("eve" in why for why in whys)


async def test_a_page_of_another_site_cannot_send_one(
    http: httpx.AsyncClient, app: Outlive
) -> None:
    id = (await app.start(order, "tea")).id
    body = json.dumps({"id": id}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        told = await http.post(
            f"{AT}/cancel", content=body, headers={**by(ANN), "Content-Type": kind}
        )
        assert told.status_code == 415
    assert (await http.post(f"{AT}/cancel", content=body, headers=by(ANN))).status_code == 415
    assert not (await app.view(id)).cancel_requested


REFUSED: dict[str, tuple[str, str, Any, int]] = {
    "a name that is none": ("POST", "drop_everything", {}, 404),
    "a method that is no operation": ("POST", "close", {}, 404),
    "a change by GET": ("GET", "cancel", {"id": "x"}, 405),
    "a look by POST": ("POST", "nodes", {}, 405),
    "a field that is not known": ("POST", "cancel", {"id": "x", "force": True}, 422),
    "a field of another type": ("POST", "cancel", {"id": 3}, 422),
    "a field that is missing": ("POST", "cancel", {}, 422),
    "a limit that is too high": ("GET", "processes", {"limit": 10_000}, 422),
    "a tag that cannot be": ("GET", "processes", {"tags": {"a": ""}}, 422),
    "a verb that is none": ("POST", "bulk", {"verb": "explode", "status": "stuck"}, 422),
    "a process that is not there": ("POST", "cancel", {"id": "ord_no"}, 404),
    "a session that is not there": ("POST", "session_revoke", {"key": "x"}, 404),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
async def test_what_cannot_be_is_a_problem(name: str, http: httpx.AsyncClient) -> None:
    method, operation, arguments, status = REFUSED[name]
    place = f"{AT}/{operation}"
    if method == "GET":
        told = await http.get(place, params=looking(**arguments), headers=by(ANN))
    else:
        told = await http.post(place, json=arguments, headers=by(ANN))
    assert told.status_code == status, told.text
    assert told.headers["content-type"] == "application/problem+json"
    assert told.json()["code"].startswith("OL")


async def test_the_wrong_method_is_told_the_methods_of_that_operation(
    http: httpx.AsyncClient,
) -> None:
    changed = await http.get(f"{AT}/cancel", params=looking(id="x"), headers=by(ANN))
    assert (changed.status_code, changed.headers["allow"]) == (405, "OPTIONS, POST")
    looked = await http.post(f"{AT}/nodes", json={}, headers=by(ANN))
    assert (looked.status_code, looked.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_what_is_no_json_is_a_problem(http: httpx.AsyncClient) -> None:
    for arguments in ("{", "[" * 10_000, "\ud800".encode("utf-8", "surrogatepass"), "3"):
        told = await http.get(f"{AT}/nodes", params={"arguments": arguments}, headers=by(ANN))
        assert told.status_code in (400, 422), told.text


async def test_a_fork_gives_the_id_of_the_other_one(http: httpx.AsyncClient, app: Outlive) -> None:
    handle = await app.start(order, "tea")
    await handle.signal("paid")
    await handle.result(within=30)
    asked = {"id": handle.id, "at": "wait paid"}
    told = await http.post(f"{AT}/fork", json=asked, headers=by(ANN))
    assert told.status_code == 200, told.text
    assert (await app.view(told.json()["id"])).forked_from == handle.id


async def test_a_query_of_too_many_fields_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{AT}/nodes?{'a=1&' * 20}", headers=by(WALL))
    assert (answer.status_code, answer.json()["code"]) == (422, "OL4003")
