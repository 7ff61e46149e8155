"""The journals of a process as they are in the store: of the era under way, and of those before.

A position counts over all eras. Events that were imported have the times that they had where they
were committed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from outlive.errors import NoSuchEra
from outlive.kinds.processes.eras import ERAS_KEPT_MAX, stream_of
from outlive.kinds.processes.transfer import as_they_were
from outlive.kinds.processes.vocabulary import unpack
from outlive.model import ERASED

if TYPE_CHECKING:
    from outlive.kinds.processes import Head
    from outlive.model import Event
    from outlive.store import Store


async def recorded(store: Store, head: Head) -> Sequence[Event]:
    """The events of the era under way. Raises `ProcessGone` when they were erased since its cell
    was read."""
    events = await store.events(head.stream)
    if events and events[0].kind == ERASED:
        unpack(ERASED, b"")  # raises it
    return as_they_were(events) if head.imported else events


async def events_after(
    store: Store, head: Head, after: int, era: int | None = None
) -> Sequence[Event]:
    """The events behind position `after` (-1: all of the era under way), or only those of `era`,
    numbered over all eras. Raises `NoSuchEra`."""
    if era is None and after < head.before and after >= 0:
        return await _over_eras(store, head, after)
    if era is None or era == head.era:
        if head.imported:
            placed = _placed(await recorded(store, head), head.before)
            return [event for event in placed if event.n > after]
        if not head.before:
            return await store.events(head.stream, after)
        return _placed(await store.events(head.stream, max(-1, after - head.before)), head.before)
    return await _of_era(store, head, era, after)


async def _of_era(store: Store, head: Head, era: int, after: int) -> list[Event]:
    events = await store.events(stream_of(head, era))
    if era != head.era and events and events[0].kind == ERASED:
        raise NoSuchEra(f"Era {era} is not kept any more.")
    events = as_they_were(events)
    before = unpack(events[0].kind, events[0].data).before if events else 0
    return [event for event in _placed(events, before) if event.n > after]


async def _over_eras(store: Store, head: Head, after: int) -> list[Event]:
    """Back from the era under way to the one in which `after` lies, or to the oldest kept."""
    found: list[list[Event]] = []
    for era in range(head.era, max(0, head.era - ERAS_KEPT_MAX), -1):
        try:
            events = await _of_era(store, head, era, -1)
        except NoSuchEra:  # the next era began meanwhile
            break
        found.append([event for event in events if event.n > after])
        if not events or events[0].n <= after:
            break
    return [*itertools.chain.from_iterable(reversed(found))]


def _placed(events: Sequence[Event], before: int) -> list[Event]:
    return [msgspec.structs.replace(event, n=event.n + before) for event in events]
