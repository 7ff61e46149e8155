"""A small shop on several workers: five kinds of state that are the same on all of them.

    GET  /products/{name}            cached: a second old at most, on every worker
    PUT  /products/{name}            a new price (staff); the pages go in the commit of the row
    GET  /search?q=te                limited for each client, and more of it for who pays for it
    POST /login  /logout  /logout-everywhere
    GET  /cart   PUT /cart/{name}    in the session
    POST /orders                     with an Idempotency-Key: one order, whatever breaks
    GET  /orders/{id}
    GET  /payment-methods            asks the payment partner, behind a breaker that all share

An order is one commit: its rows, the stock, the pages that are old now, the process that will have
it paid, and the answer that a repetition gets. `docs/shop.md` walks through it with curl. Serve it
with its partner by `make shop`, or alone by `outlive serve examples.shop.app:service --workers 3`.
"""

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field

from outlive import (
    Breaker,
    Cookie,
    NonRetryable,
    Outlive,
    OutliveError,
    Quota,
    Retry,
    Run,
    StepFailed,
    bounded,
    step,
)
from outlive.kinds.requests.decisions import Answer
from outlive.web.problems import of_error
from outlive.web.ratelimits import by_address
from outlive.web.requests import Rule, once_of

PARTNER = os.environ.get("PARTNER_URL", "http://127.0.0.1:8901")
PASSWORD, STAFF, GOLD = "sesame", ("ann",), ("gabi",)  # of everybody: this is about sessions
STOCK = (("tea", 300), ("teapot", 4_500), ("milk", 120), ("honey", 750), ("cup", 900))

app = Outlive()
sessions = app.sessions(cookie=Cookie("session", secure=False))  # behind TLS: without `cookie`
keys = app.requests()
logins = app.ratelimits(
    Quota("attempts", 5, per_seconds=60, per="name"),
    Quota("attempts-from", 200, per_seconds=60, per="address"),
    on_failure="closed",  # nobody guesses passwords while the store is busy
)
searches = app.ratelimits(
    Quota("burst", 5, per_seconds=1, plans={"gold": 50}),
    Quota("daily", 1_000, per_seconds=86_400, algorithm="sliding", plans={"gold": 50_000}),
    on_failure="closed",  # the default is to let everything pass that could not be counted
)
payments = app.dependency(
    "payments",
    breaker=Breaker(calls_min=5, open_seconds=60, share_seconds=0.5),
    retry=Retry(attempts=3, base_seconds=0.05),  # of what may be asked twice, and within a budget
    timeout=2.0,
)
bank = httpx.AsyncClient(base_url=PARTNER, transport=payments.transport())


class Product(BaseModel, frozen=True):
    name: str
    cents: int = Field(ge=0)
    stock: int


class Order(BaseModel):
    id: str
    customer: str
    cents: int
    state: str


# --- products: a cache in front of a table --------------------------------------------------------


@app.schema
def tables(db: Any) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS product (name TEXT PRIMARY KEY, cents INT, stock INT)")
    db.execute(
        "CREATE TABLE IF NOT EXISTS purchase "
        "(id TEXT PRIMARY KEY, cart TEXT UNIQUE, customer TEXT, cents INT, state TEXT)"
    )
    db.execute("CREATE TABLE IF NOT EXISTS line (purchase TEXT, product TEXT, count INT)")
    for name, cents in STOCK:
        db.execute(
            "INSERT INTO product VALUES ($1, $2, 1000) ON CONFLICT DO NOTHING", (name, cents)
        )


def read_product(db: Any, name: str) -> Product | None:
    rows = db.execute("SELECT cents, stock FROM product WHERE name = $1", (name,))
    return Product(name=name, cents=rows[0][0], stock=rows[0][1]) if rows else None


@app.cache(bounded(1.0), ttl=600)
async def product(name: str) -> Product | None:
    return await app.transact(read_product, name)


def set_price(db: Any, name: str, cents: int) -> bool:
    product.invalidate_in(db, name)
    return bool(
        db.execute("UPDATE product SET cents = $1 WHERE name = $2 RETURNING 1", (cents, name))
    )


def find(db: Any, text: str) -> list[str]:
    rows = db.execute("SELECT name FROM product WHERE name LIKE $1 ORDER BY name", (f"%{text}%",))
    return [name for (name,) in rows]


