"""The shop on three real workers, killed in the middle: what was promised is counted afterwards."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from tests.postgres_server import end_with_tests, free_port

from outlive import ids

pytestmark = pytest.mark.crash

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 60.0
ARTICLES = ("cup", "honey", "milk", "tea")
OPEN = "OL5601"


async def until(ask: Callable[[], Awaitable[Any]], what: str) -> Any:
    """The first true answer of `ask`, within the deadline."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not (found := await ask()):
        assert time.monotonic() < end, f"{what}: not within {DEADLINE_SECONDS:g} s"
        await asyncio.sleep(0.05)
    return found


class Shop:
    """`make shop`, and clients that insist."""

    def __init__(self, folder: Path, store: str) -> None:
        self.url, self.said = f"http://127.0.0.1:{free_port()}", folder / "said"
        path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
        environment = os.environ | {"PORT": self.url.rpartition(":")[2], "PYTHONPATH": path}
        environment |= {"OUTLIVE_STORE": store} if store else {}
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "examples.shop.run"], cwd=folder, env=environment,
                stdout=said, stderr=subprocess.STDOUT,
                preexec_fn=lambda: end_with_tests(signal.SIGTERM),
            )  # fmt: skip
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)
        self.http = httpx.AsyncClient(base_url=self.url, timeout=DEADLINE_SECONDS, limits=limits)
        self.partner = httpx.AsyncClient(timeout=DEADLINE_SECONDS)
        self.kills_after: list[int] = []
        self.answers = 0
        self.kills = 0

    async def ready(self) -> bool:
        said = self.said.read_text()
        assert self.process.poll() is None, said
        found = re.search(r"partner ready on (\S+)\n", said)
        self.partner.base_url = httpx.URL(found[1] if found else "")
        return bool(found and "End  " in said)

    async def end(self) -> None:
        await self.http.aclose()
        await self.partner.aclose()
        self.process.terminate()
        assert await asyncio.to_thread(self.process.wait, DEADLINE_SECONDS) == 0

    async def once(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """One answer; None when the connection broke. Some answers are the last of their worker."""
        self.http.cookies.clear()
        try:
            found = await self.http.request(method, path, **request)
        except httpx.TransportError:
            return None
        self.answers += 1
        if (
            self.kills_after
            and self.answers >= self.kills_after[0]
            and "served-by" in found.headers
        ):
            self.kill(int(found.headers["served-by"]))
        return found

    def kill(self, worker: int) -> None:
        """End a worker, unless it is dead already."""
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
            self.kills += 1
            del self.kills_after[:1]

    async def insist(self, method: str, path: str, **request: Any) -> httpx.Response:
        """What a client that retries gets in the end."""

        async def asked() -> httpx.Response | None:
            found = await self.once(method, path, **request)
            return found if found is not None and found.status_code < 500 else None

        answer: httpx.Response = await until(asked, f"{method} {path}")
        return answer

    async def sign_in(self, name: str) -> dict[str, str]:
        """The headers of a browser in which `name` has signed in."""
        form = {"name": name, "password": "sesame"}
        answer = await self.insist("POST", "/login", json=form)
        assert answer.status_code == 200, answer.text
        return {"cookie": answer.headers["set-cookie"].partition(";")[0]}

    async def workers(self, path: str, count: int = 3) -> dict[int, httpx.Response]:
        """An answer of each of `count` workers."""
        found: dict[int, httpx.Response] = {}

        async def enough() -> bool:
            asked = await asyncio.gather(*(self.once("GET", path) for _ in range(9)))
            found.update({int(one.headers["served-by"]): one for one in asked if one})
            return len(found) >= count

        await until(enough, f"{count} workers")
        return found


@asynccontextmanager
async def running(folder: Path, store: str = "") -> AsyncIterator[Shop]:
    shop = Shop(folder, store)
    try:
        await until(shop.ready, "the shop is ready")
        yield shop
    finally:
        await shop.end()


@pytest.fixture(params=["postgres", "sqlite"])
def store(request: pytest.FixtureRequest) -> str:
    """The address of a store; a database of its own, because the shop's tables have plain names."""
    if request.param == "sqlite":
        return ""
    server, name = request.getfixturevalue("postgres"), f"shop_{ids.token(40)}"

    async def make() -> None:
        connection = await asyncpg.connect(server)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    asyncio.run(make())
    return urlsplit(server)._replace(path=f"/{name}").geturl()


async def buy(shop: Shop, name: str) -> list[httpx.Response]:
    """Fill a cart by requests that overlap, and order it three times at once under one key."""
    browser = await shop.sign_in(name)
    puts = (
        shop.insist("PUT", f"/cart/{article}", json={"count": n}, headers=browser)
        for n, article in enumerate(ARTICLES, 1)
    )
    assert {one.status_code for one in await asyncio.gather(*puts)} == {200}
    cart = await shop.insist("GET", "/cart", headers=browser)
    assert cart.json() == {article: n for n, article in enumerate(ARTICLES, 1)}
    key = browser | {"idempotency-key": f'"of-{name}"'}
    return await asyncio.gather(*(shop.insist("POST", "/orders", headers=key) for _ in range(3)))


async def test_no_order_is_doubled_or_lost(store: str, tmp_path: Path) -> None:
    async with running(tmp_path, store) as shop:
        await shop.partner.put("/mood", json={"seconds": 0.05})
        shop.kills_after = [20, 90, 150, 200]  # of about 40 × (1 + 4 + 1 + 3) answers
        names = [f"customer {n}" for n in range(40)]
        T=time.monotonic()
        answers = await asyncio.gather(*(buy(shop, name) for name in names))
        print("bought", time.monotonic()-T)
        assert shop.kills == 4
        orders = {}
        for name, (first, *others) in zip(names, answers, strict=True):
            assert first.status_code == 201, first.text
            assert {one.content for one in others} == {first.content}
            assert {one.headers["location"] for one in (first, *others)} == {
                f"/orders/{first.json()['id']}"
            }
            orders[first.json()["id"]] = name
        assert len(orders) == 40

        async def settled() -> bool:
            ledger = (await shop.partner.get("/ledger")).json()["payments"]
            return {line["key"] for line in ledger} == set(orders)

        await until(settled, "each order is paid, and nothing else")
        print("settled", time.monotonic()-T)
        ledger = (await shop.partner.get("/ledger")).json()["payments"]
        assert {line["effects"] for line in ledger} == {1} and len(ledger) == 40
        for n, article in enumerate(ARTICLES, 1):

            async def counted(article: str = article, left: int = 1000 - 40 * n) -> bool:
                page = await shop.insist("GET", f"/products/{article}")
                return bool(page.json()["stock"] == left)

            await until(counted, f"{article}: what was ordered is what is gone")
        id, name = next(iter(orders.items()))
        browser = await shop.sign_in(name)

        async def paid() -> bool:
            order = await shop.insist("GET", f"/orders/{id}", headers=browser)
            return bool(order.json()["state"] == "paid")

        await until(paid, "the order says so")
        other = await shop.sign_in("somebody")
        assert (await shop.insist("GET", f"/orders/{id}", headers=other)).status_code == 404
