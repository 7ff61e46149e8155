"""What nobody is shown: values of members with certain names, wherever in a document they stand.

The process itself sees them, and they are stored as they are (seal them too: `encryption=`). What
is shown, over HTTP, on the pages, by the command line and to Python, has `…` in their place.

Not promised: that a message of an error says nothing. Its text is the author's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from outlive import codec
from outlive.kinds.processes.entries import Entry
from outlive.kinds.processes.reports import View

MASK = "…"


def masked(raw: Raw, names: Collection[str]) -> Raw:
    """The document `raw` without the values of members called one of `names`."""
    return Raw(codec.encode(_masked(codec.ANYTHING.read(raw), names)))


def _masked(value: Any, names: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: MASK if key in names and found is not None else _masked(found, names)
            for key, found in value.items()
        }
    if isinstance(value, list):
        return [_masked(found, names) for found in value]
    return value


def shown(view: View, names: Collection[str]) -> View:
    """`view` as it is shown."""
    result = None if view.result is None else masked(view.result, names)
    return replace(view, data=masked(view.data, names), result=result)


def shown_entry(entry: Entry, names: Collection[str]) -> Entry:
    """A line of a journal as it is shown."""
    return replace(entry, data=masked(entry.data, names))
