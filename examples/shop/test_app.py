"""Orders of the shop without a server: paid, refused, and placed twice.

Run it with `python -m pytest examples/shop`.
"""

import httpx
import pytest
from examples.shop import app as shop
from msgspec import json

pytestmark = pytest.mark.outlive(store="sqlite://")  # its tables speak SQL


@pytest.fixture
def outlive_app():
    return shop.app


@pytest.fixture
def partner(monkeypatch):
    """A bank that answers with `status`, and remembers under which keys it was asked."""

    class Bank:
        status, keys = 201, set()

        def __call__(self, request):
            self.keys.add(request.headers["idempotency-key"])
            return httpx.Response(self.status, json={"id": "payment-1"})

    made = Bank()
    made.keys = set()
    monkeypatch.setattr(shop, "bank", httpx.AsyncClient(
        base_url="http://bank.test", transport=httpx.MockTransport(made)
    ))  # fmt: skip
    return made


async def ordered(outlive, cart="cart-1"):
    answer = await outlive.app.transact(shop.place, "ada", cart, {"tea": 2, "cup": 1})
    await outlive.run_until_idle()
    return json.decode(answer.body)["id"]


async def test_an_order_is_paid_under_its_own_id(outlive, partner):
    id = await ordered(outlive)
    order = await outlive.app.transact(shop.read_order, id)
    assert (order.state, order.cents, partner.keys) == ("paid", 1_500, {id})
    assert (await outlive.app.transact(shop.read_product, "tea")).stock == 998


async def test_what_the_partner_refuses_is_cancelled_and_back_in_stock(outlive, partner):
    partner.status = 422
    id = await ordered(outlive)
    assert (await outlive.app.transact(shop.read_order, id)).state == "cancelled"
    assert (await outlive.app.transact(shop.read_product, "tea")).stock == 1_000
    assert await outlive.app.handle(id).result() == "cancelled"


async def test_a_partner_that_is_down_is_asked_again_until_it_is_back(outlive, partner):
    partner.status = 503
    id = await ordered(outlive)
    await outlive.advance(seconds=30)
    assert (await outlive.app.transact(shop.read_order, id)).state == "placed"
    partner.status = 201
    await outlive.advance(seconds=30)
    assert (await outlive.app.transact(shop.read_order, id)).state == "paid"
    assert partner.keys == {id}


async def test_a_cart_is_ordered_once_whatever_the_key(outlive, partner):
    await ordered(outlive)
    with pytest.raises(shop.Ordered):
        await ordered(outlive)
    with pytest.raises(shop.Refused, match="not 5000 of tea"):
        await outlive.app.transact(shop.place, "ada", "other", {"cup": 1, "tea": 5_000})
    assert (await outlive.app.transact(shop.read_product, "cup")).stock == 999


async def test_a_process_for_no_order_ends_and_asks_nobody(outlive, partner):
    handle = await outlive.start(shop.settle, "no such cart")
    assert await handle.result() == "there is no such order" and not partner.keys


async def test_nobody_cancels_a_payment_from_outside(outlive, partner):
    partner.status = 503
    id = await ordered(outlive)
    with pytest.raises(Exception, match="pivot"):
        await outlive.app.handle(id).cancel()
