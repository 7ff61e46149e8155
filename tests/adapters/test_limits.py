"""`limits`, slowapi and Flask-Limiter with their counts in our stores."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from flask import Flask
from flask_limiter import Limiter as FlaskLimiter
from limits import RateLimitItemPerMinute, aio, strategies
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from slowapi import Limiter as SlowLimiter
from slowapi.errors import RateLimitExceeded

from outlive import Outlive, OutliveError
from outlive.adapters.limits import AsyncOutliveStorage, OutliveStorage

SYNC = (
    strategies.FixedWindowRateLimiter,
    strategies.MovingWindowRateLimiter,
    strategies.SlidingWindowCounterRateLimiter,
)
ASYNC = (
    aio.strategies.FixedWindowRateLimiter,
    aio.strategies.MovingWindowRateLimiter,
    aio.strategies.SlidingWindowCounterRateLimiter,
)
STORES = ("memcached", "postgres", "sqlite", "valkey")


@pytest.fixture
def storage(address: str) -> Iterator[OutliveStorage]:
    made: Any = storage_from_string(f"outlive+{address}")
    yield made
    made._counts.face.close(1)


@pytest.mark.parametrize("strategy", SYNC)
@pytest.mark.parametrize("address", STORES, indirect=True)
def test_every_strategy_admits_what_the_rule_says(
    storage: OutliveStorage, strategy: type[strategies.RateLimiter]
) -> None:
    limiter, rule = strategy(storage), RateLimitItemPerMinute(3)
    assert [limiter.hit(rule, "ada") for _ in range(4)] == [True, True, True, False]
    assert not limiter.test(rule, "ada") and limiter.hit(rule, "bob", cost=3)
    stats = limiter.get_window_stats(rule, "ada")
    assert stats.remaining == 0 and 0 <= stats.reset_time - time.time() <= 61
    limiter.clear(rule, "ada")
    assert limiter.hit(rule, "ada") and not limiter.hit(rule, "bob")
    assert storage.check()


@pytest.mark.parametrize("strategy", ASYNC)
@pytest.mark.parametrize("address", ["sqlite"], indirect=True)
def test_the_same_awaited_in_a_loop_of_any_kind(
    address: str, strategy: type[aio.strategies.RateLimiter]
) -> None:
    storage: Any = storage_from_string(f"async+outlive+{address}")

    async def ask() -> list[bool]:
        limiter, rule = strategy(storage), RateLimitItemPerMinute(50)
        tried = await asyncio.gather(*(limiter.hit(rule, "ada") for _ in range(100)))
        assert (await limiter.get_window_stats(rule, "ada")).remaining == 0
        assert await storage.check()
        await limiter.clear(rule, "ada")
        return [*tried, await limiter.hit(rule, "ada")]

    for _ in range(2):  # another loop each
        said = asyncio.run(ask())
        assert sum(said) == 51 and said[-1]
        asyncio.run(storage.reset())
    storage._counts.face.close(1)


async def test_in_the_loop_of_an_open_application_nothing_is_handed_over() -> None:
    app = Outlive("memory://")
    storage = AsyncOutliveStorage(app=app)
    async with app:
        limiter = aio.strategies.MovingWindowRateLimiter(storage)
        assert await limiter.hit(RateLimitItemPerMinute(1), "ada")
        assert not await limiter.hit(RateLimitItemPerMinute(1), "ada")
        assert app.blocking()._own is None, "no thread was made"
        other = strategies.MovingWindowRateLimiter(OutliveStorage(app=app))
        assert not await asyncio.to_thread(other.hit, RateLimitItemPerMinute(1), "ada")
        assert await asyncio.to_thread(OutliveStorage(app=app, group="mine").get, "x") == 0


PROGRAM = """
import sys
import outlive.adapters.limits
from limits import RateLimitItemPerMinute, strategies
from limits.storage import storage_from_string

address, *names = sys.argv[1:]
storage = storage_from_string(address)
print("ready", flush=True)
sys.stdin.readline()
for name in names:
    limiter = getattr(strategies, name)(storage)
    print(sum(limiter.hit(RateLimitItemPerMinute(70), name) for _ in range(50)), flush=True)
