"""The service under test: small types of processes over a world that counts.

    /greetings   201   ends at once
    /orders      202   reserves (can be undone), waits for `paid`, notes the sale
    /works       202   one step that lasts until `world.go` is set
    /refusals    202   reserves, then fails: rolled back
    /pings       202   takes no input, ends at once

`shop` in this module is for `outlive serve`; its store comes from OUTLIVE_STORE.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from msgspec import Meta, Struct

from outlive import NonRetryable, Outlive, Run, Unknown, step


class World:
    """What the steps do, seen from outside."""

    def __init__(self) -> None:
        self.reserved: list[str] = []
        self.released: list[str] = []
        self.greeted = 0
        self.go = asyncio.Event()


class Greeting(Struct, rename="camel", forbid_unknown_fields=True):
    given_name: Annotated[str, Meta(min_length=1, max_length=50)]
    times: int = 1


class Order(Struct, rename="camel", forbid_unknown_fields=True):
    item: str


class Payment(Struct, forbid_unknown_fields=True):
    amount: int


class Receipt(Struct):
    item: str
    amount: int


def declare(app: Outlive, world: World) -> None:
    """Declare everything on `app`."""

    @app.schema
    def tables(db: Any) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS ends (id TEXT)")

    @step
    async def greet(form: Greeting) -> str:
        world.greeted += 1
        return f"Hello {form.given_name}" * form.times

    async def release(form: Order, made: str | Unknown) -> None:
        world.released.append(form.item)

    @step(undo=release)
    async def reserve(form: Order) -> str:
        world.reserved.append(form.item)
        return form.item

    @step
    async def labour(form: Order) -> str:
        await world.go.wait()
        return form.item

    @step
    async def refuse(form: Order) -> None:
        raise NonRetryable(f"{form.item} is sold out")

    def note(db: Any, id: str, receipt: Receipt) -> Receipt:
        db.execute("INSERT INTO ends VALUES (?)", (id,))
        return receipt

    @app.process("/greetings", version=1, status_code=201, prefix="gre")
    async def greeting(run: Run, form: Greeting) -> str:
        return await run(greet, form)

    @app.process("/orders", version=1, prefix="ord", signals={"paid": Payment})
    async def order(run: Run, form: Order) -> Receipt:
        item = await run(reserve, form)
        run.state = {"item": item, "stage": "waits for the money"}
        payment = await run.wait("paid", within=86_400)
        run.pivot()
        return await run.transact(note, run.id, Receipt(item, payment.amount))

    @app.process("/works", version=1, prefix="wor")
    async def work(run: Run, form: Order) -> str:
        return await run(labour, form)

    @app.process("/refusals", version=1, prefix="ref")
    async def refusal(run: Run, form: Order) -> None:
        await run(reserve, form)
        await run(refuse, form)

    @app.process("/pings", version=1, prefix="pin")
    async def ping(run: Run) -> str:
        await run.transact(note, run.id, Receipt("", 0))
        return "pong"


shop = Outlive()
declare(shop, World())
