"""A sign-up that outlives its process.

    POST /registrations   a row of our own  →  a customer at the partner  →  a mail  →  waits a day
                          for the confirmation  →  the account is active

Kill it (kill -9) wherever you like and start it again: it goes on where it was. The row, the
customer and the mail are made once. If the partner fails us, or nobody confirms in time, what was
made is unmade, the last first. Serve it with `outlive serve examples.signup.app:app`.
"""

import os
from typing import Annotated, Any

import httpx
from msgspec import Meta, Struct, structs

from outlive import NonRetryable, Outlive, Retry, Run, Unknown, attempt, step

PARTNER = os.environ.get("PARTNER_URL", "http://127.0.0.1:8900")

app = Outlive()
partner = httpx.AsyncClient(base_url=PARTNER, timeout=10, limits=httpx.Limits(max_connections=50))

Name = Annotated[str, Meta(min_length=1, max_length=100)]
Email = Annotated[str, Meta(max_length=254, pattern=r"^[^@ ]+@[^@ ]+\.[^@ ]+$")]


class Registration(Struct, rename="camel", forbid_unknown_fields=True):
    """What a visitor fills in."""

    first_name: Name
    last_name: Name
    email: Email


class Progress(Registration):
    """What anybody who holds the link sees while it goes on."""

    stage: str = "received"
    customer: str | None = None


class Confirmation(Struct, rename="camel", forbid_unknown_fields=True):
    """What the link in the mail sends back."""

    newsletter: bool = False


class Account(Struct, rename="camel"):
    id: str
    email: str
    customer: str
    newsletter: bool


@app.process(
    "/registrations", version=1, status_code=201, prefix="reg", signals={"confirmed": Confirmation}
)
async def register(run: Run, form: Registration) -> Account:
    await run.transact(add_user, run.id, form)
    run.state = progress = Progress(**structs.asdict(form), stage="opening the account")
    customer = await run(open_customer, run.id, form)
    run.state = progress = structs.replace(progress, stage="sending the mail", customer=customer)
    await run(send_mail, run.id, form)
    run.state = structs.replace(progress, stage="waiting for the confirmation")
    answer = await run.wait("confirmed", within=24 * 60 * 60)
    run.pivot()
    run.state = structs.replace(progress, stage="active")
    return await run.transact(activate, Account(run.id, form.email, customer, answer.newsletter))


# Our own table: written in the very commit that records the step.


@app.schema
def tables(db: Any) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, email TEXT, state TEXT)")


@step(undo="forget_user")
def add_user(db: Any, id: str, form: Registration) -> None:
    db.execute("INSERT INTO users VALUES (?, ?, 'pending')", (id, form.email))


def forget_user(db: Any, id: str, form: Registration, made: Unknown | None) -> None:
    db.execute("DELETE FROM users WHERE id = ?", (id,))


def activate(db: Any, account: Account) -> Account:
    db.execute("UPDATE users SET state = 'active' WHERE id = ?", (account.id,))
    return account


# The partner: may be slow, down, or gone just after it did what we asked. The key makes it safe.


@step(retry=Retry(attempts=5), timeout=30, undo="close_customer")
async def open_customer(id: str, form: Registration) -> str:
    return await ask("POST", "/customers", key=id, body=structs.asdict(form))


async def close_customer(id: str, form: Registration, made: str | Unknown) -> None:
    await ask("DELETE", f"/customers/by-key/{id}")


@step(retry=Retry(attempts=5), timeout=30)
async def send_mail(id: str, form: Registration) -> str:
    return await ask("POST", "/mails", attempt().key, {"to": form.email, "confirms": id})


async def ask(method: str, path: str, key: str = "", body: Any = None) -> str:
    answer = await partner.request(method, path, headers={"Idempotency-Key": key}, json=body)
    if answer.status_code in (410, 422):
        raise NonRetryable(answer.json()["message"])
    return str(answer.raise_for_status().json()["id"] if answer.content else "")


service = app.asgi()
