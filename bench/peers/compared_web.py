"""One service of the comparison: sessions, a breaker, a limit or idempotency keys, of one library.

    compared_web.py NAME PORT STORE      STORE: a Redis for the peers, sqlite:///… for outlive

Each name is a small Starlette application that does the same as the others of its group, written as
the library's own documentation shows it. `bench/comparison.py` starts three of each on one store,
in the library's own environment, and counts from outside.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

LIMIT, WINDOW_SECONDS = 20, 4
REST_SECONDS = 1.0
CALL_SECONDS = 1.0
LEASE_SECONDS = 2.0


# --- sessions: a handler that takes its time between reading and the end of the request ----------


async def put(request: Request) -> JSONResponse:
    name = request.query_params["name"]
    await asyncio.sleep(0.05)
    request.session[name] = 1
    return JSONResponse({})


async def read(request: Request) -> JSONResponse:
    held = dict(request.session)
    await asyncio.sleep(float(request.query_params.get("seconds", "0")))
    who = getattr(request.session, "subject", "") or held.pop("who", "")
    return JSONResponse({"who": who, "held": sorted(held)})


async def login(request: Request) -> JSONResponse:
    if hasattr(request.session, "sign_in"):
        request.session.sign_in("ada")
    else:
        from starsessions import regenerate_session_id

        request.session["who"] = "ada"
        regenerate_session_id(request)
    return JSONResponse({})


async def logout(request: Request) -> JSONResponse:
    request.session.clear()
    return JSONResponse({})


SESSION_ROUTES = [Route("/put", put), Route("/read", read), Route("/login", login),
                  Route("/logout", logout)]  # fmt: skip


def starsessions(store: str, rolling: bool = False) -> Any:
    from starsessions import SessionAutoloadMiddleware, SessionMiddleware
    from starsessions.stores.redis import RedisStore

    app = SessionAutoloadMiddleware(Starlette(routes=SESSION_ROUTES))
    kept = RedisStore(store, gc_ttl=3600)
    return SessionMiddleware(
        app, kept, lifetime=3600, rolling=rolling, cookie_name="session", cookie_https_only=False
    )


def outlive_sessions(store: str) -> Any:
    from outlive import Cookie, Outlive

    app = Outlive(store)
    sessions = app.sessions(cookie=Cookie("session", secure=False))
    return app.asgi(sessions.asgi(Starlette(routes=SESSION_ROUTES)))


# --- breakers: a partner that is down, and then well and slow ------------------------------------


class Partner:
    """Fails until told otherwise; says which calls reached it, and when they began and ended."""

    def __init__(self) -> None:
        self.well, self.calls = False, [(0.0, 0.0)][:0]

    def begin(self) -> float:
        if not self.well:
            raise ConnectionError("down")
        return time.time()

    async def call(self) -> int:
        began = self.begin()
        await asyncio.sleep(CALL_SECONDS)
        self.calls.append((began, time.time()))
        return 1

    def call_in_thread(self) -> int:
        began = self.begin()
        time.sleep(CALL_SECONDS)
        self.calls.append((began, time.time()))
        return 1


def breaking(guarded: Any, partner: Partner, *, threads: bool = False) -> Starlette:
    async def call(request: Request) -> JSONResponse:
        try:
            await (asyncio.to_thread(guarded) if threads else guarded())
        except Exception as error:
            return JSONResponse({"said": type(error).__name__}, 503)
        return JSONResponse({"said": "well"})

    async def mend(request: Request) -> JSONResponse:
        partner.well = True
        return JSONResponse({})

    async def calls(request: Request) -> JSONResponse:
        return JSONResponse(partner.calls)

    return Starlette(routes=[Route("/call", call), Route("/mend", mend), Route("/calls", calls)])


def purgatory(store: str) -> Any:
    from purgatory import AsyncCircuitBreakerFactory, AsyncRedisUnitOfWork

    partner, ready = Partner(), []
    factory = AsyncCircuitBreakerFactory(
        default_threshold=3, default_ttl=REST_SECONDS, uow=AsyncRedisUnitOfWork(store)
    )

    async def guarded() -> int:
        if not ready:
            ready.append(await factory.initialize())
        async with await factory.get_breaker("partner"):
            return await partner.call()

    return breaking(guarded, partner)


def pybreaker(store: str) -> Any:
    import redis
    from pybreaker import STATE_CLOSED, CircuitBreaker, CircuitRedisStorage

    partner = Partner()
    kept = CircuitRedisStorage(STATE_CLOSED, redis.StrictRedis.from_url(store))
    breaker = CircuitBreaker(fail_max=3, reset_timeout=REST_SECONDS, state_storage=kept)
    return breaking(lambda: breaker.call(partner.call_in_thread), partner, threads=True)


def outlive_breaker(store: str) -> Any:
    from outlive import Breaker, Outlive

    app, partner = Outlive(store), Partner()
    rule = Breaker(
        calls_min=3, open_seconds=REST_SECONDS, open_seconds_max=REST_SECONDS, share_seconds=0.2
    )
    guarded = app.dependency("partner", breaker=rule).guard()(partner.call)
    return app.asgi(breaking(guarded, partner))


# --- limits: 20 in 4 seconds ---------------------------------------------------------------------


def limited(hit: Any) -> Starlette:
    admitted: list[float] = []

    async def ask(request: Request) -> JSONResponse:
        if not await hit():
            return JSONResponse({}, 429)
        admitted.append(time.time())
        return JSONResponse({})

    async def times(request: Request) -> JSONResponse:
        return JSONResponse(admitted)

    return Starlette(routes=[Route("/ask", ask), Route("/times", times)])


def slowapi(store: str) -> Any:
    from slowapi import Limiter
    from slowapi.errors import RateLimitExceeded

    limiter, admitted = Limiter(key_func=lambda: "ada"), [0.0][:0]

    @limiter.limit(f"{LIMIT}/{WINDOW_SECONDS} second")
    async def ask(request: Request) -> JSONResponse:
        admitted.append(time.time())
        return JSONResponse({})

    async def refused(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({}, 429)

    async def times(request: Request) -> JSONResponse:
        return JSONResponse(admitted)

    routes = [Route("/ask", ask), Route("/times", times)]
    app = Starlette(routes=routes, exception_handlers={RateLimitExceeded: refused})
    app.state.limiter = limiter
    return app


def limits(store: str, strategy: str) -> Any:
    from limits import parse
    from limits.aio import strategies
    from limits.aio.storage import RedisStorage

    storage = RedisStorage(f"async+{store}", implementation="redispy")
    limiter = getattr(strategies, strategy)(storage)
    item = parse(f"{LIMIT}/{WINDOW_SECONDS} second")
    return limited(lambda: limiter.hit(item, "ada"))


def outlive_limit(store: str, algorithm: Any) -> Any:
    from outlive import Outlive, Quota

    app = Outlive(store)
    api = app.ratelimits(Quota("bench", LIMIT, per_seconds=WINDOW_SECONDS, algorithm=algorithm))
    return app.asgi(limited(lambda: api.hit("ada")))


# --- idempotency keys: an effect, and a death before its answer is kept ---------------------------


def note(key: str) -> None:
    with open(os.environ["EFFECTS"], "a") as effects:
        effects.write(key + "\n")
        effects.flush()
        os.fsync(effects.fileno())


async def charge(request: Request) -> JSONResponse:
    """An effect elsewhere: a line on disk."""
    key = request.headers["idempotency-key"].strip('"')
    await asyncio.sleep(0.05)
    await asyncio.to_thread(note, key)
    if request.headers.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    return JSONResponse({"charged": key}, 201)


CHARGES = [Route("/charge", charge, methods=["POST"])]


def asgi_idempotency_header(store: str) -> Any:
    from idempotency_header_middleware import IdempotencyHeaderMiddleware
    from idempotency_header_middleware.backends import RedisBackend
    from redis.asyncio import Redis

    kept = RedisBackend(Redis.from_url(store, decode_responses=True))
    return IdempotencyHeaderMiddleware(Starlette(routes=CHARGES), backend=kept)


def fastapi_idempotency_key(store: str) -> Any:
    from fastapi_idempotency_key import IdempotencyMiddleware
    from fastapi_idempotency_key.backends.redis import RedisBackend

    return IdempotencyMiddleware(Starlette(routes=CHARGES), backend=RedisBackend(redis_url=store))


def idemkit(store: str) -> Any:
    from idemkit import HttpConfig, IdempotencyMiddleware, RedisBackend

    config = HttpConfig(
        lease_ttl_seconds=LEASE_SECONDS, wait_timeout_seconds=1.0, scope_mode="single_tenant"
    )
    kept = RedisBackend.from_url(store)
    return IdempotencyMiddleware(Starlette(routes=CHARGES), backend=kept, config=config)


def outlive_elsewhere(store: str) -> Any:
    from outlive import Outlive
    from outlive.web.requests import Rule

    app = Outlive(store)
    keys = app.requests(lease_seconds=LEASE_SECONDS)
    return app.asgi(keys.asgi(Starlette(routes=CHARGES), Rule(route="POST /charge")))


def outlive_own_tables(store: str) -> Any:
    """The effect is a row of the application's own, written out for the count."""
    from outlive import Outlive
    from outlive.web.requests import Rule, once_of

    app = Outlive(store)

    @app.schema
    def make(tables: Any) -> None:
        tables.execute("CREATE TABLE IF NOT EXISTS charge (key TEXT)")

    def book(tables: Any, key: str, die: bool) -> dict[str, str]:
        tables.execute("INSERT INTO charge VALUES (?)", (key,))
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"charged": key}

    async def charge(request: Request) -> JSONResponse:
        key = request.headers["idempotency-key"].strip('"')
        await asyncio.sleep(0.05)
        die = request.headers.get("die")
        answer = await once_of(request).transact(book, key, bool(die))
        return JSONResponse(answer, 201)

    def listed(tables: Any) -> list[str]:
        return [key for (key,) in tables.execute("SELECT key FROM charge")]

    async def effects(request: Request) -> JSONResponse:
        return JSONResponse(await app.transact(listed))

    routes = [Route("/charge", charge, methods=["POST"]), Route("/effects", effects)]
    rule = Rule(route="POST /charge", mode="transactional")
    return app.asgi(app.requests().asgi(Starlette(routes=routes), rule))


