"""What every request pays: rate limiter hits, sessions and idempotency keys, beside peers.

128 askers hit 100 keys as fast as they are answered, under a limit that admits them all (a refusal
is cheaper: here it is remembered). Ours decides by GCRA; `limits` by its fixed window, which is its
cheapest, on `redis.asyncio` with hiredis, and in memory. Each is measured in an interpreter of its
own, in turn, on the same servers, which goes through its garbage as `outlive serve` has it (the
young after 10,000, not what was there when the work began); shown is the median over the rounds of
hits a second and of the client's CPU for a hit, and the ratio within a round. PostgreSQL and SQLite
flush as they do for a service; what is `volatile` or `relaxed` does not wait for it. The peers keep
what they keep in Redis, where a kill or a power loss may take it: that is what their figures buy.

    make bench-requests                  three rounds; WRITE=1 puts them into docs/benchmarks.md
    bench/requests.py --rounds 1         does it run at all?
    bench/requests.py --only post        names with that in them: session, once, post, redis …
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from page import measured, say, short, table, write

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "bench" / ".venv-requests" / "bin" / "python"
ASKERS = 128
KEYS = 100
SECONDS = 2.0
YOUNG_OBJECTS = 10_000
OURS = ("local", "sqlite", "postgres", "redis", "redis-ahead", "redis-one-key")
THEIRS = ("limits-memory", "limits-redis", "limits-redis-one-key")
BARS = (
    ("redis", "limits-redis"),
    ("redis-ahead", "limits-redis"),
    ("redis-one-key", "limits-redis-one-key"),
    ("local", "limits-memory"),
    ("session-read-redis", "starsessions-read-redis"),
    ("session-save-redis", "starsessions-save-redis"),
    ("session-save-sqlite", "starsessions-save-redis"),
    ("post-sqlite", "post-header-redis"),
    ("post-sqlite", "post-idemkit-redis"),
    ("post-transact-sqlite", "post-header-redis"),
    ("post-transact-sqlite", "post-idemkit-redis"),
    ("post-replayed-sqlite", "post-header-replayed-redis"),
)
POSTS = ("post-sqlite", "post-transact-sqlite", "post-replayed-sqlite")
POSTS_OF_PEERS = ("post-header-redis", "post-idemkit-redis", "post-header-replayed-redis")
"""One POST with an `Idempotency-Key` through the ASGI application, the middleware around a handler
that answers a little JSON. Each has a key of its own, but in those that are replayed. In
`transact` the handler writes a row of its own in the commit of the record."""
SESSIONS_OF_PEERS = ("starsessions-read-redis", "starsessions-save-redis")
PEERS = (*THEIRS, *SESSIONS_OF_PEERS, *POSTS_OF_PEERS)
KEYED = (
    "session-read-sqlite", "session-read-postgres", "session-read-redis",
    "session-save-sqlite", "session-save-postgres", "session-save-redis",
    "once-sqlite", "once-postgres", "once-replayed-sqlite", "once-replayed-postgres",
)  # fmt: skip
"""Sessions (load; load and save an attribute of one of `KEYS`) and idempotency keys (claim and
record a new one; give an answer again). What is counted is done durably, but for those on
Redis."""
Hit = Callable[[str], Awaitable[Any]]


# --- one of them, in its own interpreter ----------------------------------------------------------


async def ours(name: str, address: str) -> Hit:
    from outlive import Outlive, Quota

    options: dict[str, Any] = {"timeout_seconds": 30, "on_failure": "closed"}
    own = "memory://"
    if name == "local":
        options["scope"] = "local"
    elif name.startswith("redis"):
        options["cells"] = address
    else:
        own = address
    if name == "redis-ahead":
        options |= {"scope": "hybrid", "ahead": 100}
    app = Outlive(own)
    limits = app.ratelimits(Quota("bench", 100_000_000, per_seconds=60), **options)
    await app.open_client()
    return limits.hit


async def keyed(name: str, address: str) -> Hit:
    from msgspec import Raw

    from outlive import Outlive, ids
    from outlive.doors.sessions import draw
    from outlive.kinds.sessions.visit import Change

    redis = name.endswith("redis")
    app = Outlive("memory://" if redis else address)
    await app.open_client()
    if name.startswith("once"):
        drawn = not name.startswith("once-replayed")

        async def once(key: str) -> bool:
            async with app.once("bench", ids.token() if drawn else key) as claim:
                if not claim.replayed:
                    claim.finish({"n": 1})
            return True

        if not drawn:
            for number in range(KEYS):
                await once(f"user {number}")
        return once
    sessions = app.sessions(**({"cells": address, "storage": "volatile"} if redis else {}))
    made: dict[str, str] = {}
    for number in range(KEYS):
        made[f"user {number}"] = fresh = draw()
        first = {"cart": Raw(b"[1,2,3]")}
        change = Change(first, (), {}, "", f"user {number}", True, False, False, "", fresh)
        await sessions.settle(None, change)
    save, n = name.startswith("session-save"), 0

    async def session(key: str) -> bool:
        nonlocal n
        held = await sessions.load(made[key])
        if save and held is not None:
            n += 1
            data = {"n": Raw(b"%d" % n)}
            await sessions.settle(held, Change(data, (), {}, key, key, False, False, False, "", ""))
        return held is not None

    return session


async def theirs(name: str, address: str) -> Hit:
    from limits import parse
    from limits.aio.storage import MemoryStorage, RedisStorage
    from limits.aio.strategies import FixedWindowRateLimiter

    storage: Any = MemoryStorage()
    if name != "limits-memory":
        plain = {"implementation": "redispy", "max_connections": 2 * ASKERS}
        storage = RedisStorage(f"async+{address}", **plain)
    limiter, item = FixedWindowRateLimiter(storage), parse("100000000/minute")

    async def hit(key: str) -> bool:
        return await limiter.hit(item, key)

    return hit


async def starsessions(name: str, address: str) -> Hit:
    """What its middleware does for a request: read and decode; encode and write."""
    from redis.asyncio import BlockingConnectionPool, Redis
    from starsessions import JsonSerializer, generate_session_id
    from starsessions.stores.redis import RedisStore

    pool = BlockingConnectionPool.from_url(address, max_connections=2 * ASKERS)
    store, serializer = RedisStore(connection=Redis(connection_pool=pool)), JsonSerializer()
    ids = {f"user {number}": generate_session_id() for number in range(KEYS)}
    for key, id in ids.items():
        await store.write(id, serializer.serialize({"cart": [1, 2, 3], "who": key}), 3600, 3600)
    save, n = "save" in name, 0

    async def session(key: str) -> bool:
        nonlocal n
        held = serializer.deserialize(await store.read(ids[key], 3600))
        if save:
            n += 1
            held["n"] = n
            await store.write(ids[key], serializer.serialize(held), 3600, 3600)
        return bool(held)

    return session


async def posts(name: str, address: str) -> Hit:
    """POST through the application, as a server calls it."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def charge(request: Request) -> JSONResponse:
        return JSONResponse({"charged": (await request.json())["cents"]}, 201)

    app: Any = Starlette(routes=[Route("/charges", charge, methods=["POST"])])
    if name in POSTS_OF_PEERS:
        app = plain_middleware(name, address, app)
    else:
        app = await our_middleware(name, address, app)
    body, number, fresh = b'{"cents": 300}', 0, "replayed" not in name
    drawn = secrets.token_hex(8)  # or a later round would find the keys of an earlier one answered

    async def charged(key: str) -> bool:
        nonlocal number
        number += 1
        sent = f"{key} {number} {drawn}" if fresh else key
        headers = [
            (b"host", b"bench"), (b"content-type", b"application/json"),
            (b"content-length", b"14"), (b"idempotency-key", b'"%b"' % sent.encode()),
        ]  # fmt: skip
        scope = {
            "type": "http", "method": "POST", "path": "/charges", "raw_path": b"/charges",
            "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
            "client": ("127.0.0.1", 1), "server": ("bench", 80), "headers": headers,
        }  # fmt: skip
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        await app(scope, receive, send)
        return status in (200, 201)

    for known in (f"user {n}" for n in range(0 if fresh else KEYS)):
        await charged(known)
    return charged


