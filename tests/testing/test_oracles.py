"""The oracles: each is silent about a sound store, and speaks about the flaw it is there for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from outlive import Outlive, Run, step
from outlive.model import Event, Hold, Shard
from outlive.stores.chain import GENESIS, link
from outlive.stores.memory import MemoryStore
from outlive.testing import oracles
from outlive.testing.oracles import Effect, Facts, Process


@step
async def knead(name: str) -> str:
    return name


async def bake(run: Run, name: str) -> str:
    return await run(knead, name)


@pytest.fixture
async def facts() -> Facts:
    """What a store says after three processes have run on it."""
    store = MemoryStore(shards=2)
    app = Outlive(store)
    app.process("/loaves", version=1, prefix="loaf")(bake)
    async with app:
        for name in ("rye", "oat", "bun"):
            await (await app.start(bake, name)).result(within=60)
        return await oracles.facts_of(store)


def chained(*said: tuple[str, dict[str, Any]]) -> tuple[Event, ...]:
    """One stream in shard 0, as a store would have written it."""
    events, chain = [], GENESIS
    for at, (kind, content) in enumerate(said):
        data = msgspec.json.encode(content)
        chain = link(chain, 0, at + 1, "s", at, kind, at, data)
        events.append(Event(0, at + 1, "s", at, kind, data, at, chain))
    return tuple(events)


def told(events: Iterable[Event], *holds: Hold) -> Facts:
    events = tuple(events)
    return Facts((Shard(0, "", 9, len(events)),), holds, {0: events}, {})


def test_a_sound_store_has_no_flaws(facts: Facts) -> None:
    ids = list(facts.processes)
    assert len(ids) == 3
    assert facts.ended_as("done") == set(ids)
    assert not oracles.p1_acknowledged_is_durable(facts, ids)
    assert not oracles.p4_one_effective_holder(facts)
    assert not oracles.p5_one_answer_per_key(facts, {id: [id] for id in ids})
    assert not oracles.p6_work_ends_once(facts, ids)
    assert not oracles.p7_journal_grammar(facts)
    assert not oracles.p8_nothing_is_stuck(facts)
    assert not oracles.p9_tails_are_dense(facts)
    assert not oracles.p10_chain_verifies(facts)


def test_p1_names_what_was_acknowledged_and_is_gone(facts: Facts) -> None:
    (flaw,) = oracles.p1_acknowledged_is_durable(facts, ["loaf_nowhere", *facts.processes])
    assert "loaf_nowhere" in flaw


def test_p2_wants_exactly_the_rows_that_are_spoken_of() -> None:
    assert not oracles.p2_rows_agree([("a", "active")], {"a": "active"})
    assert oracles.p2_rows_agree([("a", "active"), ("a", "active")], {"a": "active"})
    assert oracles.p2_rows_agree([("a", "pending")], {"a": "active"})
    assert oracles.p2_rows_agree([], {"a": "active"})
    assert oracles.p2_rows_agree([("b", "active")], {})


def test_p4_sees_a_write_of_who_held_the_shard_before() -> None:
    events = chained(("started", {"node": "a"}), ("taken", {"node": "b"}), ("taken", {"node": "a"}))
    holds = (Hold(0, 1, "a", 0, 0, ""), Hold(0, 2, "b", 1, 1, "a"))
    (flaw,) = oracles.p4_one_effective_holder(told(events, *holds))
    assert "event 3" in flaw and "written by a while b" in flaw
    assert not oracles.p4_one_effective_holder(told(events[:2], *holds))
    assert oracles.p4_one_effective_holder(told(events[:1])), "nobody held it"


def test_p4_wants_rising_epochs() -> None:
    holds = (Hold(0, 2, "a", 0, 0, ""), Hold(0, 2, "b", 1, 1, "a"))
    assert oracles.p4_one_effective_holder(told((), *holds))


def test_p4_wants_holds_in_the_order_of_their_times() -> None:
    holds = (Hold(0, 1, "a", 0, 5, ""), Hold(0, 2, "b", 1, 4, "a"))
    assert oracles.p4_one_effective_holder(told((), *holds))
    assert not oracles.p4_one_effective_holder(
        told((), holds[0], msgspec.structs.replace(holds[1], time=5))
    )


def test_p5_sees_two_processes_of_one_key_and_one_of_none(facts: Facts) -> None:
    first, second, third = facts.processes
    assert len(oracles.p5_one_answer_per_key(facts, {"k": [first, second], "l": [third]})) == 1
    assert len(oracles.p5_one_answer_per_key(facts, {"k": [first], "l": [second]})) == 1


def test_p5_wants_one_standing_effect_for_each_key_and_none_else() -> None:
    made = [Effect("a", 1), Effect("b", 1, undone=True), Effect("c", 0)]
    assert not oracles.p5_one_effect_per_key(made, ["a"])
    assert oracles.p5_one_effect_per_key(made, ["a", "b"]), "b was undone"
    assert oracles.p5_one_effect_per_key(made, []), "a belongs to nothing"
    assert not oracles.p5_one_effect_per_key(made, [], ["a"])
    assert oracles.p5_one_effect_per_key([Effect("a", 2)], ["a"]), "twice"
    assert oracles.p5_one_effect_per_key([Effect("a", 1), Effect("a", 1)], ["a"]), "in two places"


def test_p6_wants_one_end_and_a_cell_that_says_so(facts: Facts) -> None:
    (id, whole), *_ = facts.processes.items()
    for journal in (whole.journal[:-1], (*whole.journal, whole.journal[-1])):
        broken = {id: msgspec.structs.replace(whole, journal=journal)}
        assert oracles.p6_work_ends_once(msgspec.structs.replace(facts, processes=broken), [id])


STARTED = ("started", {"node": "a"})
DONE = ("ended", {"status": "done"})
A = ("step", {"id": "a", "undo": "no_a"})
B = ("step", {"id": "b", "undo": "no_b"})
PART = ("decided", {"id": "scope", "what": "scope", "undo": ["b", "a"]})
BACK = ("compensating", {"error": {}})
GO, WAIT = ("signal", {"name": "go"}), ("wait", {"id": "wait go"})
TOOK = ("waited", {"id": "wait go", "signal": 1})
NO_A, NO_B = ("undone", {"id": "a"}), ("undone", {"id": "b"})


@pytest.mark.parametrize(
    "said",
    [
        (STARTED, A, B, DONE),
        (STARTED, A, B, BACK, NO_B, NO_A, DONE),
        (STARTED, A, B, BACK, NO_B),
        (STARTED, A, ("compensating", {"error": {}, "unknown": [{"id": "b"}]}), NO_B, NO_A, DONE),
        (STARTED, B, ("stuck", {"id": "b"}), ("resumed", {}), B, DONE),
        (STARTED, A, B, PART, NO_B, NO_A, DONE),
        (STARTED, A, B, PART, NO_B, BACK, NO_A, DONE),
        (STARTED, GO, WAIT, TOOK, DONE),
    ],
)
def test_p7_has_nothing_against_these(said: Any) -> None:
    assert not oracles.grammar_flaws(chained(*said))


@pytest.mark.parametrize(
    "said",
    [
        (A, STARTED),
        (STARTED, STARTED),
        (STARTED, A, A, DONE),
        (STARTED, DONE, A),
        (STARTED, DONE, DONE),
        (STARTED, A, B, BACK, NO_A, NO_B, DONE),
        (STARTED, A, B, BACK, NO_B, DONE),
        (STARTED, A, BACK, NO_A, NO_A, DONE),
        (STARTED, A, BACK, B, NO_B, NO_A, DONE),
        (STARTED, A, BACK, BACK, NO_A, DONE),
        (STARTED, A, B, NO_B, DONE),
        (STARTED, A, B, PART, NO_A, DONE),
        (STARTED, A, B, PART, NO_A, NO_B, DONE),
        (STARTED, A, B, PART, NO_B, NO_B, DONE),
        (STARTED, A, B, PART, NO_B, NO_A, BACK, NO_A, DONE),
        (STARTED, GO, WAIT, TOOK, ("wait", {"id": "wait go#2", "signal": 1}), DONE),
        (STARTED, GO, WAIT, TOOK, TOOK, DONE),
    ],
)
def test_p7_refuses_these(said: Any) -> None:
    assert oracles.grammar_flaws(chained(*said))


def test_p7_refuses_a_hole() -> None:
    events = chained(STARTED, A, DONE)
    assert oracles.grammar_flaws((events[0], events[2]))


@pytest.mark.parametrize(
    ("status", "waits_for", "due", "stuck"),
    [
        ("waiting", "confirmed", None, False),
        ("waiting", "", 17, False),
        ("waiting", "", None, True),
        ("running", "", None, True),
        ("running", "confirmed", 17, True),
        ("queued", "", None, True),
        ("paused", "", None, True),
        ("stuck", "", None, True),
        ("done", "", None, False),
    ],
)
def test_p8_asks_what_will_wake_it(
    facts: Facts, status: str, waits_for: str, due: int | None, stuck: bool
) -> None:
    (id, whole), *_ = facts.processes.items()
    head = msgspec.structs.replace(whole.head, status=status, waits_for=waits_for)
    only = msgspec.structs.replace(facts, processes={id: Process(id, head, due, ())})
    assert bool(oracles.p8_nothing_is_stuck(only)) is stuck


def test_p9_and_p10_see_a_removed_and_an_altered_event() -> None:
    events = chained(STARTED, A, DONE)
    assert not oracles.p9_tails_are_dense(told(events))
    assert oracles.p9_tails_are_dense(told((events[0], events[2])))
    assert oracles.p9_tails_are_dense(msgspec.structs.replace(told(events), tails={0: events[:2]}))
    altered = msgspec.structs.replace(events[1], data=b'{"id":"z"}')
    (flaw,) = oracles.p10_chain_verifies(told((events[0], altered, events[2])))
    assert "from event 2 on" in flaw


def test_p9_sees_time_go_back() -> None:
    first, second = chained(("started", {}), ("ended", {}))
    assert not oracles.p9_tails_are_dense(told([first, second]))
    assert oracles.p9_tails_are_dense(told([msgspec.structs.replace(first, time=9), second]))