# --- an order: one commit, and a process behind it ------------------------------------------------


class Refused(Exception):
    """The order cannot be placed; its transaction is rolled back."""


class Ordered(Refused):
    """This cart was ordered under another key: a worker died before it could empty it."""


def place(db: Any, customer: str, cart: str, lines: dict[str, int]) -> Answer:
    if db.execute("SELECT 1 FROM purchase WHERE cart = $1", (cart,)):
        raise Ordered("this cart was ordered before; now it is empty")
    cents = 0
    for name, count in sorted(lines.items()):
        taken = db.execute(
            "UPDATE product SET stock = stock - $1 WHERE name = $2 AND stock >= $1 RETURNING cents",
            (count, name),
        )
        if not taken:
            raise Refused(f"there are not {count} of {name}")
        cents += count * taken[0][0]
        product.invalidate_in(db, name)
    id = app.blocking().within(db).start(settle, cart).id
    db.execute(
        "INSERT INTO purchase VALUES ($1, $2, $3, $4, 'placed')", (id, cart, customer, cents)
    )
    for name, count in lines.items():
        db.execute("INSERT INTO line VALUES ($1, $2, $3)", (id, name, count))
    order = Order(id=id, customer=customer, cents=cents, state="placed")
    return Answer(201, (("location", f"/orders/{id}"),), order.model_dump_json().encode())


@app.process("/settlements", version=1, prefix="ord")
async def settle(run: Run, cart: str) -> str:
    """Have the order of `cart` paid. It can be started over HTTP too, and that changes nothing: the
    partner knows the order by its id. Nobody cancels it from there."""
    run.pivot()
    order = await run.transact(of_cart, cart)
    if order is None:
        return "there is no such order"
    try:
        receipt = await run(charge, order.id, order.cents)
    except StepFailed:
        await run.transact(cancel, order.id)
        return "cancelled"
    await run.transact(mark_paid, order.id)
    return receipt


@step(retry=Retry(attempts=100, base_seconds=0.2, cap_seconds=5.0), timeout=10)
async def charge(order: str, cents: int) -> str:
    answer = await bank.post("/payments", json={"cents": cents}, headers={"Idempotency-Key": order})
    if answer.status_code == 422:
        raise NonRetryable("the partner refuses this payment")
    return str(answer.raise_for_status().json()["id"])


def of_cart(db: Any, cart: str) -> Order | None:
    rows = db.execute("SELECT id, customer, cents, state FROM purchase WHERE cart = $1", (cart,))
    return as_order(*rows[0]) if rows else None


def mark_paid(db: Any, id: str) -> None:
    db.execute("UPDATE purchase SET state = 'paid' WHERE id = $1 AND state = 'placed'", (id,))


def cancel(db: Any, id: str) -> None:
    once = "UPDATE purchase SET state = 'cancelled' WHERE id = $1 AND state = 'placed' RETURNING 1"
    if not db.execute(once, (id,)):
        return
    for name, count in db.execute("SELECT product, count FROM line WHERE purchase = $1", (id,)):
        db.execute("UPDATE product SET stock = stock + $1 WHERE name = $2", (count, name))
        product.invalidate_in(db, name)


def read_order(db: Any, id: str) -> Order | None:
    rows = db.execute("SELECT id, customer, cents, state FROM purchase WHERE id = $1", (id,))
    return as_order(*rows[0]) if rows else None


def as_order(id: str, customer: str, cents: int, state: str) -> Order:
    return Order(id=id, customer=customer, cents=cents, state=state)


# --- what is served -------------------------------------------------------------------------------


def signed_in(request: Request) -> str:
    if not request.session.subject:
        raise HTTPException(401, "sign in first")
    return str(request.session.subject)


Client = Annotated[str, Depends(signed_in)]
shop = FastAPI(title="Shop")