def plain_middleware(name: str, address: str, app: Any) -> Any:
    from redis.asyncio import BlockingConnectionPool, Redis

    pool = BlockingConnectionPool.from_url(address, max_connections=2 * ASKERS)
    if "idemkit" in name:
        from idemkit import HttpConfig, IdempotencyMiddleware, RedisBackend

        config = HttpConfig(scope_mode="single_tenant")
        backend = RedisBackend(Redis(connection_pool=pool))
        return IdempotencyMiddleware(app, backend=backend, config=config)
    from idempotency_header_middleware import IdempotencyHeaderMiddleware
    from idempotency_header_middleware.backends import RedisBackend as Backend

    return IdempotencyHeaderMiddleware(app, backend=Backend(Redis(connection_pool=pool)))


async def our_middleware(name: str, address: str, app: Any) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from outlive import Outlive
    from outlive.web.requests import Rule, once_of

    outlive = Outlive(address)
    transact = "transact" in name

    def book(tables: Any, cents: int) -> dict[str, int]:
        tables.execute("INSERT INTO charge VALUES (?)", (cents,))
        return {"charged": cents}

    async def charge(request: Request) -> Response:
        await once_of(request).transact(book, (await request.json())["cents"])
        return Response(status_code=201)

    if transact:
        app = Starlette(routes=[Route("/charges", charge, methods=["POST"])])
    await outlive.open_client()
    if transact:
        await outlive.transact(
            lambda tables: tables.execute("CREATE TABLE IF NOT EXISTS charge (cents INT)")
        )
    rule = Rule(route="POST /charges", mode="transactional" if transact else "at-most-once")
    return outlive.requests().asgi(app, rule)


