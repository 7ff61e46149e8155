"""What lives in which shard: the types and versions of the processes that have not ended.

Looked up only while nodes of several builds are there, and then only now and then: the newest
`SAMPLE_MAX` processes of each status that is not an end. A hint, and good enough: what a node
meets and cannot run is shown as `no_worker_for_version`, which is a status of its own, so that it
is seen at the next look.
"""

from __future__ import annotations

from outlive.kinds.processes import FINAL, STATUSES
from outlive.kinds.processes.cells import read_head, space_of
from outlive.kinds.processes.definition import label_of
from outlive.model import shard_of
from outlive.store import Store

SAMPLE_MAX = 1000


async def needs_of(store: Store) -> dict[int, frozenset[str]]:
    """The labels of what lives in each shard in which anything was found to live."""
    spaces = [space_of(shard) for shard in range(store.shards)]
    found: dict[int, set[str]] = {}
    for status in STATUSES:
        if status in FINAL:
            continue
        low, high = f"{status} ", f"{status} ~"
        page = await store.select(spaces, "process.status", low, high, SAMPLE_MAX, newest=True)
        for _, cell in page:
            head = read_head(cell.value)
            shard = shard_of(cell.key, store.shards)
            found.setdefault(shard, set()).add(label_of(head.type, head.version))
    return {shard: frozenset(labels) for shard, labels in found.items()}
