"""Tags: words of the user's own by which processes are found again.

    @app.process("/orders", version=1, tags={"customer": lambda order: order.who, "region": None})

A type declares the names; only those are kept and searched. A value comes from the input (by the
function that is declared), from the start (`tags=`), or from the body (`run.tags[…] = …`), the
later in the place of the earlier. Over HTTP nobody but the declaration chooses: a client that could
tag its work as it likes would appear in other people's searches.

A tag is a mark of the process's cell: name and value, then the time of the start, so that a search
reads the newest first. A type without tags has no mark more than before.

Not promised: that a tag is secret, or searched in part. It is found by its whole value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any
from urllib.parse import quote

from outlive.errors import TagInvalid, TagNotDeclared

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
TAGS_MAX = 16
"""Tags that one type declares."""
CHARACTERS_MAX = 128
"""Characters of one value."""

Tags = tuple[tuple[str, str], ...]
"""Names and values, by name."""
Derive = Callable[[Any], Any]
"""A tag's value from the input; None: it has none."""
Declared = Mapping[str, Derive | None]


def declared(tags: Sequence[str] | Mapping[str, Derive | None], type: str) -> Declared:
    """What a type declares, by name. Raises `ValueError`, `TypeError`."""
    found = dict(tags) if isinstance(tags, Mapping) else dict.fromkeys(tags)
    if isinstance(tags, str):
        raise TypeError(f"tags of {type} is one text; write tags=({tags!r},)")
    if len(found) > TAGS_MAX:
        raise ValueError(f"{type} declares {len(found)} tags; at most {TAGS_MAX}")
    for name, derive in found.items():
        if not NAME.match(name):
            raise ValueError(f"{name!r} is no name of a tag: a-z, 0-9 and _, at most 64")
        if derive is not None and not callable(derive):
            raise TypeError(f"tag {name} of {type} is neither None nor a function of the input")
    return found


def tags_of(
    declared: Declared, type: str, value: Any, given: Mapping[str, Any] | None = None
) -> Tags:
    """The tags of a process that is started with the input `value`: derived, then `given`.

    Raises `TagNotDeclared`, `TagInvalid`; then nothing may be started.
    """
    found: dict[str, Any] = {}
    for name, derive in declared.items():
        if derive is not None:
            try:
                found[name] = derive(value)
            except Exception as error:
                why = f"{error.__class__.__name__}: {str(error)[:200]}"
                raise TagInvalid(
                    f"Tag {name} of {type} cannot be had from the input: {why}."
                ) from error
    for name, set_to in (given or {}).items():
        demand_declared(declared, type, name)
        found[name] = set_to
    return sorted_tags(found)


def demand_declared(declared: Iterable[str], type: str, name: str) -> None:
    """Raise `TagNotDeclared` unless `name` is one of `declared`."""
    if name not in declared:
        known = ", ".join(sorted(declared)) or "none"
        raise TagNotDeclared(f"{type} declares no tag {name[:64]!r}; its tags: {known}.")


def sorted_tags(found: Mapping[str, Any], *, kept: bool = True) -> Tags:
    """Names and values by name; a value that is None is none. `kept` as in `text_of`."""
    return tuple(
        (name, text_of(name, value, kept=kept))
        for name, value in sorted(found.items())
        if value is not None
    )


def text_of(name: str, value: Any, *, kept: bool = True) -> str:
    """A tag's value as it is kept, or else searched: what can be searched may never be kept. Raises
    `TagInvalid`."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int):
        value = str(value)
    if not isinstance(value, str):
        raise TagInvalid(f"Tag {name} is a {type(value).__name__}; it must be a text or a number.")
    if not 0 < len(value) <= CHARACTERS_MAX or (kept and not value.isprintable()):
        raise TagInvalid(
            f"Tag {name} must have 1 to {CHARACTERS_MAX} printable characters; it has {len(value)}."
        )
    return value


def mark_name(name: str) -> str:
    """The name of the marks of a tag."""
    return f"process.tag.{name}"


def mark_value(value: str) -> str:
    """A tag's value in a mark: plain, and without the blank that ends it there."""
    return quote(value, safe="")


def marks(tags: Tags, started: int) -> tuple[tuple[str, str], ...]:
    """The marks of a process's tags."""
    return tuple((mark_name(name), f"{mark_value(value)} {started:016d}") for name, value in tags)