"""


@pytest.mark.parametrize("address", ["sqlite"], indirect=True)
def test_three_processes_admit_together_what_one_may(address: str) -> None:
    names = [strategy.__name__ for strategy in SYNC]
    words = [sys.executable, "-c", PROGRAM, f"outlive+{address}", *names]
    while time.time() % 60 > 35:  # a sliding window that turns meanwhile would admit more, rightly
        time.sleep(0.1)
    nodes = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for node in nodes:
        assert node.stdout is not None and node.stdout.readline() == "ready\n"
    with ThreadPoolExecutor(3) as threads:
        said = [out for out, _ in threads.map(lambda node: node.communicate("go\n", 60), nodes)]
    sums = [sum(map(int, counts)) for counts in zip(*map(str.split, said), strict=True)]
    assert sums == [70, 70, 70], said


@pytest.mark.parametrize("address", ["sqlite"], indirect=True)
def test_flask_limiter_counts_in_the_store(address: str) -> None:
    def site() -> Any:
        app = Flask(__name__)
        limiter = FlaskLimiter(
            lambda: "ada", app=app, storage_uri=f"outlive+{address}", headers_enabled=True,
            strategy="moving-window",
        )  # fmt: skip

        @app.get("/")
        @limiter.limit("3/minute")
        def index() -> str:
            return "hello"

        return app.test_client()

    one, other = site(), site()
    answers = [client.get("/") for client in (one, other, one, other)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[2].headers["X-RateLimit-Remaining"] == "0"


@pytest.mark.filterwarnings("ignore:'asyncio.iscoroutinefunction':DeprecationWarning")  # slowapi's
@pytest.mark.parametrize("address", ["sqlite"], indirect=True)
async def test_slowapi_counts_in_the_store(address: str) -> None:
    limiter = SlowLimiter(key_func=lambda request: "ada", storage_uri=f"outlive+{address}")
    api = FastAPI()
    api.state.limiter = limiter

    @api.exception_handler(RateLimitExceeded)
    async def refused(request: Request, error: RateLimitExceeded) -> Any:
        from fastapi.responses import JSONResponse

        return JSONResponse({"detail": error.detail}, 429)

    @api.get("/")
    @limiter.limit("2/minute")
    def index(request: Request) -> str:  # in a thread: slowapi asks synchronously
        return "hello"

    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://t") as client:
        assert [(await client.get("/")).status_code for _ in range(3)] == [200, 200, 429]


def test_a_store_that_is_gone_is_an_error_that_the_library_knows(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("no folder")
    broken = f"outlive+sqlite:///{tmp_path}/file/limits.db"
    plain: Any = storage_from_string(broken)
    wrapped: Any = storage_from_string(broken, wrap_exceptions=True)
    with pytest.raises(OutliveError):
        plain.incr("a", 60)
    with pytest.raises(StorageError):
        wrapped.incr("a", 60)


@pytest.mark.parametrize(
    ("uri", "options", "said"),
    [
        ("outlive://", {}, "app"),
        ("outlive+memory://", {"group": "a/b"}, "group"),
        ("outlive+memory://", {"storage": "solid"}, "storage"),
        ("async+outlive://", {}, "app"),
        ("outlive+mysql://host/db", {}, "unknown storage scheme"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(uri: str, options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        storage_from_string(uri, **options)


@pytest.mark.parametrize("address", ["memcached"], indirect=True)
def test_memcached_cannot_be_reset_and_says_so(storage: OutliveStorage) -> None:
    with pytest.raises(NotImplementedError):
        storage.reset()


@pytest.mark.parametrize("address", ["valkey"], indirect=True)
def test_reset_forgets_this_group_only(storage: OutliveStorage, address: str) -> None:
    other: Any = storage_from_string(f"outlive+{address}", group="other")
    for n in range(5):
        storage.incr(f"k{n}", 60)
    other.incr("k", 60)
    assert storage.reset() == 5 and storage.get("k0") == 0 and other.get("k") == 1
    other._counts.face.close(1)
