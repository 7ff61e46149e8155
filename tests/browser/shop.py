"""A service to be looked at: a registration that can be held, failed and killed in the middle.

HOLD names a file: while it is there, the mail of a registration named `slow@…` is not sent.
Beside the registrations there is something of every other kind, under `/visit`, `/order`, `/fail`.
PART says how many of many are asked in one commit. TOKENS=1 lets only `ann` (operator) and `wall`
(viewer) in.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outlive import (
    Access,
    Breaker,
    NonRetryable,
    Outlive,
    Quota,
    Retry,
    Run,
    Slots,
    bounded,
    step,
)
from outlive.doors import bulk

ANN, WALL = "ann-the-operator-0000", "wall-the-viewer-00000"
bulk.PART = int(os.environ.get("PART", bulk.PART))
HOLD = Path(os.environ.get("HOLD", "/nonexistent"))
ACCESS = Access(operators={"ann": ANN}, viewers={"wall": WALL})

app = Outlive(
    redact={"password"},
    lease_seconds=2,
    dashboard=ACCESS if os.environ.get("TOKENS") else None,
)


class NoSuchAddress(NonRetryable):
    """It leaves the registration stuck: a person decides."""


@dataclass
class Registration:
    email: str
    password: str = ""


@step(retry=Retry(attempts=2, base_seconds=0.01, cap_seconds=0.01), undo="close_account")
async def open_account(form: Registration) -> str:
    return f"account of {form.email}"


async def close_account(form: Registration, made: object) -> None:
    pass


@step(retry=Retry(attempts=9, base_seconds=3600, cap_seconds=3600))
async def send_mail(email: str) -> str:
    while email.startswith("slow@") and HOLD.exists():
        await asyncio.sleep(0.02)
    if email.startswith("broken@"):
        raise ConnectionError("the mail server does not answer")
    if email.startswith("stuck@"):
        raise NoSuchAddress("nobody has this address")
    return f"sent to {email}"


@app.process(
    "/registrations",
    version=1,
    signals={"confirmed": None},
    rollback_on=(ConnectionError,),
    tags={"domain": lambda form: form.email.partition("@")[2] or None},
)
async def register(run: Run, form: Registration) -> str:
    await run(open_account, form)
    await run(send_mail, form.email)
    await run.wait("confirmed", within=86_400)
    return "welcome"


sessions = app.sessions()
keys = app.requests()
limits = app.ratelimits(
    Quota("burst", 20), Quota("daily", 500, per_seconds=86_400, plans={"gold": 5000}, shadow=True)
)
exports = app.slots(Slots("exports", 2))
bank = app.dependency("bank", breaker=Breaker(calls_min=2, open_seconds=600))


@app.cache(bounded(60), tags=lambda sku: [f"shelf:{sku[:1]}"])
async def price(sku: str) -> int:
    return len(sku)


@bank.guard()
async def pay() -> None:
    raise ConnectionError("the bank does not answer")


async def visits(scope: Any, receive: Any, send: Any) -> None:
    """`POST /visit/{who}`: sign in, use some of a limit, ask a cache. `/order/{key}`: one key, that
    is left unknown where it says so. `/fail`: the bank does not answer."""
    what, _, name = str(scope["path"]).lstrip("/").partition("/")
    if what == "visit":
        scope["session"]["basket"] = ["tea"]
        scope["session"].sign_in(name)
        for sku in ("tea", "tea", "milk"):
            await price(sku)
        await limits.hit(name, cost=1 + len(name) % 9)
    elif what == "order":
        with suppress(ConnectionError):
            async with app.once("orders", name) as claim:
                if name.startswith("lost"):
                    raise ConnectionError
                claim.finish({"ordered": name})
    elif what == "fail":
        for _ in range(3):
            with suppress(Exception):
                await pay()
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


service = app.asgi(sessions.asgi(visits))
