"""An address of a store, taken apart like a URL whose place may name several servers.

    postgresql://user:password@one:1,[::1]:2/database?…
                 └─────────── place ───────┘

The standard library takes a place for one host: since it has looked at what stands in brackets
(Python 3.13, and later releases of those before) it refuses a list with such a host behind another.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

_DROPPED = dict.fromkeys(map(ord, "\t\r\n"))
"""What no URL has, and what the standard library leaves out."""


def split(address: str) -> SplitResult:
    """The parts of `address`; `netloc` is its place, with all servers that it names.

    Raises `ValueError` for what is no URL, such as a bracket that is left open.
    """
    scheme, mark, rest = address.translate(_DROPPED).partition("://")
    if not mark:
        return urlsplit(address)
    place = re.split("[/?#]", rest, maxsplit=1)[0]
    who, at, hosts = place.rpartition("@")
    for host in hosts.split(","):
        urlsplit(f"//{who}{at}{host}")
    return urlsplit(f"{scheme}{mark}{rest[len(place) :]}")._replace(netloc=place)
