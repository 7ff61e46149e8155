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
from tests.ports import free_port
from tests.postgres_server import end_with_tests

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
            asked = await asyncio.gather(*(self.once("GET", path) for _ in range(24)))
            found.update({int(one.headers["served-by"]): one for one in asked if one})
            return len(found) >= count

        await until(enough, f"{count} workers")
        return found


def children(parent: int, word: str) -> list[int]:
    """The processes that `parent` has started, of those in whose command the word stands."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            status = (place / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == parent and word in (place / "cmdline").read_text():
                found.append(int(place.name))
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
        shop.kills_after = [10, 40, 80, 110]  # of about 25 × (1 + 4 + 1 + 3) answers
        names = [f"customer {n}" for n in range(25)]
        answers = await asyncio.gather(*(buy(shop, name) for name in names))
        assert shop.kills >= 3
        orders = {}
        for name, (first, *others) in zip(names, answers, strict=True):
            assert first.status_code == 201, first.text
            assert {one.content for one in others} == {first.content}
            assert {one.headers["location"] for one in (first, *others)} == {
                f"/orders/{first.json()['id']}"
            }
            orders[first.json()["id"]] = name
        assert len(orders) == 25

        async def settled() -> bool:
            ledger = (await shop.partner.get("/ledger")).json()["payments"]
            return {line["key"] for line in ledger} == set(orders)

        await until(settled, "each order is paid, and nothing else")
        ledger = (await shop.partner.get("/ledger")).json()["payments"]
        assert {line["effects"] for line in ledger} == {1} and len(ledger) == 25
        for n, article in enumerate(ARTICLES, 1):

            async def counted(article: str = article, left: int = 1000 - 25 * n) -> bool:
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


async def test_limits_hold_over_three_workers_and_no_logout_is_undone(tmp_path: Path) -> None:
    async with running(tmp_path) as shop:
        began = time.monotonic()
        shop.kills_after = [20]
        guesses = await asyncio.gather(
            *(
                shop.once("POST", "/login", json={"name": "eve", "password": "x"})
                for _ in range(60)
            ),
            *(shop.once("GET", "/search?q=te") for _ in range(60)),
        )
        took = time.monotonic() - began
        statuses = [[one.status_code for one in found if one is not None]
                    for found in (guesses[:60], guesses[60:])]  # fmt: skip
        assert shop.kills == 1 and 401 in statuses[0] and 200 in statuses[1]
        assert {*statuses[0], *statuses[1]} <= {200, 401, 429, 503}  # 503: the store was too slow
        assert statuses[0].count(401) <= 5 + took * 5 / 60
        assert statuses[1].count(200) <= 5 + took * 5
        again = await shop.insist("POST", "/login", json={"name": "eve", "password": "sesame"})
        assert again.status_code == 429 and int(again.headers["retry-after"]) >= 1

        browser, phone = await shop.sign_in("ada"), await shop.sign_in("ada")
        await shop.insist("PUT", "/cart/tea", json={"count": 1}, headers=browser)
        puts = [
            shop.once("PUT", f"/cart/{ARTICLES[n % 4]}", json={"count": n + 1}, headers=browser)
            for n in range(60)
        ]
        shop.kills_after = [shop.answers + 30]
        out = shop.insist("POST", "/logout", headers=browser)
        saved = await asyncio.gather(*puts[:30], out, *puts[30:])
        assert {one.status_code for one in saved if one is not None} <= {200, 401}

        async def is_signed_in(headers: dict[str, str]) -> bool:
            order = await shop.insist("GET", "/orders/any", headers=headers)
            return order.status_code == 404

        assert not await is_signed_in(browser) and await is_signed_in(phone)

        async def all_three() -> list[int]:
            workers = children(children(shop.process.pid, "serve")[0], "worker")
            return workers if len(workers) == 3 else []

        for worker in await until(all_three, "those that were killed are replaced"):
            shop.kill(worker)
        assert await is_signed_in(phone)
        await shop.insist("POST", "/logout-everywhere", headers=phone)
        for _ in range(9):
            assert not await is_signed_in(phone) and not await is_signed_in(browser)
        cart = await shop.insist("GET", "/cart", headers=browser)
        assert cart.json() == {}
        kept = await shop.insist("POST", "/login", json={"name": "eve", "password": "sesame"})
        allowed = 5 + (time.monotonic() - began) * 5 / 60
        assert kept.status_code == 429 or allowed > 6  # the dead have taken nothing along


def typed(page: str) -> list[tuple[str, str]]:
    """The commands of a page's consoles, each with what it prints."""
    found = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    lines = "".join(found).split("\n$ ")
    lines[0] = lines[0].removeprefix("$ ")
    return [(one.partition("\n")[0], one.partition("\n")[2].strip()) for one in lines]


def is_like(said: str, wanted: str) -> bool:
    """Whether `said` is `wanted`, whose … stands for anything."""
    pattern = ".*".join(re.escape(part) for part in wanted.split("…"))
    return re.fullmatch(pattern, said.strip(), re.DOTALL) is not None


async def test_the_page_says_what_curl_says_and_a_breaker_is_open_for_all(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "shop.md").read_text("utf-8")
    async with running(tmp_path) as shop:
        commands = typed(page)
        assert len(commands) == 22
        for command, wanted in commands:
            if "/logout-everywhere" in command:  # the partner is down now
                await left_alone(shop)
            here = command.replace("http://127.0.0.1:8000", shop.url)
            ran = await asyncio.create_subprocess_exec(
                "bash", "-c", here, stdout=subprocess.PIPE, cwd=tmp_path,
                env=os.environ | {"PARTNER": str(shop.partner.base_url).rstrip("/")},
            )  # fmt: skip
            said = (await ran.communicate())[0].decode().replace("\r\n", "\n")
            assert is_like(said, wanted), f"{command}\n{said}"


async def left_alone(shop: Shop) -> None:
    """The breaker that one worker has opened is open on all of them, also on one that starts."""

    async def asked() -> int:
        found: int = (await shop.partner.get("/ledger")).json()["asked"]
        return found

    async def all_refuse() -> bool:
        answers = await shop.workers("/payment-methods")
        return {one.json().get("code") for one in answers.values()} == {OPEN}

    await until(all_refuse, "it is open on all workers")
    before, workers = await asked(), await shop.workers("/payment-methods")
    shop.kill(min(workers))

    async def another() -> bool:
        found = await shop.workers("/payment-methods")
        assert {one.json()["code"] for one in found.values()} == {OPEN}
        return bool(found.keys() - workers.keys())

    await until(another, "another worker is in its place")
    assert await asked() == before
