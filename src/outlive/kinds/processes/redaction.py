"""What nobody is shown: values of members with certain names, wherever in a document they stand.

The process itself sees them, and they are stored as they are (seal them too: `encryption=`). What
is shown, over HTTP, on the pages, by the command line and to Python, has `…` in their place.

Not promised: that a message of an error says nothing. Its text is the author's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import Raw, Struct
from msgspec.structs import asdict, replace

from outlive import codec
from outlive.kinds.processes.entries import Entry
from outlive.kinds.processes.reports import View
from outlive.kinds.processes.vocabulary import unpack

MASK = "…"
ARGS = "args"
"""The member of an event that says with which arguments something was called."""


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


def masked_event(kind: str, data: bytes, names: Collection[str]) -> bytes:
    """The data of an event without the values of members called one of `names`: the same bytes
    where there are none.

    Only what a program gave is looked into (inputs, results, payloads, state): the members of the
    event itself are ours, and a journal without them could not be read.
    """
    event = unpack(kind, data)
    masked_one = masked_within(event, names)
    return data if masked_one is event else codec.encode(masked_one)


def masked_within(value: Any, names: Collection[str]) -> Any:
    """`value` with every document in it masked; itself where nothing is."""
    if isinstance(value, Raw):
        found = codec.ANYTHING.read(value)
        return value if (made := _masked(found, names)) == found else Raw(codec.encode(made))
    if isinstance(value, Struct):
        given = asdict(value)
        made = {
            name: _masked_args(one, names) if name == ARGS else masked_within(one, names)
            for name, one in given.items()
        }
        changed = {name: one for name, one in made.items() if one is not given[name]}
        return replace(value, **changed) if changed else value
    if isinstance(value, tuple):
        parts = tuple(masked_within(one, names) for one in value)
        same = all(one is part for one, part in zip(value, parts, strict=True))
        return value if same else parts
    return value


def _masked_args(text: str, names: Collection[str]) -> str:
    """A fingerprint of arguments: when they are short, it is their JSON (codec.py)."""
    if not text.startswith(("[", "{")):
        return text
    raw = Raw(text.encode())
    made = masked_within(raw, names)
    return text if made is raw else bytes(made).decode()


def shown(view: View, names: Collection[str]) -> View:
    """`view` as it is shown."""
    result = None if view.result is None else masked(view.result, names)
    return replace(view, data=masked(view.data, names), result=result)


def shown_entry(entry: Entry, names: Collection[str]) -> Entry:
    """A line of a journal as it is shown."""
    return replace(entry, data=Raw(masked_event(entry.kind, bytes(entry.data), names)))
