"""Rate limits as an application uses them: shared, ahead of time, here only; and slots."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.cell_servers import CellServer

from outlive import NoSlot, Outlive, Quota, RateLimited, Slots, ids
from outlive.clock import ManualClock
from outlive.doors import ratelimits
from outlive.doors.ratelimits import SlotKeeper
from outlive.errors import Conflict, StoreUnavailable
from outlive.model import Batch, Committed
from outlive.stores.memory import MemoryStore

ASKERS = """
import asyncio, sys, time
from outlive import Outlive, Quota

address, cells, scope, ahead, hits = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])

async def main():
    app = Outlive(address)
    quotas = [Quota("burst", 30, per_seconds=1.0), Quota("daily", 100_000, 86_400, "fixed")]
    limits = app.ratelimits(
        *quotas[: 1 if cells.startswith("memcached") else 2], cells=cells, scope=scope,
        ahead=ahead, timeout_seconds=30, on_failure="closed",
    )
    await app.open_client()
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(hits // 100):
        asked = [time.time_ns() // 1000] * 100
        answers = await asyncio.gather(*(limits.hit("ada") for _ in asked))
        now = time.time_ns() // 1000
        for before, answer in zip(asked, answers):
            print(int(answer.admitted), int(answer.checked), before, now)
    await app.close()

asyncio.run(main())
"""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def app(clock: ManualClock) -> AsyncIterator[Outlive]:
    made = Outlive(MemoryStore(clock=clock), clock=clock)
    await made.open_client()
    yield made
    await made.close()


async def test_what_is_over_the_limit_is_refused_until_it_is_said(
    app: Outlive, clock: ManualClock
) -> None:
    limits = app.ratelimits(Quota("burst", 3, per_seconds=6))
    assert [bool(await limits.hit("ada")) for _ in range(4)] == [True] * 3 + [False]
    assert await limits.hit("eve")
    refused = await limits.hit("ada")
    assert refused.refused_by == ("burst",) and refused.retry_seconds == 2.0
    clock.advance(1.9)
    assert not await limits.hit("ada")
    clock.advance(0.1)
    assert await limits.hit("ada")
    assert limits.counts == {"admitted": 5, "refused": 3}


async def test_a_refusal_uses_nothing_of_the_other_limits(app: Outlive) -> None:
    limits = app.ratelimits(Quota("users", 5, per="user"), Quota("tenants", 2, per="tenant"))
    keys = {"user": "ada", "tenant": "acme"}
    assert [bool(await limits.hit(keys)) for _ in range(5)] == [True] * 2 + [False] * 3
    users, tenants = (await limits.peek(keys)).standings
    assert (users.left, tenants.left) == (3, 0)
    assert await limits.hit({"user": "ada", "tenant": "other"})


async def test_many_at_once_on_one_key_are_one_decision_each_and_one_commit(app: Outlive) -> None:
    limits = app.ratelimits(Quota("burst", 40))
    answers = await asyncio.gather(*(limits.hit("ada") for _ in range(300)))
    assert sum(map(bool, answers)) == 40
    assert sorted(a.standings[0].left for a in answers if a) == list(range(40))


async def test_a_cost_is_used_looked_at_and_given_back_once(app: Outlive) -> None:
    limits = app.ratelimits(Quota("bytes", 1000, per_seconds=3600, algorithm="fixed"))
    answer = await limits.hit("ada", 900)
    assert not await limits.hit("ada", 200)
    assert [await limits.refund("ada", answer) for _ in range(2)] == [True, False]
    assert (await limits.peek("ada")).standings[0].left == 1000
    with pytest.raises(ValueError, match="can never be had of bytes, which takes 1 to 1000 at"):
        await limits.hit("ada", 1001)
    with pytest.raises(ValueError, match="can never be had"):
        await limits.hit("ada", 0)


async def test_a_plan_has_its_own_numbers_and_a_reset_forgets(app: Outlive) -> None:
    limits = app.ratelimits(Quota("burst", 1, plans={"gold": 5}))
    golden = [bool(await limits.hit("ada", plan="gold")) for _ in range(6)]
    assert golden == [True] * 5 + [False]
    assert [bool(await limits.hit("eve")) for _ in range(2)] == [True, False]
    await limits.reset("ada", plan="gold")
    assert await limits.hit("ada", plan="gold")


async def test_a_limit_in_shadow_mode_counts_and_refuses_nothing(app: Outlive) -> None:
    limits = app.ratelimits(Quota("new", 1, shadow=True), Quota("old", 3))
    answers = [await limits.hit("ada") for _ in range(4)]
    assert list(map(bool, answers)) == [True] * 3 + [False]
    assert [answer.shadowed_by for answer in answers] == [()] + [("new",)] * 3
    assert answers[3].refused_by == ("old",)
    assert limits.counts["shadowed"] == 3


@pytest.mark.parametrize("key", [17, None, {"user": 17}, {"user": None}])
async def test_a_key_that_is_no_text_is_told_so(app: Outlive, key: Any) -> None:
    limits = app.ratelimits(Quota("burst", 3, per="user"))
    exports = app.slots(Slots("exports", 2, per="user"))
    with pytest.raises(TypeError, match=r"a key is text, not (17|None); nothing was asked"):
        await limits.hit(key)
    with pytest.raises(TypeError, match=r"a key is text, not (17|None); nothing was asked"):
        async with exports.hold(key):
            pass


async def test_a_limit_in_shadow_mode_that_can_never_be_had_is_only_said(app: Outlive) -> None:
    limits = app.ratelimits(Quota("new", 2, shadow=True), Quota("old", 9))
    answer = await limits.hit("ada", 5)
    assert answer and answer.shadowed_by == ("new",)
    assert [one.left for one in answer.standings] == [2, 4]
    with pytest.raises(ValueError, match="can never be had of old"):
        await limits.hit("ada", 10)


async def test_a_limit_in_shadow_mode_makes_nobody_wait(app: Outlive) -> None:
    limits = app.ratelimits(Quota("new", 1, 86_400, shadow=True), Quota("old", 1, per_seconds=2))
    await limits.hit("ada")
    refused = await limits.hit("ada")
    assert (refused.refused_by, refused.shadowed_by) == (("old",), ("new",))
    assert refused.retry_seconds == 2.0


async def test_what_is_demanded_and_refused_is_an_error(app: Outlive) -> None:
    limits = app.ratelimits(Quota("burst", 1, per_seconds=2))
    await limits.demand("ada")
    with pytest.raises(RateLimited, match="Refused by burst") as refusal:
        await limits.demand("ada")
    assert refusal.value.facts == {"refused_by": ("burst",), "retry_after": 2.0}


async def test_who_does_not_stop_asking_costs_nothing(app: Outlive, clock: ManualClock) -> None:
    limits = app.ratelimits(Quota("burst", 2, per_seconds=60))
    await limits.hit("ada", 1)
    applier = await limits._place.applier()
    before = applier.commands
    assert not any([await limits.hit("ada", 2) for _ in range(50)])
    assert applier.commands == before + 1
    assert await limits.hit("ada", 1), "what costs less was not refused"
    clock.advance(ratelimits.DENIED_SECONDS_MAX)
    await limits.hit("ada", 2)
    assert applier.commands == before + 3


async def test_new_numbers_under_an_old_name_are_no_amnesty(app: Outlive) -> None:
    old = app.ratelimits(Quota("burst", 10, per_seconds=60))
    await old.hit("ada", 8)
    lower = app.ratelimits(Quota("burst", 5, per_seconds=60))
    assert not await lower.hit("ada")


# --- when the store cannot be asked ---------------------------------------------------------------


class Failing(MemoryStore):
    """A store that refuses, counts how often it was asked, or does not answer at all."""

    trouble: BaseException | None = None
    silent = False
    asked = 0

    async def commit_group(self, batches: Sequence[Batch]) -> list[Any]:
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble
        return await super().commit_group(batches)


@pytest.mark.parametrize("on_failure", ["closed", "open"])
async def test_a_store_that_does_not_answer_is_declared(on_failure: Any) -> None:
    store, clock = Failing(), ManualClock()
    app = Outlive(store, clock=clock)
    limits = app.ratelimits(Quota("burst", 5), on_failure=on_failure, timeout_seconds=0.05)
    await app.open_client()
    store.trouble = StoreUnavailable()
    answers = [await limits.hit("ada") for _ in range(5)]
    assert {(a.admitted, a.checked) for a in answers} == {(on_failure == "open", False)}
    assert limits.counts == {f"failed_{on_failure}": 5}
    assert store.asked == 1, "it is not asked again at once"
    clock.advance(ratelimits.FAILED_SECONDS)
    store.trouble = None
    answer = await limits.hit("ada")
    assert answer and answer.checked and answer.standings[0].left == 4
    await app.close()


@pytest.mark.parametrize(
    ("on_failure", "passes"), [("open", "every hit is let through"), ("closed", "nothing passes")]
)
async def test_an_outage_is_said_once_when_it_begins(
    on_failure: Any, passes: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, clock = Failing(), ManualClock()
    app = Outlive(store, clock=clock)
    limits = app.ratelimits(Quota("burst", 5), Quota("daily", 9), on_failure=on_failure)
    for _ in range(3):  # nobody has opened the application
        await limits.hit("ada")
        clock.advance(ratelimits.FAILED_SECONDS)
    (said,) = caplog.messages
    assert said.startswith(f"rate limit burst,daily: {passes} until the store can be asked: ")
    assert "The application is not open" in said
    await app.open_client()
    assert await limits.hit("ada")
    store.trouble = StoreUnavailable()
    await limits.hit("ada")
    assert [said.partition(":")[0] for said in caplog.messages] == ["rate limit burst,daily"] * 2
    await app.close()


async def test_what_the_store_could_not_give_back_is_given_back_when_it_can() -> None:
    clock = ManualClock()
    store = Failing(clock=clock)
    app = Outlive(store, clock=clock)
    limits = app.ratelimits(Quota("burst", 5, per_seconds=3600))
    async with app:
        answer = await limits.hit("ada", 3)
        store.trouble = StoreUnavailable()
        with pytest.raises(StoreUnavailable):
            await limits.refund("ada", answer)
        store.trouble = None
        assert await limits.refund("ada", answer)
        assert not await limits.refund("ada", answer), "once"
        assert (await limits.peek("ada")).standings[0].left == 5


async def test_a_store_that_says_nothing_is_waited_for_no_longer_than_declared() -> None:
    store = Failing()
    app = Outlive(store)
    limits = app.ratelimits(Quota("burst", 5), timeout_seconds=0.05)
    await app.open_client()
    store.silent = True
    async with asyncio.timeout(30):
        answer = await limits.hit("ada")
    assert answer and not answer.checked
    applier = await limits._place.applier()
    assert applier._task is not None
    applier._task.cancel()
    await app.close()


async def test_the_limiter_of_a_busy_key_asks_again_though_others_were_faster() -> None:
    store = Failing()
    app = Outlive(store)
    limits = app.ratelimits(Quota("burst", 5), timeout_seconds=30)
    await app.open_client()
    faults = [Conflict("busy")] * 3
    commit = store.commit_group

    async def faster(batches: Sequence[Batch]) -> list[Committed | Any]:
        return [faults.pop()] if faults else await commit(batches)

    store.commit_group = faster  # type: ignore[method-assign]
    answer = await limits.hit("ada")
    assert answer.checked and not faults
    await app.close()


# --- here only, and ahead of time -----------------------------------------------------------------


async def test_a_local_limit_asks_no_store_and_remembers_no_more_keys_than_it_may(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Outlive(MemoryStore(clock=clock), clock=clock)  # never opened
    limits = app.ratelimits(Quota("burst", 2, per_seconds=4), scope="local")
    answers = [await limits.hit("ada") for _ in range(3)]
    assert list(map(bool, answers)) == [True, True, False]
    assert await limits.refund("ada", answers[0]) and await limits.hit("ada")
    clock.advance(2)
    assert (await limits.peek("ada")).standings[0].left == 1
    await limits.reset("ada")
    assert (await limits.peek("ada")).standings[0].left == 2
    monkeypatch.setattr(ratelimits, "KEYS_MAX", 10)
    for number in range(100):
        await limits.hit(f"key {number}")
        assert len(limits._local) <= 10 and len(limits._uses) <= 10


async def test_tokens_taken_ahead_are_given_out_without_the_store(
    app: Outlive, clock: ManualClock
) -> None:
    limits = app.ratelimits(
        Quota("burst", 20, per_seconds=1000), scope="hybrid", ahead=8, ahead_seconds=5
    )
    applier = await limits._place.applier()
    answers = await asyncio.gather(*(limits.hit("ada") for _ in range(16)))
    assert all(answers) and applier.commands == 2
    assert sorted(a.standings[0].left for a in answers) == list(range(4, 20))
    assert sum([bool(await limits.hit("ada")) for _ in range(10)]) == 4
    assert await limits.hit("eve")
    clock.advance(5)
    before = applier.commands
    assert await limits.hit("eve")
    assert applier.commands == before + 1, "what was not used in time is lost"


async def test_tokens_taken_ahead_go_back_when_the_application_closes(clock: ManualClock) -> None:
    store = MemoryStore(clock=clock)
    app = Outlive(store, clock=clock)
    limits = app.ratelimits(Quota("burst", 20, per_seconds=10**6), scope="hybrid", ahead=8)
    await app.open_client()
    await limits.hit("ada", 3)
    assert (await limits.peek("ada")).standings[0].left == 12
    await app.close()
    await app.open_client()
    assert (await limits.peek("ada")).standings[0].left == 17
    await app.close()


async def test_what_is_taken_ahead_is_taken_of_a_quota_in_shadow_mode_too(
    clock: ManualClock,
) -> None:
    app = Outlive(MemoryStore(clock=clock), clock=clock)
    quotas = Quota("new", 5, per_seconds=10**6, shadow=True), Quota("old", 20, per_seconds=10**6)
    limits = app.ratelimits(*quotas, scope="hybrid", ahead=3)
    await app.open_client()
    answers = [await limits.hit("ada") for _ in range(9)]
    assert all(answers)
    assert [answer.shadowed_by for answer in answers] == [()] * 5 + [("new",)] * 4
    await app.close()
    await app.open_client()
    assert [one.left for one in (await limits.peek("ada")).standings] == [0, 11]
    await app.close()


def test_a_limiter_that_means_nothing_is_refused_where_it_is_declared() -> None:
    app, quota = Outlive("memory://"), Quota("burst", 1)
    for quotas, options in (
        ((), {}),
        ((quota, quota), {}),
        ((quota,), {"scope": "global"}),
        ((quota,), {"scope": "hybrid"}),
        ((quota,), {"on_failure": "maybe"}),
    ):
        with pytest.raises(ValueError, match=r"quotas|scope|ahead|on_failure"):
            app.ratelimits(*quotas, **options)  # type: ignore[arg-type]


def test_quotas_and_slots_of_one_name_are_refused_where_they_are_declared() -> None:
    app = Outlive("memory://")
    for _ in range(2):
        app.ratelimits(Quota("api", 5))
        app.slots(Slots("exports", 1))
    with pytest.raises(ValueError, match="slots cannot be named 'api': quotas are named so here"):
        app.slots(Slots("api", 2))
    with pytest.raises(ValueError, match="quotas cannot be named 'exports': slots"):
        app.ratelimits(Quota("exports", 5))
    app.slots(Slots("api", 2), storage="durable")
    app.ratelimits(Quota("exports", 5), scope="local")


# --- slots ----------------------------------------------------------------------------------------


async def test_so_many_hold_a_slot_and_the_next_is_told_when_to_come_back(app: Outlive) -> None:
    exports = app.slots(Slots("exports", 2, lease_seconds=30))
    async with exports.hold("acme") as first, exports.hold("acme"):
        with pytest.raises(NoSlot) as refusal:
            async with exports.hold("acme"):
                raise AssertionError("three at once")
        assert 29 < refusal.value.facts["retry_after"] <= 30
        assert not first.lost
        async with exports.hold("other"):
            pass
    async with exports.hold("acme"), exports.hold("acme"):
        pass


class Slow(MemoryStore):
    """A store that has written, and does not say so while its gate is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.written = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def commit_group(self, batches: Sequence[Batch]) -> list[Any]:
        results = await super().commit_group(batches)
        self.written.set()
        await self.gate.wait()
        return results

    def close_gate(self) -> None:
        self.gate.clear()
        self.written.clear()


async def _held(slots: SlotKeeper, key: str) -> None:
    async with slots.hold(key):
        await asyncio.Event().wait()


async def _until_all_is_decided(slots: SlotKeeper) -> None:
    applier = await slots._place.applier()
    while applier._task is not None:
        await asyncio.sleep(0)


async def test_who_is_cancelled_while_a_slot_is_taken_for_him_does_not_keep_it() -> None:
    store = Slow()
    app = Outlive(store)
    exports = app.slots(Slots("exports", 1, lease_seconds=3600))
    await app.open_client()
    store.close_gate()
    holding = asyncio.create_task(_held(exports, "acme"))
    async with asyncio.timeout(60):
        await store.written.wait()
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        store.gate.set()
        await _until_all_is_decided(exports)
        async with exports.hold("acme"):
            pass
    await app.close()


async def test_who_is_cancelled_again_while_he_leaves_a_slot_does_not_keep_it() -> None:
    store = Slow()
    app = Outlive(store)
    exports = app.slots(Slots("exports", 1, lease_seconds=3600))
    await app.open_client()
    async with asyncio.timeout(60):
        holding = asyncio.create_task(_held(exports, "acme"))
        await store.written.wait()
        await _until_all_is_decided(exports)
        store.close_gate()
        other = asyncio.create_task(_held(exports, "other"))  # what comes behind it has to wait
        await store.written.wait()
        for _ in range(10):
            holding.cancel()
            await asyncio.sleep(0)
        assert holding.done()
        store.gate.set()
        await _until_all_is_decided(exports)
        async with exports.hold("acme"):
            pass
        other.cancel()
        await asyncio.gather(other, holding, return_exceptions=True)
    await app.close()


async def test_a_slot_is_renewed_while_it_is_held(app: Outlive, clock: ManualClock) -> None:
    calls: list[Any] = []
    clock.call_later = _later(calls)  # type: ignore[method-assign]
    exports = app.slots(Slots("exports", 1, lease_seconds=30))
    async with exports.hold("acme") as slot:
        for _ in range(5):
            async with asyncio.timeout(30):
                while not calls:
                    await asyncio.sleep(0)
            clock.advance(10)
            until = slot._until
            calls.pop()()
            async with asyncio.timeout(30):
                while slot._until == until:
                    await asyncio.sleep(0)
        assert not slot.lost
        with pytest.raises(NoSlot):
            async with exports.hold("acme"):
                raise AssertionError("two at once")


def _later(calls: list[Any]) -> Any:
    class Cancelled:
        def cancel(self) -> None: ...

    def call_later(seconds: float, call: Any) -> Cancelled:
        if seconds == 10:
            calls.append(call)
        return Cancelled()

    return call_later


async def test_a_slot_of_one_who_died_is_free_when_its_lease_ends(
    app: Outlive, clock: ManualClock
) -> None:
    exports = app.slots(Slots("exports", 1, lease_seconds=30))
    dead = ratelimits.Slot(exports, exports.slots.key("acme"), "dead")
    assert (await dead.take()).held
    with pytest.raises(NoSlot):
        async with exports.hold("acme"):
            raise AssertionError("the lease goes on")
    clock.advance(30)
    assert dead.lost
    async with exports.hold("acme"):
        await dead.free()
        assert not (await dead.take(renew=True)).held
        with pytest.raises(NoSlot):
            async with exports.hold("acme"):
                raise AssertionError("a late release freed another's slot")


# --- several processes ----------------------------------------------------------------------------


def ask(address: str, cells: str, scope: str, ahead: int, hits: int = 600) -> list[list[int]]:
    """What three processes were answered that asked at the same time, a hundred at once."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", ASKERS, address, cells, scope, str(ahead), str(hits)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for one in running:
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
    for one in running:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    rows: list[list[int]] = []
    for one in running:
        said, _ = one.communicate(timeout=120)
        assert one.returncode == 0
        rows += [[int(word) for word in line.split()] for line in said.splitlines()]
    assert len(rows) == 3 * hits
    assert all(checked for _, checked, _, _ in rows)
    return rows


def demand_bound(rows: list[list[int]], more: int) -> None:
    """In no interval was more admitted than the burst of 30, 30 a second, and `more`.

    An answer was decided between its question and its arrival; where these lie within an interval,
    so does the decision.
    """
    found = [(before, after) for admitted, _, before, after in rows if admitted]
    assert len(found) >= 30
    for first in {before for before, _ in found}:
        for last in {after for _, after in found if after >= first}:
            inside = sum(first <= before and after <= last for before, after in found)
            assert inside <= 30 + 30 * (last - first) / 1_000_000 + more + 1e-6


@pytest.fixture(params=["memcached", "postgres", "sqlite", "valkey"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The address of an application's store, and of the cells."""
    if request.param == "postgres":
        address = request.getfixturevalue("postgres")
        return f"{address}?schema=limits_{ids.token(40)}", ""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db", ""
    server: CellServer = request.getfixturevalue(request.param)
    return "memory://", f"{server.address}?prefix={ids.token(40)}"


def test_three_processes_with_a_hundred_questions_each_admit_no_more_than_one(
    place: tuple[str, str],
) -> None:
    demand_bound(ask(*place, "shared", 0), 0)


def test_three_processes_that_take_ahead_admit_no_more_than_they_took(
    place: tuple[str, str],
) -> None:
    demand_bound(ask(*place, "hybrid", 5), 3 * 5)
