"""Sessions and idempotency keys in three processes that are killed between commit and answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.doors.programs import line_of, program
from tests.ports import free_port

from outlive import ids

pytestmark = pytest.mark.crash

PROGRAM = str(Path(__file__).with_name("keyed.py"))
SECONDS = 60.0


class Cluster:
    """Three processes on one store, each on a port that it keeps over its lives."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.ledger = address, folder / "ledger"
        self.ledger.touch()
        self._stack = ExitStack()
        self.ports = [free_port() for _ in range(3)]
        self.processes = [self._begin(port) for port in self.ports]
        for process in self.processes:
            assert line_of(process) == "ready"
        self.kills = 0

    def _begin(self, port: int) -> Any:
        env = {"LEDGER": str(self.ledger)}
        return self._stack.enter_context(program(self.address, PROGRAM, str(port), env=env))

    def revive(self) -> None:
        """Start again what is dead. The dead are still dead when this begins."""
        for number, process in enumerate(self.processes):
            if process.poll() is not None:
                assert process.returncode == -9
                self.kills += 1
                self.processes[number] = self._begin(self.ports[number])
                assert line_of(self.processes[number]) == "ready"

    def died(self, number: int) -> None:
        self.processes[number].wait(SECONDS)

    def sent(self) -> Counter[str]:
        return Counter(self.ledger.read_text().split())

    def end(self) -> None:
        self._stack.close()


