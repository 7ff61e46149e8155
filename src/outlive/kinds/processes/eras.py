"""Eras: an endless process is a row of processes under one id, each with a journal of its own.

    era 1    started ─ … ─ again
                             │ one commit
    era 2                 started ─ carried ─ signal … ─ … ─ again
                                                               │
    era 3                                                   started ─ …

The last event of an era and the first ones of the next are one commit, which also makes the cell
name the new journal. What no wait has taken goes along: signals as they are, and the keys of the
last ones that were taken, so that one that is sent again still counts once.

The journal of era 7 lies in the stream of era 1 with `.7` behind its name; so no list of them grows
with their number, and every key of a step is another one in another era. Events are counted on from
era to era (`before`), so that a position names one moment of the whole process.

Not promised: that an era is kept for ever. The newest `ERAS_KEPT_MAX` can be read; what the ones
before them said is erased.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from outlive.errors import NoSuchEra
from outlive.kinds.processes.cells import Head
from outlive.kinds.processes.journal import Journal
from outlive.kinds.processes.vocabulary import Again, Asked, Carried, Signal, Started, is_taken

ERAS_KEPT_MAX = 100
"""Eras of one process that can be read, the one under way among them."""
ERAS_LEFT = 10
"""Eras that are emptied together when they are kept no more."""
KEYS_CARRIED_MAX = 100
"""Keys of signals that an era takes over from the ones before it, the newest."""


def stream_of(head: Head, era: int) -> str:
    """The stream of the era number `era` of the process. Raises `NoSuchEra` when it has none, or
    keeps it no more."""
    kept = _eras_kept(head)
    if era not in kept:
        raise NoSuchEra(f"Era {era} cannot be read: this process keeps {kept[0]} to {head.era}.")
    return _stream(head.stream, era)


def streams_kept(head: Head) -> list[str]:
    """The streams of the eras that can be read, the oldest first."""
    return [_stream(head.stream, era) for era in _eras_kept(head)]


def streams_left(head: Head) -> list[str]:
    """The streams that are kept no more when the era of `head` has begun: of the era that was the
    oldest, and of some before it, which a death may have left as they were."""
    first = _eras_kept(head).start
    return [_stream(head.stream, era) for era in range(max(1, first - ERAS_LEFT), first)]


def _eras_kept(head: Head) -> range:
    return range(max(1, head.era - ERAS_KEPT_MAX + 1), head.era + 1)


def _stream(stream: str, era: int) -> str:
    root = stream.partition(".")[0]
    return root if era == 1 else f"{root}.{era}"


def next_head(head: Head, version: int, events: int, now: int) -> Head:
    """What the cell says from the next era on; `events`: how many this era has, its last one
    too."""
    era = head.era + 1
    return msgspec.structs.replace(
        head,
        stream=_stream(head.stream, era),
        version=version,
        status="running",
        changed=now,
        waits_for="",
        era=era,
        before=head.before + events,
        imported=False,
    )


def farewell(journal: Journal, era: int) -> Again:
    """The last event of an era, with what it leaves behind, before the era number `era`."""
    return Again(era, len(journal.armed()), journal.waiting_signals())


def opening(id: str, head: Head, raw: Raw, node: str, before: Journal) -> Iterator[Any]:
    """The first events of the era of `head`: its start, and what it takes over."""
    yield Started(
        id, head.type, head.version, raw, node, head.era, head.before, head.parent, head.detached,
        tags=head.tags,
    )  # fmt: skip
    left = tuple(_left(before))
    known = {signal.key for signal in left if isinstance(signal, Signal)}
    ever = (*before.carried, *(signal.key for signal in before.signals.values() if signal.key))
    keys = tuple(key for key in dict.fromkeys(ever) if key not in known)
    if keys:
        yield Carried(keys[-KEYS_CARRIED_MAX:])
    yield from left


def _left(before: Journal) -> Iterator[Signal | Asked]:
    """Signals that no wait has taken, and updates that are not answered. A callback is its
    era's."""
    heard = before.heard
    asked = {} if heard is None else {n: update for update, n in heard.asked.items()}
    for n, signal in before.signals.items():
        if n in asked:
            name, key = asked[n]
            if heard is not None and n not in heard.answers:
                yield Asked(name, signal.payload, key)
        elif n not in before.consumed and not is_taken(signal.name):
            yield signal
