"""Idempotency keys decided on a dict of cells, against a model; and when two requests are one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from tests.kinds.worlds import World

from outlive.clock import MICROS
from outlive.kinds.requests.decisions import (
    Answer,
    Claim,
    Command,
    Complete,
    Doubt,
    Expire,
    Look,
    Place,
    Release,
    Renew,
    Reply,
    RequestKind,
    Resolve,
    read_record,
)
from outlive.kinds.requests.fingerprints import Asked, canonical, fingerprints_of

LEASE, KEEP = 30, 86_400
PLACE = Place("k", "ada", "acme", "POST", "/orders")


class Known(Struct):
    """What the model knows of the key."""

    state: str
    owner: str
    lease: int = 0
    keep: int = 0
    answer: int = 0
    effects_possible: bool = True


owner = st.sampled_from(["o1", "o2", "o3"])
ACTIONS = st.one_of(
    st.tuples(st.just("claim"), st.sampled_from(["2:a", "2:b"])),
    st.tuples(st.just("renew"), owner),
    st.tuples(st.just("complete"), owner, st.sampled_from([201, 402])),
    st.tuples(st.just("release"), owner),
    st.tuples(st.just("doubt"), owner),
    st.tuples(st.just("look")),
    st.tuples(st.just("resolve"), st.sampled_from([0, 200])),
    st.tuples(st.just("expire")),
    st.tuples(st.just("wait"), st.sampled_from([1, 29, 31, 1000, 86_399, 86_401])),
    st.tuples(st.just("sweep")),
)


class Pair:
    """The kind and the model, told the same things; one key."""

    def __init__(self) -> None:
        self.world: World[Command, Reply] = World(RequestKind())
        self.known: Known | None = None
        self.fingerprint = ""
        self.tokens: dict[str, str] = {}
        self.claims = 0
        self.excused = 0
        """How many claims were given back, resolved as not done, or forgotten in time."""

    def act(self, action: tuple[Any, ...]) -> None:
        self._tick()
        kind, *rest = action
        getattr(self, "_" + kind)(*rest)
        self._tick()
        found = self.world.do(Look(PLACE.name))
        if self.known is None:
            assert found.said == "absent"
        else:
            assert found.record is not None and found.record.state == self.known.state
            if self.known.state == "done":
                assert found.record.answer is not None
                assert found.record.answer.status == self.known.answer
        # Never a second claim without a reason why the first one's effect is out of the way.
        assert self.claims <= self.excused + 1

    def _tick(self) -> None:
        """What the clocks make of it."""
        known, now = self.known, self.world.now
        if known is None:
            return
        if known.state == "running" and known.lease <= now:
            known.state = "unknown"
        if known.state == "done" and known.keep <= now:
            self._gone()

    def _gone(self) -> None:
        self.known = None
        self.excused += 1

    def _claim(self, fingerprint: str) -> None:
        token = f"t{self.world.version}-{self.claims}"
        reply = self.world.do(Claim(PLACE, {"2": fingerprint}, token, LEASE * MICROS))
        known = self.known
        if known is None:
            assert reply.said == "claimed"
            self.claims += 1
            self.fingerprint = fingerprint
            self.tokens[f"o{self.claims % 3 + 1}"] = token
            self.known = Known("running", token, self.world.now + LEASE * MICROS)
        elif fingerprint != self.fingerprint:
            assert reply.said == "reused"
        else:
            assert (
                reply.said
                == {"running": "running", "unknown": "unknown", "done": "replay"}[known.state]
            )

    def _mine(self, owner: str) -> str:
        known = self.known
        token = self.tokens.get(owner, "never")
        return token if known is not None and known.owner == token else ""

    def _renew(self, owner: str) -> None:
        command = Renew(PLACE.name, self.tokens.get(owner, "never"), LEASE * MICROS)
        reply = self.world.do(command)
        if self._mine(owner) and self.known is not None and self.known.state == "running":
            assert reply.said == "done"
            self.known.lease = self.world.now + LEASE * MICROS
        else:
            assert reply.said == "lost"

    def _complete(self, owner: str, status: int) -> None:
        token = self.tokens.get(owner, "never")
        reply = self.world.do(Complete(PLACE.name, token, Answer(status), KEEP * MICROS))
        known = self.known
        if self._mine(owner) and known is not None and known.state == "running":
            assert reply.said == "done"
            known.state, known.answer = "done", status
            known.keep = self.world.now + KEEP * MICROS
        elif self._mine(owner) and known is not None and known.state == "done":
            assert reply.said == "done" and reply.record is not None
        else:
            assert reply.said == "lost"

    def _release(self, owner: str) -> None:
        reply = self.world.do(Release(PLACE.name, self.tokens.get(owner, "never")))
        if self._mine(owner) and self.known is not None and self.known.state == "running":
            assert reply.said == "done"
            self._gone()
        else:
            assert reply.said == "lost"

    def _doubt(self, owner: str) -> None:
        self.world.do(Doubt(PLACE.name, self.tokens.get(owner, "never")))
        if self._mine(owner) and self.known is not None and self.known.state == "running":
            self.known.state = "unknown"

    def _look(self) -> None:
        self.world.do(Look(PLACE.name))

    def _resolve(self, status: int) -> None:
        answer = Answer(status) if status else None
        reply = self.world.do(Resolve(PLACE.name, answer, KEEP * MICROS, "ops", "why"))
        known = self.known
        if known is None or known.state != "unknown":
            assert reply.said == ("absent" if known is None else "refused")
        elif status:
            assert reply.said == "done"
            self.known = Known("done", "", 0, self.world.now + KEEP * MICROS, status)
        else:
            self._gone()

    def _expire(self) -> None:
        reply = self.world.do(Expire(PLACE.name))
        if self.known is not None and self.known.state != "running":
            assert reply.said == "done"
            self._gone()
        else:
            assert reply.said in ("absent", "refused")

    def _wait(self, seconds: int) -> None:
        self.world.now += seconds * MICROS

    def _sweep(self) -> None:
        self.world.sweep()


@settings(max_examples=120)
@given(st.lists(ACTIONS, max_size=30))
def test_a_key_is_what_a_dict_with_two_clocks_is(actions: list[tuple[Any, ...]]) -> None:
    pair = Pair()
    for action in actions:
        pair.act(action)


def claimed(mode: Any, token: str = "t") -> Claim:
    return Claim(PLACE, {"2": "2:a"}, token, LEASE * MICROS, mode)


def test_what_may_be_repeated_is_claimed_anew_when_its_owner_died() -> None:
    world: World[Command, Reply] = World(RequestKind())
    assert world.do(claimed("recovery", "one")).said == "claimed"
    assert world.do(claimed("recovery", "two")).said == "running"
    world.now += LEASE * MICROS
    world.sweep()
    assert world.do(claimed("recovery", "two")).said == "claimed"
    late = world.do(Complete(PLACE.name, "one", Answer(500), KEEP))
    assert late.said == "lost" and late.record is not None and late.record.state == "running"


def test_a_claim_whose_answer_was_lost_is_asked_again() -> None:
    world: World[Command, Reply] = World(RequestKind())
    assert world.do(claimed("at-most-once")).said == world.do(claimed("at-most-once")).said


def test_a_transactional_claim_writes_nothing() -> None:
    world: World[Command, Reply] = World(RequestKind())
    assert world.do(claimed("transactional")).said == "claimed" and world.cells == {}


def test_an_owner_that_comes_late_is_refused_and_what_it_knows_is_noted() -> None:
    world: World[Command, Reply] = World(RequestKind())
    world.do(claimed("at-most-once"))
    world.now += (LEASE + 1) * MICROS
    assert world.do(Look(PLACE.name)).said == "unknown"
    assert world.do(Complete(PLACE.name, "t", Answer(201), KEEP)).said == "lost"
    (value,) = world.values("once")
    assert read_record(value).state == "unknown" and read_record(value).late == 201


def test_all_of_the_place_is_what_a_key_is_bound_to() -> None:
    places = {
        Place("k", "ada", "acme", "POST", "/orders").name, Place("k", "ada", "acme", "POST").name,
        Place("k", "ad", "aacme", "POST", "/orders").name, Place("k", "ada", "acme", "PATCH").name,
        Place("kada", "", "acme", "POST", "/orders").name, Place("k", "ada", "", "POST").name,
    }  # fmt: skip
    assert len(places) == 6


# --- fingerprints -------------------------------------------------------------------------------


def asked(body: bytes, media: str = "application/json", **rest: Any) -> str:
    made = Asked(**({"method": "POST", "route": "/a/{b}", "parameters": {"b": "1"}} | rest),
                 body=body, media=media)  # fmt: skip
    return fingerprints_of(made)["1"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


def turned(value: Any) -> Any:
    """The same value with its members in another order."""
    if isinstance(value, dict):
        return {name: turned(value[name]) for name in reversed(list(value))}
    return [turned(one) for one in value] if isinstance(value, list) else value


@settings(max_examples=50)
@given(JSON)
def test_order_spaces_and_escapes_make_no_difference(value: Any) -> None:
    plain = json.dumps(value, ensure_ascii=True).encode()
    other = json.dumps(turned(value), indent=3, ensure_ascii=False).encode()
    assert asked(plain) == asked(other) == asked(plain, "application/problem+json; charset=utf-8")


def test_one_number_has_many_ways_and_one_fingerprint() -> None:
    assert len({asked(text) for text in (b"100", b"100.0", b"1e2", b"1E+2", b"100.00")}) == 1
    assert asked(b"0.1") == asked(b"0.10") != asked(b"0.11")
    assert asked(b"9007199254740993") != asked(b"9007199254740992")  # no float has the first


def test_accents_composed_in_two_ways_are_two_texts() -> None:
    one, escaped, composed = '"\u00e9"'.encode(), b'"\\u00e9"', '"e\u0301"'.encode()
    assert asked(one) == asked(escaped) != asked(composed)


@pytest.mark.parametrize(
    "other",
    [
        {"method": "PATCH"}, {"route": "/x/{b}"}, {"parameters": {"b": "2"}},
        {"media": "text/plain"}, {"fields": ("a",)},
    ],
    ids=str,
)  # fmt: skip
def test_each_part_of_a_request_counts(other: dict[str, Any]) -> None:
    assert asked(b'{"a":1}') != asked(b'{"a":1}', **other)


def test_the_query_counts_by_its_names_and_values_and_not_by_rule_1() -> None:
    def told(query: str) -> dict[str, str]:
        return fingerprints_of(Asked("POST", "/a", {}, b"{}", query=query))

    plain, one = told(""), told("cents=5&to=ada")
    assert one["1"] == plain["1"] and plain["2"] == "2" + plain["1"][1:]
    assert told("to=ada&cents=5") == told("to=%61da&cents=5") == one
    others = ("cents=50&to=ada", "cents=5", "to=ada&cents=", "to=%E9&cents=5", "to=%E8&cents=5")
    assert len({told(query)["2"] for query in ("", *others)} | {one["2"]}) == 7


def test_broken_json_and_bytes_count_by_their_bytes() -> None:
    assert asked(b"{") != asked(b"{ ") and asked(b"[" * 100_000) != asked(b"[" * 100_001)
    assert asked(b"\xff\x00", "image/png") != asked(b"\xff\x01", "image/png")


def test_the_first_rule_never_changes() -> None:
    """Records that were written years ago are compared by it."""
    assert asked(b'{"b":1.0,"a":[true,null,"\xc3\xa9"]}') == (
        "1:a3b5ad7c725b3fa6c9b31982acf062c1666cabab1f4c9a374509f0feb7448221"
    )
    assert canonical({"b": 1.0, "a": [2.5, 10**20]}) == b'{"a":[2.5,100000000000000000000],"b":1}'
