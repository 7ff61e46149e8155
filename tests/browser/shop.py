"""A service to be looked at: a registration that can be held, failed and killed in the middle.

HOLD names a file: while it is there, the mail of a registration named `slow@…` is not sent.
TOKENS=1 lets only `ann` (operator) and `wall` (viewer) in.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from outlive import Access, NonRetryable, Outlive, Retry, Run, step

ANN, WALL = "ann-the-operator-0000", "wall-the-viewer-00000"
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
