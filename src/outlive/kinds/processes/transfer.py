"""A journal on its way from one store to another."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from outlive.kinds.processes.vocabulary import Imported, unpack
from outlive.model import Event


def as_they_were(events: Sequence[Event]) -> list[Event]:
    """The events of an imported journal, at the times they had where they were committed."""
    found = next((event for event in events if event.kind == "imported"), None)
    if found is None:
        return list(events)
    imported: Imported = unpack(found.kind, found.data)
    times = imported.times
    return [
        msgspec.structs.replace(event, time=times[event.n]) if event.n < len(times) else event
        for event in events
    ]