SERVICES = {
    "starsessions": starsessions,
    "starsessions-rolling": lambda store: starsessions(store, rolling=True),
    "outlive-sessions": outlive_sessions,
    "purgatory": purgatory,
    "pybreaker": pybreaker,
    "outlive-breaker": outlive_breaker,
    "slowapi": slowapi,
    "limits-fixed": lambda store: limits(store, "FixedWindowRateLimiter"),
    "limits-moving": lambda store: limits(store, "MovingWindowRateLimiter"),
    "outlive-gcra": lambda store: outlive_limit(store, "gcra"),
    "outlive-sliding": lambda store: outlive_limit(store, "sliding"),
    "asgi-idempotency-header": asgi_idempotency_header,
    "fastapi-idempotency-key": fastapi_idempotency_key,
    "idemkit": idemkit,
    "outlive-elsewhere": outlive_elsewhere,
    "outlive-own-tables": outlive_own_tables,
}


class Announced(uvicorn.Server):
    """Says when it takes connections."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        print("ready", flush=True)


def main() -> None:
    name, port, store = sys.argv[1:]
    logging.disable(logging.WARNING)
    service = SERVICES[name](store)
    Announced(uvicorn.Config(service, port=int(port), log_level="critical", access_log=False)).run()


if __name__ == "__main__":
    main()
