"""The scripts of the Redis store: named, commented `.lua` files, each behind what all share.

A script is known to the server by the SHA-1 of its text, so a changed one is another one: two
releases on one server do not disturb each other.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

SAME = {"release": "commit"}
"""Scripts of the same text under another name."""
WHEN_FULL = ("claim", "release")
"""What may run when the server's memory is full: what is needed to drop cells."""


@cache
def script(name: str) -> tuple[bytes, bytes]:
    """The digest and the whole text of the script in `name`.lua."""
    folder = files(__name__)
    parts = [(folder / f"{part}.lua").read_bytes() for part in ("shared", SAME.get(name, name))]
    if name in WHEN_FULL:
        parts.insert(0, b"#!lua flags=allow-oom")
    text = b"\n".join(parts)
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode(), text
