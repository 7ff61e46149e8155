"""Orders in a FastAPI shop: a person approves in the middle, and a carrier answers later.

    POST /shop/orders                a route of the shop's own, which starts the process
    GET  /orders/{id}                what becomes of it: status, state, steps, children
    POST /orders/{id}/signals/approved           a person says yes or no to a large one
    POST /orders/{id}/updates/change_address     is answered: taken, or too late
    POST /outlive/callbacks/{token}  the carrier says that the parcel has been picked up

Each part of an order is reserved, all at once; then it is paid. A large one waits for a person, and
until then the customer may change the address. The shipment is a process of its own, a child. What
fails, or is refused, is taken back, the last first. Serve it with
`outlive serve examples.orders.app:service`.
"""

from typing import Literal

from fastapi import FastAPI, Header, Response
from pydantic import BaseModel, Field

from outlive import NonRetryable, Outlive, Retry, Run, Unknown, Update, attempt, step

LARGE_CENTS = 100_000
shop = FastAPI(title="Shop")
app = Outlive(public_url="http://127.0.0.1:8000")


class Line(BaseModel):
    article: str
    count: int = Field(ge=1, le=100)
    cents: int = Field(ge=0)


class Order(BaseModel):
    customer: str
    address: str
    lines: list[Line] = Field(min_length=1, max_length=100)

    @property
    def cents(self) -> int:
        return sum(line.count * line.cents for line in self.lines)


class Approval(BaseModel):
    by: str
    granted: bool


class Picked(BaseModel):
    carrier: str
    parcel: str


class Parcel(BaseModel):
    order: str
    address: str


class Refused(NonRetryable):
    """A person said no."""


change_address = Update("change_address", str, str)


@app.process(
    "/orders", version=1, prefix="ord", signals={"approved": Approval}, updates=[change_address]
)
async def place(run: Run, order: Order) -> str:
    reserved = await run.all(order.lines, reserve, limit=10, key=lambda line: line.article)
    if reserved.failures:
        raise NonRetryable(f"sold out: {', '.join(one.item.article for one in reserved.failures)}")
    address = order.address
    if order.cents >= LARGE_CENTS:
        run.state = {"stage": "waits for approval", "cents": order.cents}
        address = await approved(run, address)

    async def paid(run: Run) -> str:
        return await run(pay, order.customer, order.cents)

    async def shipped(run: Run) -> str:
        return await run.call(ship, Parcel(order=run.id, address=address))

    receipt, parcel = await run.gather(paid, shipped)
    run.state = {"stage": "on its way", "receipt": receipt, "parcel": parcel}
    return parcel


async def approved(run: Run, address: str) -> str:
    """Wait for a person; meanwhile the customer may change where it goes to."""

    async def said(run: Run) -> Approval:
        return await run.wait("approved", within=7 * 86_400)

    async def moved(run: Run) -> str:
        asked = await run.wait_update(change_address)
        await asked.answer(f"it goes to {asked.value}")
        return asked.value

    while True:
        found = await run.first(said, moved)
        if isinstance(found, str):
            address = found
        elif found.granted:
            return address
        else:
            raise Refused(f"{found.by} has not approved it")


@app.process("/shipments", version=1, callbacks={"picked": Picked})
async def ship(run: Run, parcel: Parcel) -> str:
    callback = await run.callback("picked", type=Picked, within=3 * 86_400)
    await run(order_pick_up, parcel, callback.url)
    picked = await callback
    return f"{picked.carrier} {picked.parcel}"


# The warehouse, the bank and the carrier: here a dictionary each, which knows a request by its key.

warehouse: dict[str, str] = {}
bank: dict[str, int] = {}
carrier: dict[str, str] = {}


@step(retry=Retry(attempts=5), undo="give_back")
async def reserve(line: Line) -> str:
    if line.article == "unicorn":
        raise NonRetryable("there are none")
    return warehouse.setdefault(attempt().key, line.article)


async def give_back(line: Line, made: str | Unknown) -> None:
    warehouse.pop(attempt().undoes, None)


@step(retry=Retry(attempts=5), timeout=30, undo="pay_back")
async def pay(customer: str, cents: int) -> str:
    return f"{customer} paid {bank.setdefault(attempt().key, cents)}"


async def pay_back(customer: str, cents: int, made: str | Unknown) -> None:
    bank.pop(attempt().undoes, None)


@step(retry=Retry(attempts=5))
async def order_pick_up(parcel: Parcel, url: str) -> Literal["asked"]:
    carrier[parcel.address] = url
    return "asked"


# The shop's own route: FastAPI validates, the process outlives the request.


@shop.post("/shop/orders", status_code=202)
async def post_order(
    order: Order, response: Response, idempotency_key: str = Header(max_length=200)
) -> dict[str, str]:
    handle = await app.start(place, order, key=idempotency_key)
    response.headers["Location"] = f"/orders/{handle.id}"
    return {"id": handle.id}


service = app.asgi(shop)