@shop.middleware("http")
async def served_by(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    response.headers["Served-By"] = str(os.getpid())
    return response


class SignIn(BaseModel):
    name: str = Field(min_length=1, max_length=100)
    password: str = Field(max_length=100)


class Count(BaseModel):
    count: int = Field(ge=0, le=100)


class Price(BaseModel):
    cents: int = Field(ge=0, le=10_000_000)


@shop.get("/products/{name}")
async def show_product(name: str) -> Product:
    found = await product(name)
    if found is None:
        raise HTTPException(404, f"there is no {name}")
    return found


@shop.put("/products/{name}")
async def change_price(name: str, price: Price, client: Client) -> Product:
    if client not in STAFF:
        raise HTTPException(403, "prices are set by staff")
    if not await app.transact(set_price, name, price.cents):
        raise HTTPException(404, f"there is no {name}")
    return await show_product(name)


@shop.get("/search")
async def search(q: str) -> list[str]:
    return await app.transact(find, q)


@shop.post("/login")
async def login(request: Request, form: SignIn) -> dict[str, str]:
    address = by_address()(request.scope)
    await logins.demand({"name": form.name, "address": str(address)})  # before the password is seen
    if not hmac.compare_digest(form.password.encode(), PASSWORD.encode()):
        raise HTTPException(401, "wrong name or password")
    request.session.sign_in(form.name)  # a new id; the old one is dead before this answer leaves
    request.session["plan"] = "gold" if form.name in GOLD else ""
    return {"name": form.name}


@shop.post("/logout")
async def logout(request: Request) -> None:
    request.session.sign_out()


@shop.post("/logout-everywhere")
async def logout_everywhere(request: Request, client: Client) -> None:
    await sessions.revoke_all(client)


@shop.get("/cart")
async def show_cart(request: Request) -> dict[str, int]:
    return lines_of(request)


@shop.put("/cart/{name}")
async def put_into_cart(request: Request, name: str, wanted: Count) -> dict[str, int]:
    if await product(name) is None:
        raise HTTPException(404, f"there is no {name}")
    request.session.setdefault("cart", os.urandom(12).hex())
    request.session[f"cart:{name}"] = wanted.count  # an attribute each: two tabs overwrite nothing
    return lines_of(request)


@shop.post("/orders", status_code=201)
async def order_cart(request: Request, client: Client) -> Response:
    cart, lines = request.session.get("cart", ""), lines_of(request)
    if not lines:
        raise HTTPException(422, "the cart is empty")
    try:
        await once_of(request).transact(place, client, cart, lines)
    except Refused as refused:
        if isinstance(refused, Ordered):
            empty_cart(request)
        raise HTTPException(409, str(refused)) from None
    await app.nudge()
    empty_cart(request)
    return Response(status_code=201)  # what was recorded is what leaves


@shop.get("/orders/{id}")
async def show_order(id: str, client: Client) -> Order:
    found = await app.transact(read_order, id)
    if found is None or found.customer != client:
        raise HTTPException(404, "there is no such order")
    return found


@shop.get("/payment-methods")
async def payment_methods() -> list[str]:
    answer = await bank.get("/methods")
    if answer.is_error:
        raise HTTPException(502, "the payment partner has failed")
    return list(answer.json())


@shop.exception_handler(OutliveError)
async def problem(request: Request, error: OutliveError) -> Response:
    """What the library refuses, as problem+json: 429 of a limit, 503 of an open breaker …"""
    path = request.url.path
    status, body, headers = of_error(error, instance=path, root="", trace="")
    return Response(body, status, {name.decode(): text.decode() for name, text in headers})


def lines_of(request: Request) -> dict[str, int]:
    session = request.session
    found = {n.removeprefix("cart:"): session[n] for n in session if n.startswith("cart:")}
    return {name: count for name, count in sorted(found.items()) if count}


def empty_cart(request: Request) -> None:
    for name in [n for n in request.session if n.partition(":")[0] == "cart"]:
        del request.session[name]


def searcher(scope: Any) -> str | None:
    """Who is limited: of a search the client, and nobody elsewhere."""
    if scope["path"] != "/search":
        return None
    return scope["session"].subject or str(by_address()(scope))


def plan(scope: Any) -> str:
    return str(scope["session"].get("plan", ""))


# From outside in: who it is, how often they may, whether it was done before, and the work.
service = app.asgi(
    sessions.asgi(
        searches.asgi(
            keys.asgi(shop, Rule(route="POST /orders", mode="transactional")),
            key=searcher,
            plan=plan,
        )
    )
)
