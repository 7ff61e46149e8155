"""Orders, killed at every commit, with a person and a carrier who answer in their own time.

Run it with `python -m pytest examples/orders`.
"""

import pytest
from examples.orders import app as orders

pytestmark = pytest.mark.outlive(store="sqlite://")
SMALL = orders.Order(
    customer="Ada",
    address="12 Square",
    lines=[orders.Line(article="tea", count=2, cents=300)],
)
LARGE = SMALL.model_copy(
    update={"lines": [orders.Line(article="loom", count=1, cents=200_000), *SMALL.lines]}
)


@pytest.fixture
def outlive_app():
    return orders.app


@pytest.fixture(autouse=True)
def world():
    for place in (orders.warehouse, orders.bank, orders.carrier):
        place.clear()


def forget():
    for place in (orders.warehouse, orders.bank, orders.carrier):
        place.clear()


async def pick_up(outlive, address):
    """What the carrier does: it calls the address that it was given."""
    await outlive.run_until_idle()
    token = orders.carrier[address].rpartition("/")[2]
    await outlive.app.call_back(token, b'{"carrier": "Post", "parcel": "p1"}')


async def test_a_small_order_needs_no_person(outlive):
    handle = await outlive.start(orders.place, SMALL)
    await pick_up(outlive, "12 Square")
    assert await handle.result() == "Post p1"
    assert list(orders.bank.values()) == [600]


async def test_a_large_one_waits_and_its_address_may_change(outlive):
    handle = await outlive.start(orders.place, LARGE)
    await outlive.run_until_idle()
    assert (await handle.view()).status == "waiting" and not orders.bank
    answer = await handle.update(orders.change_address, "1 Circle", key="c1")
    assert answer == "it goes to 1 Circle"
    await handle.signal("approved", {"by": "Charles", "granted": True})
    await pick_up(outlive, "1 Circle")
    assert await handle.result() == "Post p1"


async def test_what_is_not_approved_is_taken_back(outlive):
    handle = await outlive.start(orders.place, LARGE)
    await handle.signal("approved", {"by": "Charles", "granted": False})
    await outlive.run_until_idle()
    assert (await handle.view()).status == "rolled_back"
    assert not orders.warehouse and not orders.bank


async def test_what_is_sold_out_gives_the_rest_back(outlive):
    order = SMALL.model_copy(
        update={"lines": [*SMALL.lines, orders.Line(article="unicorn", count=1, cents=1)]}
    )
    handle = await outlive.start(orders.place, order)
    await outlive.run_until_idle()
    assert (await handle.view()).status == "rolled_back" and not orders.warehouse


def test_it_is_killed_at_every_commit(kill_everywhere):
    async def everybody(outlive, handle):
        await handle.signal("approved", {"by": "Charles", "granted": True})
        await outlive.run_until_idle()
        if "12 Square" in orders.carrier:
            await pick_up(outlive, "12 Square")

    def check(outcome):
        assert outcome.status == "done", outcome.view.failure
        assert sorted(orders.warehouse.values()) == ["loom", "tea"]
        assert list(orders.bank.values()) == [200_600]

    where = kill_everywhere(orders.place, LARGE, client=everybody, check=check, reset=forget)
    assert len(where) > 20