@pytest.fixture(params=["postgres", "sqlite"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    if request.param == "sqlite":
        address = f"sqlite:///{tmp_path}/store.db"
    else:
        address = f"{request.getfixturevalue('postgres')}?schema=store_{ids.token(40)}"
    made = Cluster(address, tmp_path)
    yield made
    made.end()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=60)
    async with httpx.AsyncClient(timeout=SECONDS, limits=limits) as client:
        yield client


async def post(
    cluster: Cluster, http: httpx.AsyncClient, number: int, path: str, **request: Any
) -> httpx.Response | None:
    """The answer of one process; None when the connection broke over its death."""
    try:
        return await http.post(f"http://127.0.0.1:{cluster.ports[number]}{path}", **request)
    except httpx.TransportError:
        return None


async def insisting(
    cluster: Cluster, http: httpx.AsyncClient, number: int, path: str, **request: Any
) -> httpx.Response:
    """What a client that retries gets in the end, from whoever is there."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        found = await post(cluster, http, number % 3, path, **request)
        if found is not None and found.status_code < 500 and found.status_code != 409:
            return found
        request["headers"] = {k: v for k, v in request["headers"].items() if k != "die"}
        number += 1
        await asyncio.sleep(0.02)
    raise AssertionError(f"no answer to {path} within {SECONDS} s")


async def test_one_key_has_one_effect_and_one_answer_over_kills(
    cluster: Cluster, http: httpx.AsyncClient
) -> None:
    keys = [ids.token(40), ids.token(40)]  # the table is that of all tests on this server
    for round, key in enumerate(keys):
        asked = []
        for number in range(100):
            headers = {"idempotency-key": f'"{key}"'}
            if number == 20:
                headers["die"] = "answer"
            asked.append(insisting(
                cluster, http, number + round, "/charges", json={"name": key}, headers=headers
            ))  # fmt: skip
        running = asyncio.gather(*asked)
        await asyncio.to_thread(cluster.died, (20 + round) % 3)
        answers = await running
        cluster.revive()
        assert {(one.status_code, one.content) for one in answers} == {
            (answers[0].status_code, answers[0].content)
        }
    found = await http.get(f"http://127.0.0.1:{cluster.ports[0]}/charges")
    assert [found.json()[key] for key in keys] == [1, 1] and cluster.kills == 2


async def test_an_effect_outside_of_the_store_is_never_repeated_by_itself(
    cluster: Cluster, http: httpx.AsyncClient
) -> None:
    async def send(key: str, number: int, die: str = "") -> httpx.Response | None:
        headers = {"idempotency-key": f'"{key}"', "die": die}
        return await post(cluster, http, number, "/mails", json={"name": key}, headers=headers)

    assert await send("a", 0, "effect") is None  # happened, and nobody recorded it
    assert await send("b", 1, "answer") is None  # recorded, and nobody was told
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        unknown = await send("a", 2)
        assert unknown is not None and unknown.status_code == 409
        if unknown.json()["code"] == "OL5103":
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("the lease of the dead never ended")
    known = await send("b", 2)
    assert known is not None and known.status_code == 201
    assert known.headers["idempotent-replayed"] == "true" and known.json() == {"sent": "b"}
    assert cluster.sent() == {"a": 1, "b": 1}
    resolved = await http.post(f"http://127.0.0.1:{cluster.ports[2]}/resolve")
    assert resolved.json() == ["a"]
    again = await send("a", 2)
    assert again is not None and again.status_code == 201
    cluster.revive()
    assert cluster.kills == 2 and cluster.sent() == {"a": 2, "b": 1}


async def test_the_rest_of_the_kill_matrix_has_one_effect_and_one_answer(
    cluster: Cluster, http: httpx.AsyncClient
) -> None:
    """Before the claim, after it, mid-answer; then the retry at another instance and at the same
    one. (After the effect and after the commit: the tests around this one.)"""
    for number, die in enumerate(("before", "claim", "middle")):
        for path in ("/charges", "/mails"):
            key = f"{die}-{path[1:]}"
            headers = {"idempotency-key": f'"{key}"'}
            sent: Any = {"json": {"name": key}}
            dead = await post(cluster, http, number, path, headers={**headers, "die": die}, **sent)
            assert dead is None
            await asyncio.to_thread(cluster.died, number)
            if (die, path) == ("claim", "/mails"):
                await unknown_until_resolved(cluster, http, key)
            other = await insisting(cluster, http, number + 1, path, headers=headers, **sent)
            cluster.revive()
            same = await insisting(cluster, http, number, path, headers=headers, **sent)
            assert (other.status_code, other.content) == (same.status_code, same.content)
            assert other.status_code == (200 if path == "/charges" else 201)
            assert same.headers["idempotent-replayed"] == "true"
            assert ("idempotent-replayed" in other.headers) == (die == "middle")
            wrong = await post(
                cluster, http, number, path, headers=headers, json={"name": "another"}
            )
            assert wrong is not None and wrong.status_code == 422
    found = await http.get(f"http://127.0.0.1:{cluster.ports[0]}/charges")
    deaths = ("before", "claim", "middle")
    mine = {key: n for key, n in found.json().items() if key.endswith("-charges")}
    assert mine == {f"{die}-charges": 1 for die in deaths}  # the table is everybody's
    assert cluster.sent() == {f"{die}-mails": 1 for die in deaths} and cluster.kills == 6


async def unknown_until_resolved(cluster: Cluster, http: httpx.AsyncClient, key: str) -> None:
    """Nobody knows whether the mail was sent: an operator, who does, says that it was not."""
    headers, until = {"idempotency-key": f'"{key}"'}, time.monotonic() + SECONDS
    while time.monotonic() < until:
        said = await post(cluster, http, 0, "/mails", json={"name": key}, headers=headers)
        if said is not None and said.json()["type"].endswith("request-outcome-unknown"):
            break
        await asyncio.sleep(0.05)
    assert said is not None and said.status_code == 409 and cluster.sent()[key] == 0
    resolved = await post(cluster, http, 0, "/resolve")
    assert resolved is not None and resolved.json() == [key]


async def test_no_attribute_is_lost_and_a_logout_wins_over_kills(
    cluster: Cluster, http: httpx.AsyncClient
) -> None:
    def cookie(response: httpx.Response) -> str:
        return response.headers["set-cookie"].partition(";")[0]

    first = await post(cluster, http, 0, "/put", json={"start": 1})
    assert first is not None
    anonymous = {"cookie": cookie(first)}
    http.cookies.clear()
    # A login that is committed and whose answer is lost: the old id is dead, and no one has the new
    lost = await post(cluster, http, 0, "/login", headers=anonymous | {"die": "answer"})
    assert lost is None
    cluster.died(0)
    seen = await http.get(f"http://127.0.0.1:{cluster.ports[1]}/", headers=anonymous)
    assert seen.json() == {"who": "", "data": {}}
    cluster.revive()
    login = await post(cluster, http, 1, "/login")
    assert login is not None
    signed_in = {"cookie": cookie(login)}
    http.cookies.clear()
    asked = []
    for number in range(100):
        headers = signed_in | ({"die": "answer"} if number == 31 else {})
        asked.append(
            insisting(cluster, http, number, "/put", json={f"a{number}": number}, headers=headers)
        )
    answers = await asyncio.gather(*asked)
    assert {one.status_code for one in answers} == {200}
    cluster.revive()
    url = f"http://127.0.0.1:{cluster.ports[2]}/"
    data = (await http.get(url, headers=signed_in)).json()["data"]
    assert {name: data.get(name) for name in (f"a{n}" for n in range(100))} == {
        f"a{n}": n for n in range(100)
    }
    saves = [
        post(cluster, http, number % 3, "/put", json={"late": number}, headers=signed_in)
        for number in range(60)
    ]
    logout = post(cluster, http, 1, "/logout", headers=signed_in | {"die": "answer"})
    await asyncio.gather(*saves[:20], logout, *saves[20:])
    cluster.died(1)
    seen = await http.get(url, headers=signed_in)
    assert seen.json() == {"who": "", "data": {}}
    after = await post(cluster, http, 0, "/put", json={"zombie": 1}, headers=signed_in)
    assert after is not None and cookie(after) != signed_in["cookie"]
    assert (await http.get(url, headers=signed_in)).json() == {"who": "", "data": {}}
    cluster.revive()
    assert cluster.kills == 3
