"""Planning a group: what is believed, when belief does not do, and what the facts change."""

from __future__ import annotations

from itertools import pairwise

import pytest

from outlive.errors import Conflict, Fenced, Refused, StreamConflict, TooLarge
from outlive.model import ABSENT, Append, Batch, Committed, Lease, Put, Ref, Require
from outlive.store import VALUE_BYTES_MAX
from outlive.stores.chain import GENESIS
from outlive.stores.postgres_group import Facts, Group, ShardFact, Unsure, arguments
from outlive.stores.refusals import DUE_MAX

LEASE = Lease(3, "n", 7)
REF = Ref("s", "k")
CHAINS = {3: (10, bytes(16))}


def adds(*places: tuple[str, int], lease: Lease = LEASE) -> Batch:
    return Batch(lease, append=tuple(Append(stream, n, "did", b"") for stream, n in places))


def facts(version: int = 5, length: int = 1, head: int = 10, owner: str = "n") -> Facts:
    shard = ShardFact(owner, 7, head, 0, bytes(16))
    return Facts(0, {3: shard}, {("s", "k"): version}, {"x": length, "y": 0})


def test_what_is_believed_is_what_the_batches_say() -> None:
    group = Group([adds(("x", 4)), Batch(require=(Require(REF, 8),), put=(Put(REF, b"v"),))])
    plan = group.plan(1, CHAINS)
    assert (plan.streams, plan.cells["s", "k"].need) == ({"x": 4}, 8)
    told = plan.results(1000)
    assert told == {0: Committed(1, (), 11), 1: Committed(1, (1000,), 0)}


def test_belief_does_not_do_for_an_unknown_head_or_what_contradicts_itself() -> None:
    need = [Batch(require=(Require(REF, version),)) for version in (1, 2)]
    for batches, chains in (
        ([adds(("x", 0))], {}),
        (need, CHAINS),
        ([adds(("x", 0)), adds(("y", 0), lease=Lease(3, "n", 6))], CHAINS),
    ):
        with pytest.raises(Unsure):
            Group(batches).plan(1, chains)
    assert Group([Batch(LEASE)]).plan(1, {}).receipts  # a fence alone needs no head


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800b"])
def test_what_cannot_be_kept_is_refused_alone(bad: str) -> None:
    sound = Batch(put=(Put(Ref("s", "\U0001f600"), b"", DUE_MAX),))
    batches = [
        Batch(put=(Put(Ref("s", bad), b""),)),
        Batch(put=(Put(REF, b"", None, (("mark", bad),)),)),
        Batch(require=(Require(Ref("s", bad), 1),)),
        Batch(drop=(Ref(bad, "k"),)),
        adds((bad, 0)),
        Batch(put=(Put(REF, b"", DUE_MAX + 1),)),
        sound,
    ]
    group = Group(batches)
    assert [type(flaw) for flaw in group.flaws.values()] == [Refused] * 6
    assert group.open == [6]


def test_the_facts_refuse_each_batch_alone() -> None:
    batches = [
        Batch(require=(Require(REF, 4),)),
        adds(("x", 2)),
        adds(("y", 0), lease=Lease(3, "other", 7)),
        adds(("x", 1), ("y", 0)),
        Batch(require=(Require(REF, 5),), drop=(REF,)),
        Batch(require=(Require(REF, ABSENT),)),
    ]
    told = Group(batches).plan(1, {}, facts()).results(1000)
    kinds = [Conflict, StreamConflict, Fenced, Committed, Committed, Committed]
    assert [type(told[at]) for at in range(6)] == kinds
    assert told[3] == Committed(1, (), 11)


def test_a_conflict_with_a_put_of_the_same_group_names_its_version() -> None:
    new = Batch(require=(Require(REF, ABSENT),), put=(Put(REF, b""),))
    told = Group([new, new]).plan(1, CHAINS).results(1000)
    conflict = told[1]
    assert isinstance(conflict, Conflict)
    assert conflict.facts == {"ref": REF, "wanted": ABSENT, "found": 1000}


def test_cells_go_in_the_order_of_their_bytes_and_shards_by_number() -> None:
    names = ["é", "z", "🦀", "\uffee", "a"]
    puts = [Batch(put=(Put(Ref("s", name), b""),)) for name in names]
    leased = [Batch(Lease(shard, "n", 1)) for shard in (9, 1, 4)]
    given = arguments(Group([*puts, *leased]).plan(1, {}))
    assert all(a.encode() < b.encode() for a, b in pairwise(given[6]))
    assert given[0] == [1, 4, 9]


def test_the_chain_starts_at_the_beginning_of_a_shard() -> None:
    plan = Group([adds(("y", 0))]).plan(1, {}, facts(head=0))
    assert plan.heads[LEASE] == (0, GENESIS)
    arguments(plan)
    assert plan.chains[3][0] == 1


def test_what_can_never_be_kept_is_refused_before_it_is_sent() -> None:
    group = Group(
        [
            Batch(storage="volatile"),
            Batch(put=(Put(REF, bytes(VALUE_BYTES_MAX + 1)),)),
            Batch(put=(Put(Ref("s", "a\0b"), b""),)),
            Batch(),
        ]
    )
    assert [type(group.flaws[at]) for at in range(3)] == [Refused, TooLarge, Refused]
    assert group.open == [3]
    with pytest.raises(ValueError, match="lease"):
        Group([Batch(append=(Append("s", 0, "did", b""),))])
