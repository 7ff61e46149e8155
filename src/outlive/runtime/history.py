"""Keeps a node's throughput: what its counters gained, once a minute, in one cell an hour.

A node on which nothing happened writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec.structs import replace

from outlive.clock import Clock
from outlive.errors import OutliveError
from outlive.kinds.processes import Stats
from outlive.kinds.processes.history import (
    DROPPED_MAX,
    MINUTE,
    SPACE,
    Hour,
    Sample,
    since,
    written,
)
from outlive.store import Store

WRITE_SECONDS = 60.0

log = logging.getLogger("outlive")


class History:
    """The counts of one node that are written, and when they were."""

    def __init__(self, store: Store, clock: Clock, node: str, stats: Callable[[], Stats]) -> None:
        self._store = store
        self._clock = clock
        self._node = node
        self._stats = stats
        self._before = Stats(ended={})
        self._hour = 0
        self._minutes: Hour = {}
        self._written = clock.boot()

    @property
    def is_due(self) -> bool:
        """Whether a minute has passed since it was last written."""
        return self._clock.boot() - self._written >= WRITE_SECONDS

    async def write(self) -> None:
        """Write what happened since; what cannot be written is written with the next minute."""
        self._written = self._clock.boot()
        now = self._stats()
        now = replace(now, ended=dict(now.ended))
        sample = since(self._before, now)
        if sample is None:
            return
        try:
            minute = await self._store.now() // MINUTE
            minutes = dict(self._minutes) if minute // 60 == self._hour else {}
            number = str(minute % 60)
            minutes[number] = minutes.get(number, Sample()) + sample
            old = await self._store.scan(SPACE, limit=DROPPED_MAX)
            await self._store.commit(written(minute // 60, self._node, minutes, old))
        except OutliveError as error:
            log.info("the throughput was not written: %s", error.code)
            return
        self._hour, self._minutes, self._before = minute // 60, minutes, now
