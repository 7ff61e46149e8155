"""What this process was told is durable, held against what a server says that it has.

    told       the last event of each shard, with its chain, and the last group of each lane, for
               which a commit of class `durable` was acknowledged to this process
    timeline   the highest that was seen: each promotion of a standby raises it

A fail-over to a standby that lagged, or a backup put in place of the database, loses commits that
were acknowledged. Nobody can bring them back, but nobody shall go on as if they were there. So
every new connection is asked, before it is used, for the very events and marks that were told; a
longer shard does not do, because another node may have written on over the gap. A promotion cuts
all connections, so it is seen before anything else is done.

    told ── all there ──> go on           a lower timeline ──> an old primary: not used
       └── any missing ──> went back: said in the log and the store, and this store is done with

Not seen: the loss of what was acknowledged by nodes that have died meanwhile (nobody is left who
was told), by `relaxed` commits (they promise less), and in lanes that were idle for days.
"""

from __future__ import annotations

import logging
from typing import Any

from outlive.clock import Clock
from outlive.errors import StoreUnavailable, StoreWentBack
from outlive.stores.postgres_group import Chains, Group, Plan

log = logging.getLogger("outlive")

MARK_SECONDS = 6 * 86_400.0
"""A mark told longer ago is not asked for: the store forgets those of a week ago."""


class Recall:
    """The memory of one open store. `where` names it in what is said."""

    def __init__(self, where: str, clock: Clock) -> None:
        self.where = where
        self.timeline = 0
        self.lost: StoreWentBack | None = None
        """Why this store may not be used any more."""
        self._clock = clock
        self._events: Chains = {}
        self._marks: dict[str, tuple[int, float]] = {}

    def told(self, lane: str, number: int, group: Group, plan: Plan) -> None:
        """Group `number` of `lane` was acknowledged."""
        if group.relaxed:
            return
        self._marks[lane] = number, self._clock.boot()
        for shard, (seq, chain) in plan.chains.items():
            known = self._events.get(shard)
            if known is None or known[0] < seq:
                self._events[shard] = seq, chain

    def question(self) -> tuple[list[Any], ...]:
        """The arguments of `recall`: shards, seqs, chains; lanes, numbers."""
        oldest = self._clock.boot() - MARK_SECONDS
        marks = [(lane, number) for lane, (number, at) in self._marks.items() if at > oldest]
        return (
            list(self._events),
            [seq for seq, _ in self._events.values()],
            [chain for _, chain in self._events.values()],
            [lane for lane, _ in marks],
            [number for _, number in marks],
        )

    def rose(self, timeline: int) -> bool:
        """Take note of a primary's timeline; whether it is another than before.

        Raises `StoreUnavailable` for a standby (0) and for a primary that was replaced.
        """
        if not timeline:
            raise StoreUnavailable("The server is a standby; nothing was read or written.")
        if timeline < self.timeline:
            raise StoreUnavailable(
                f"The server is an old primary (timeline {timeline}, and {self.timeline} was seen);"
                " nothing was read or written."
            )
        risen = 0 < self.timeline < timeline
        self.timeline = timeline
        return risen

    def demand(self, shards: list[int], lanes: list[str]) -> None:
        """Raise `StoreWentBack`, now and from now on, if any of what was told is missing."""
        if shards or lanes:
            told = [f"the last acknowledged event of shard {shard}" for shard in sorted(shards)]
            told += [f"the last acknowledged commit of {lane}" for lane in sorted(lanes)]
            more = f" and {len(told) - 3} more" if len(told) > 3 else ""
            raise self.went_back(f"{', '.join(told[:3])}{more} missing")

    def went_back(self, what: str) -> StoreWentBack:
        """The store is done with; gives the error to raise, always the same."""
        if self.lost is None:
            self.lost = StoreWentBack(
                f"The store in {self.where} went back in time (timeline {self.timeline}): {what}. "
                "A fail-over lost commits that were acknowledged, or an old backup took the "
                "database's place. This process does nothing more on it."
            )
            log.critical("%s", self.lost)
        return self.lost
