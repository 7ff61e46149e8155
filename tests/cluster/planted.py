"""The workshop on PostgreSQL with a planted bug: a node that believes it owns what it once owned.

The trust check is off (tests/crash/trusting.py), and so is what this side of the connection knows
of the fence. The other side is the function in the database, which the test makes anew without it.
Importing this plants the bug in the process that does. Only for the test that shows that the oracle
sees what the fence prevents.
"""

from __future__ import annotations

from typing import Any

import msgspec
import tests.crash.trusting  # noqa: F401

from outlive.stores import postgres_lane
from outlive.stores.postgres_group import Facts, Plan

_facts_of = postgres_lane.facts_of


def believed(plan: Plan, row: Any) -> Facts:
    """What the store says of the shards, but that each is held by who writes."""
    facts = _facts_of(plan, row)
    for lease in plan.appends:
        fact = facts.shards[lease.shard]
        facts.shards[lease.shard] = msgspec.structs.replace(
            fact, owner=lease.owner, epoch=lease.epoch
        )
    return facts


postgres_lane.facts_of = believed

from tests.cluster.workshop import app, service  # noqa: E402

__all__ = ["app", "service"]
