"""Who should run which shard: even, still, and never an older build where a newer one is needed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outlive.model import Shard
from outlive.runtime.placement import Builds, Move, Needs, move_of, of_one_build

OLD, NEW = frozenset(("x v1",)), frozenset(("x v1", "x v2"))


class Cluster:
    """Nodes that follow the plan, one after the other, until nobody has anything to do."""

    def __init__(self, shards: int, builds: Builds, needs: Needs | None = None) -> None:
        self.owner = dict.fromkeys(range(shards), "")
        self.builds = dict(builds)
        self.needs = needs or {}
        self.moves = 0

    def shards(self) -> list[Shard]:
        return [Shard(id, owner, 1, 0) for id, owner in self.owner.items()]

    def move(self, node: str) -> Move:
        held = [id for id, owner in self.owner.items() if owner == node]
        free = [id for id, owner in self.owner.items() if owner not in self.builds]
        return move_of(node, self.builds, self.shards(), free, held, self.needs)

    def settle(self) -> None:
        for _ in range(50):
            before = dict(self.owner)
            for node in sorted(self.builds):
                move = self.move(node)
                self.owner.update((shard.id, node) for shard in move.take)
                self.owner.update((shard, "") for shard in move.hand_back)
                self.moves += len(move.take)
            if before == self.owner:
                return
        raise AssertionError(f"it never comes to rest: {self.owner}")

    def counts(self) -> list[int]:
        return sorted(list(self.owner.values()).count(node) for node in self.builds)


names = st.sets(st.sampled_from("abcdefgh"), min_size=1)


@given(st.integers(1, 70), st.lists(names, min_size=1, max_size=5))
def test_however_nodes_come_and_go_all_is_even_and_little_moves(
    shards: int, generations: list[set[str]]
) -> None:
    cluster = Cluster(shards, {})
    for nodes in generations:
        before, cluster.moves = dict(cluster.owner), 0
        cluster.builds = dict.fromkeys(nodes, OLD)
        cluster.settle()
        counts = cluster.counts()
        assert sum(counts) == shards and counts[-1] - counts[0] <= 1
        orphans = sum(owner not in nodes for owner in before.values())
        most = -(-shards // len(nodes))
        too_many = sum(
            max(0, list(before.values()).count(node) - most + (shards % len(nodes) != 0))
            for node in nodes
        )
        assert cluster.moves <= orphans + too_many


def test_a_node_that_has_one_more_than_others_keeps_it() -> None:
    cluster = Cluster(7, dict.fromkeys("abc", OLD))
    cluster.owner.update(enumerate("ccabbca"))
    assert [cluster.move(node) for node in "abc"] == [Move()] * 3


def test_a_shard_goes_to_a_node_that_runs_what_lives_in_it_beyond_an_even_share() -> None:
    needs = dict.fromkeys(range(6), NEW)
    cluster = Cluster(8, {"new": NEW, "old": OLD}, needs)
    cluster.owner.update(enumerate("aaaaaaaa".replace("a", "-")))
    cluster.settle()
    assert [id for id, owner in cluster.owner.items() if owner == "new"] == [0, 1, 2, 3, 4, 5]
    assert cluster.counts() == [2, 6], "what is for all evens out what is for some"


def test_an_older_node_hands_back_what_it_cannot_run_and_takes_it_never_again() -> None:
    cluster = Cluster(4, {"a": OLD, "b": OLD})
    cluster.settle()
    cluster.needs = {0: NEW, 1: NEW}
    assert [cluster.move(node).hand_back for node in "ab"] == [(), ()], "nobody could do better"
    cluster.builds["c"] = NEW
    cluster.settle()
    assert (cluster.owner[0], cluster.owner[1]) == ("c", "c")
    assert cluster.counts() == [1, 1, 2]
    del cluster.builds["c"]
    cluster.settle()
    assert cluster.counts() == [2, 2], "with the older nodes alone it is theirs, and shown"


def test_between_builds_of_which_neither_runs_all_a_shard_stays_where_it_is() -> None:
    both = frozenset(("x v1", "y v1"))
    cluster = Cluster(2, {"a": frozenset(("x v1",)), "b": frozenset(("y v1",))}, {0: both, 1: both})
    cluster.owner.update({0: "a", 1: "b"})
    cluster.settle()
    assert cluster.owner == {0: "a", 1: "b"} and cluster.moves == 0
    cluster.needs = {0: frozenset(("y v1",))}
    cluster.settle()
    assert cluster.owner[0] == "b", "when the last that a runs has ended it is b's"


builds = st.dictionaries(st.sampled_from("abcd"), st.sampled_from((OLD, NEW)), min_size=1)


@given(builds, st.dictionaries(st.integers(0, 15), st.sampled_from((OLD, NEW))), st.data())
def test_whatever_the_builds_it_comes_to_rest_and_each_shard_is_with_a_node_that_fits(
    builds: dict[str, frozenset[str]], needs: dict[int, frozenset[str]], data: st.DataObject
) -> None:
    cluster = Cluster(16, builds, needs)
    owners = st.sampled_from(sorted(builds))
    cluster.owner = {id: data.draw(owners) for id in cluster.owner}
    cluster.settle()
    best = max(map(len, builds.values()))
    for shard, owner in cluster.owner.items():
        assert owner in builds
        if needs.get(shard) == NEW:
            assert len(builds[owner]) == best
    if of_one_build(builds):
        assert cluster.counts()[-1] - cluster.counts()[0] <= 1
