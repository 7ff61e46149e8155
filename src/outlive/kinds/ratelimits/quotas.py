"""What is declared: so much in so long, for each value of a part of the key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from outlive.codec import digest

MICROS = 1_000_000
COUNT_MAX = 1_000_000_000
PERIOD_SECONDS_MAX = 31 * 86_400.0
QUOTAS_MAX = 8
"""Quotas that are decided as one."""
KEY_PLAIN_MAX = 64
Algorithm = Literal["gcra", "sliding", "fixed"]
Keys = str | Mapping[str, str]
"""Who is asked about: a text for all quotas, or a text for each part that they name with `per`."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")
_PLAIN = re.compile(r"[A-Za-z0-9._@+:-]{1,64}\Z")


class Terms(Struct, frozen=True, gc=False):
    """A quota in the numbers in which it is decided."""

    algorithm: Algorithm
    count: int
    burst: int
    period: int
    """Microseconds in which `count` come back."""


class Use(Struct, frozen=True, gc=False):
    """One quota, for one key, as a command carries it."""

    name: str
    key: str
    terms: Terms
    shadow: bool = False


class Quota(Struct, frozen=True):
    """At most `count` (1 to 10⁹) in `per_seconds` (a millisecond to 31 days), for each key.

    `algorithm`: `gcra` admits in any interval T at most `burst` + `count` × T / `per_seconds`,
    exactly (`burst`: 1 to 10⁹, `count` when not given); `sliding` at most `count` in any interval
    of `per_seconds`, and gives them back up to a twentieth of it late; `fixed` at most `count` in
    each window that begins at a multiple of `per_seconds` since 1970 UTC, so up to twice as many in
    an interval of that length. `per`: the part of the key that it is about (`""`: the whole; `"*"`:
    one for everybody). `plans`: another `count` for callers of a plan, with a burst in proportion.
    `shadow`: decided and counted, and never a reason to refuse. `name` (lower case, at most 32
    characters) is what its use is kept under: other numbers under the same name apply to what is
    used already.
    """

    name: str
    count: int
    per_seconds: float = 1.0
    algorithm: Algorithm = "gcra"
    burst: int | None = None
    per: str = ""
    plans: Mapping[str, int] = {}
    shadow: bool = False

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(
                f"a quota cannot be named {self.name!r}: a-z, 0-9, _ and -, at most 32"
            )
        for count in (self.count, 1 if self.burst is None else self.burst, *self.plans.values()):
            if not 1 <= count <= COUNT_MAX:
                raise ValueError(f"quota {self.name}: {count} is not 1 to {COUNT_MAX}")
        if not 0.001 <= self.per_seconds <= PERIOD_SECONDS_MAX:
            raise ValueError(
                f"quota {self.name} is per {self.per_seconds} seconds; a millisecond to 31 days"
            )
        if self.algorithm not in ("gcra", "sliding", "fixed"):
            raise ValueError(f"quota {self.name}: there is no algorithm {self.algorithm!r}")
        if self.burst is not None and self.algorithm != "gcra":
            raise ValueError(f"quota {self.name}: only gcra has a burst")

    def terms(self, plan: str = "") -> Terms:
        """Its numbers for `plan`; those of everybody when the plan has none of its own."""
        count = self.plans.get(plan, self.count)
        burst = count if self.burst is None else max(1, self.burst * count // self.count)
        return Terms(self.algorithm, count, burst, round(self.per_seconds * MICROS))

    def use(self, keys: Keys, plan: str = "") -> Use:
        """It, for the part of `keys` that it is about. Raises `KeyError` when that is not there."""
        if self.per == "*":
            part = "*"
        elif not isinstance(keys, Mapping):
            part = named(keys)
        elif self.per in keys:
            part = named(keys[self.per])
        else:
            raise KeyError(f"quota {self.name} is per {self.per!r}, and the key has no such part")
        return Use(self.name, f"{self.name}/{part}", self.terms(plan), self.shadow)


def named(part: str) -> str:
    """A part of a key as it stands in the name of a cell: itself when it is short and plain.
    Raises `TypeError` for what is no text."""
    if not isinstance(part, str):
        raise TypeError(f"a key is text, not {part!r}; nothing was asked. Write it as text.")
    return part if _PLAIN.match(part) else f"~{digest(part.encode())}"
