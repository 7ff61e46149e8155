"""The kinds that requests need, asked from plain threads: the same answers, errors and deaths."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from outlive import (
    Breaker,
    BreakerOpen,
    NoSlot,
    Outlive,
    Quota,
    RateLimited,
    Retry,
    Slots,
    bounded,
    exact,
)
from outlive.errors import AttemptTooLong, InEventLoop, KeyReused, RequestUnknown
from outlive.kinds.sessions.decisions import Make, key_of


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Outlive]:
    made = Outlive(f"sqlite:///{tmp_path}/store.db")
    yield made
    made.blocking().close(1)


def test_a_hundred_threads_are_admitted_as_often_as_one(app: Outlive) -> None:
    limits = app.blocking().face(app.ratelimits(Quota("burst", 30, per_seconds=3600)))
    with ThreadPoolExecutor(20) as threads:
        said = list(threads.map(lambda _: bool(limits.hit("ada")), range(100)))
    assert sum(said) == 30
    with pytest.raises(RateLimited):
        limits.demand("ada")
    assert limits.peek("ada").standings[0].left == 0
    limits.reset("ada")
    answer = limits.hit("ada", 30)
    assert answer and limits.refund("ada", answer) and not limits.refund("ada", answer)


def test_a_slot_is_held_in_a_block_and_free_after_it_also_after_an_error(app: Outlive) -> None:
    exports = app.blocking().face(app.slots(Slots("exports", 1, lease_seconds=30)))
    with exports.hold("acme") as slot:
        assert not slot.lost
        with pytest.raises(NoSlot), exports.hold("acme"):
            pass
    with pytest.raises(ZeroDivisionError), exports.hold("acme"):
        _ = 1 / 0
    with exports.hold("acme"):
        pass


def test_a_block_is_carried_out_once_for_its_key(app: Outlive) -> None:
    client, done = app.blocking(), []

    def send(n: int) -> Any:
        with client.once("mails", "order-1", {"to": "ada"}, wait_seconds=20) as claim:
            if not claim.replayed:
                done.append(n)
                claim.finish({"sent": n})
        return claim.value

    with ThreadPoolExecutor(20) as threads:
        said = list(threads.map(send, range(40)))
    assert len(done) == 1 and said == [{"sent": done[0]}] * 40
    with pytest.raises(KeyReused), client.once("mails", "order-1", {"to": "bob"}):
        pass


def test_an_error_in_the_block_leaves_it_unknown_until_an_operator_says_what_happened(
    app: Outlive,
) -> None:
    client = app.blocking()
    keys = client.face(app.requests())
    with pytest.raises(ZeroDivisionError), client.once("mails", "k", 1):
        _ = 1 / 0
    with pytest.raises(RequestUnknown), client.once("mails", "k", 1):
        pass
    (record,) = keys.unknown()
    keys.resolve(record.place, None, by="ada", why="the log says so")
    with client.once("mails", "k", 1) as claim:
        claim.finish(5)
    assert keys.look(record.place).state == "done"
    keys.expire(record.place, by="ada", why="a test")
    assert keys.erase("nobody") == 0


def test_an_effect_and_its_record_are_one_commit(app: Outlive) -> None:
    @app.schema
    def make(tables: Any) -> None:
        tables.execute("CREATE TABLE IF NOT EXISTS charge (what TEXT)")

    def book(tables: Any, what: str) -> int:
        tables.execute("INSERT INTO charge VALUES (?)", (what,))
        return int(tables.execute("SELECT count(*) FROM charge")[0][0])

    with app.blocking(run=True) as client:
        for _ in range(2):
            with client.once("charges", "k", "tea", mode="transactional") as claim:
                claim.transact(book, "tea")
            assert claim.value == 1


def test_a_plain_function_is_cached_for_all_threads(app: Outlive) -> None:
    client, asked = app.blocking(), []

    @client.cache(bounded(60.0), ttl=600, tags=lambda name: ("all",))
    def price(name: str) -> int:
        asked.append(threading.current_thread().name)
        return len(asked)

    with ThreadPoolExecutor(20) as threads:
        assert set(threads.map(price, ["tea"] * 50)) == {1}
    assert len(asked) == 1 and asked[0].startswith("outlive-call")
    price.invalidate("tea")
    assert price("tea") == 2
    price.invalidate_tag("all")
    assert price("tea") == 3
    price.clear()
    assert price("tea") == 4

    @app.cache(exact)
    async def cost(name: str) -> int:
        return 7

    assert client.face(cost)("tea") == 7


def test_a_plain_call_is_guarded_retried_and_broken(app: Outlive) -> None:
    partner = app.blocking().face(
        app.dependency(
            "partner", retry=Retry(attempts=2, base_seconds=0.001), timeout=0.5,
            breaker=Breaker(calls_min=4, failure_rate=0.5, open_seconds=600),
        )
    )  # fmt: skip
    tried: list[int] = []

    @partner.guard(idempotent=True)
    def ask(n: int) -> int:
        """Ask."""
        tried.append(n)
        if n < 0:
            raise ConnectionError("down")
        return n

    assert ask(5) == 5 and ask.__doc__ == "Ask."
    with pytest.raises(ConnectionError):
        ask(-1)
    assert tried == [5, -1, -1]
    gate = threading.Event()
    with pytest.raises(AttemptTooLong):
        partner.call(gate.wait, 30)
    gate.set()
    partner.force_open("ann", "they say so")
    with pytest.raises(BreakerOpen):
        ask(1)

    @partner.guard(fallback=lambda n: -n)
    def instead(n: int) -> int:
        return n

    assert instead(3) == -3
    partner.reset("ann", "mended")
    assert ask(1) == 1 and partner.standing().controls[-1].what == "reset"
    partner.force_closed("ann", "hold it")
    partner.release("ann", "enough")


def test_who_is_signed_in_is_seen_and_ended(app: Outlive) -> None:
    sessions = app.sessions()
    client, key = app.blocking(), key_of("x" * 52)
    client.call(lambda _: sessions.ask(Make(key, "ada")))
    face = client.face(sessions)
    assert [device.key for device in face.devices("ada")] == [key]
    assert face.revoke_all("ada") == 1 and face.devices("ada") == [] and not face.revoke(key)


def test_what_has_no_face_is_refused_and_a_loop_is_not_stopped(app: Outlive) -> None:
    client: Any = app.blocking()
    with pytest.raises(TypeError, match="no synchronous face"):
        client.face(object())
    limits = client.face(app.ratelimits(Quota("burst", 30)))

    async def inside() -> None:
        with pytest.raises(InEventLoop):
            limits.hit("ada")

    import asyncio

    asyncio.run(inside())