def maker_of(name: str) -> Callable[[str, str], Awaitable[Hit]]:
    if "post-" in name:
        return posts
    if name in SESSIONS_OF_PEERS:
        return starsessions
    return keyed if name in KEYED else ours if name in OURS else theirs


async def measure(name: str, address: str) -> dict[str, float]:
    hit = await maker_of(name)(name, address)
    keys = ["ada"] if name.endswith("one-key") else [f"user {n}" for n in range(KEYS)]
    count, ends = 0, 0.0

    async def ask(number: int) -> None:
        nonlocal count
        while time.perf_counter() < ends:
            for _ in range(8):
                number += 1
                assert await hit(keys[number % len(keys)])
            count += 8

    for seconds in (0.3, SECONDS):  # the first time to warm up
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
        count, ends = 0, time.perf_counter() + seconds
        began, spent = time.perf_counter(), _cpu()
        await asyncio.gather(*(ask(number) for number in range(ASKERS)))
    took, spent = time.perf_counter() - began, _cpu() - spent
    return {"hits": count / took, "cpu_us": spent / count * 1e6}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# --- all of them, in turn -------------------------------------------------------------------------


def run(name: str, address: str) -> dict[str, float]:
    program = str(PEER) if name in PEERS and PEER.exists() else sys.executable
    command = [program, __file__, "--one", name, address]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def compare(rounds: int, only: str) -> tuple[list[str], list[dict[str, dict[str, float]]]]:
    """The names that were measured, and what was found of them in each round."""
    sys.path.insert(0, str(ROOT))
    from tests.cell_servers import valkey_server
    from tests.postgres_server import running_server

    valkey = valkey_server()
    valkey.start()
    names = [name for name in (*OURS, *POSTS, *KEYED, *PEERS) if only in name]
    found: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder, running_server("fsync=on") as postgres:
        places = {"sqlite": f"sqlite:///{folder}/store.db", "postgres": postgres}
        for number in range(rounds):
            found.append({})
            for name in names:
                say(f"round {number + 1}: {name}")
                place = places.get(name.rpartition("-")[2], valkey.address)
                found[-1][name] = run(name, place)
    valkey.kill()
    say("")
    return names, found


def shown(names: list[str], found: list[dict[str, dict[str, float]]]) -> str:
    """Two tables: the medians, and what is ours to a peer's."""
    rows = [["", "a second", "CPU µs each"]]
    for name in names:
        hits, spent = (median(one[name][what] for one in found) for what in ("hits", "cpu_us"))
        rows.append([name, short(hits), short(spent)])
    ratios = [["", "ratio", "in each round"]]
    for mine, other in BARS:
        if mine in names and other in names:
            each = sorted(one[mine]["hits"] / one[other]["hits"] for one in found)
            listed = ", ".join(f"{ratio:.1f}" for ratio in each)
            ratios.append([f"{mine} ÷ {other}", f"× {short(median(each))}", listed])
    return table(rows) + ("\n\n" + table(ratios) if len(ratios) > 1 else "")


WHAT = """\
{measured}. {askers} askers in one process on uvloop, and {keys} keys (or one); median of {rounds}
rounds in which all take turns, ratios taken within a round. SQLite and PostgreSQL flush each
commit; Redis is a Valkey without an append-only file. `post` is one POST with an
`Idempotency-Key` through the ASGI application: `at-most-once`, `transact` with a row of the
handler's own in the commit, `replayed` with the same keys again; `header` is
asgi-idempotency-header 0.2.0, `idemkit` idemkit 1.0.2. `limits` is 5.8.0 with a fixed window,
starsessions 2.2.1."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="names with this in them")
    parser.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "ADDRESS"))
    given = parser.parse_args()
    if given.one:
        import uvloop  # in both interpreters: services run on it

        print(json.dumps(uvloop.run(measure(*given.one))))
        return
    if given.write and given.only:
        parser.error("--write writes the whole section: leave --only out")
    names, found = compare(given.rounds, given.only)
    text = shown(names, found)
    print(text, f"\n\nload {os.getloadavg()[0]:.1f}")
    if given.write:
        told = WHAT.format(measured=measured(), askers=ASKERS, keys=KEYS, rounds=given.rounds)
        write("requests", "What each request pays", f"{told}\n\n{text}")


if __name__ == "__main__":
    main()
