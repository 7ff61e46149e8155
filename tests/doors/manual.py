"""The programs printed in the manual, written to files as they stand there, and tried."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"```python\n# (\w+\.py)\n(.*?)```", re.DOTALL)


def written_out(page: str, folder: Path) -> list[str]:
    """Write each program of `page` into `folder`; gives their names. Every block has one."""
    text = (DOCS / page).read_text("utf-8")
    found = BLOCK.findall(text)
    assert len(found) == text.count("```python"), f"a program in {page} has no name"
    for name, code in found:
        (folder / name).write_text(code)
    return [name for name, _ in found]


TRY_FLASK = """
from flask_shop import site
from shop import client
browser = site.test_client()
id = browser.post("/orders", json={"what": "tea"}, headers={"Idempotency-Key": "k"}).json["id"]
again = browser.post("/orders", json={"what": "tea"}, headers={"Idempotency-Key": "k"})
assert again.json["id"] == id
assert browser.post(f"/orders/{id}/paid", json={"cents": 3}).status_code == 202
assert client.handle(id).result(within=60) == "tea for 3"
assert browser.get(f"/orders/{id}").json == {"status": "done"}
print("well")
"""
TRY_DJANGO = """
import json
from django.conf import settings
settings.configure()
from django.test import RequestFactory
import django_shop
from shop import client
post = RequestFactory().post
answer = django_shop.start(post("/", {"what": "tea"}, content_type="application/json"))
id = json.loads(answer.content)["id"]
paid = django_shop.paid(post("/", {"cents": 3}, content_type="application/json"), id)
assert paid.status_code == 202
assert client.handle(id).result(within=60) == "tea for 3"
assert client.call(lambda app: app.nodes())
print("well")
"""
NODE_OF_THE_MANUAL = """
import sys
from shop import app
with app.blocking(run=True):
    print("ready", flush=True)
    sys.stdin.read()
"""
TRY_BOOKING = """
from booking import app, booking
with app.blocking(run=True) as client:
    assert client.start(booking, "ann").result(within=60) == 7
    rows = client.transact(lambda tables: tables.execute("SELECT * FROM seat"))
    assert rows == [(7, "ann")], rows
print("well")
"""
TRY_DRIVERS = """
from drivers import app, passenger

@app.schema
async def make(tables):
    await tables.execute("CREATE TABLE IF NOT EXISTS passenger (name text)")
    await tables.execute("TRUNCATE passenger")

with app.blocking(run=True) as client:
    client.start(passenger, "ann").result(within=60)
    rows = client.transact(lambda tables: tables.execute("SELECT * FROM passenger ORDER BY name"))
    assert [name for (name,) in rows] == ["ann 1", "ann 2", "ann 3", "ann 4"], rows
print("well")
"""
TRY_ORDERS = """
import asyncio, os
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from orders import app, pay_order, place_order

@app.schema
def make(tables):
    tables.execute("CREATE TABLE IF NOT EXISTS basket (id serial, what text)")
    tables.execute("ALTER TABLE basket ADD COLUMN IF NOT EXISTS cents int")

async def main():
    address = os.environ["OUTLIVE_STORE"].partition("?")[0]
    engine = create_async_engine(address.replace("postgresql:", "postgresql+asyncpg:"))
    async with app:
        async with AsyncSession(engine) as session:
            id = await place_order(session, "tea")
            await pay_order(session, id, 3)
        assert await app.handle(id).result(within=60) == "tea for 3"
    await engine.dispose()

asyncio.run(main())
print("well")
"""
TRY_DJANGO_ORDERS = """
import os
from urllib.parse import urlsplit
import django
from django.conf import settings
parts = urlsplit(os.environ["OUTLIVE_STORE"])
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": parts.path.strip("/"),
    "USER": parts.username, "HOST": parts.hostname, "PORT": parts.port}})
django.setup()
import django_orders
with django_orders.app.blocking(run=True) as client:
    id = django_orders.place_order("tea")
    client.handle(id).signal("paid", 3)
    assert client.handle(id).result(within=60) == "tea for 3"
print("well")
"""
TRY_LITE = """
import asyncio
from lite import app, place_order

async def main():
    async with app:
        id = await place_order("tea")
        assert await app.handle(id).result(within=60) == "tea is on its way"

asyncio.run(main())
print("well")
"""
TRANSACTIONS = (TRY_BOOKING, TRY_DRIVERS, TRY_ORDERS, TRY_DJANGO_ORDERS, TRY_LITE)
TRY_LIMITED_SERVICE = """
import asyncio
import httpx
from api import service

async def main():
    asked, told = asyncio.Queue(), asyncio.Queue()
    await asked.put({"type": "lifespan.startup"})
    life = asyncio.create_task(service({"type": "lifespan"}, asked.get, told.put))
    assert await told.get() == {"type": "lifespan.startup.complete"}
    transport = httpx.ASGITransport(service)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as caller:
        answers = [await caller.get("/") for _ in range(4)]
    await asked.put({"type": "lifespan.shutdown"})
    await life
    print([answer.status_code for answer in answers], answers[0].headers["ratelimit-policy"])

asyncio.run(main())
"""
