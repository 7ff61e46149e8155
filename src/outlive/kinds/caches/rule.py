"""What is declared about a cache: how wrong it may be, how large, how long.

Each of these has a bound, and what contradicts the class is refused where it is declared: a value
of an exact cache is never served stale because its source failed *and* its stamp changed.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Class = Literal["exact", "bounded", "best_effort", "never_authoritative"]
NAME_CHARACTERS_MAX = 64
ENTRIES_MAX = 10_000_000
TAGS_MAX = 8
"""Tags of one value."""
LIFE_SECONDS_MAX = 30 * 86_400.0


class Holds(Struct, frozen=True):
    """The class of a cache: what may be relied on when a value is served."""

    name: Class
    seconds: float = 0.0

    @property
    def is_stamped(self) -> bool:
        """Whether values are compared with stamps in the store at all."""
        return self.name != "never_authoritative"

    @property
    def is_strict(self) -> bool:
        """Whether a value whose stamps cannot be read must not be served."""
        return self.name in ("exact", "bounded")


exact = Holds("exact")
never_authoritative = Holds("never_authoritative")


def bounded(seconds: float) -> Holds:
    """Never older than the last `seconds` (above 0) before the call."""
    if not 0.0 < seconds <= LIFE_SECONDS_MAX:
        raise ValueError(f"bounded({seconds:g}): above 0, at most {LIFE_SECONDS_MAX:g} seconds")
    return Holds("bounded", seconds)


def best_effort(look_seconds: float = 5.0) -> Holds:
    """As long as it lives; its stamps are looked at behind an answer every `look_seconds`."""
    if look_seconds <= 0:
        raise ValueError(f"best_effort({look_seconds:g}): must be above 0 seconds")
    return Holds("best_effort", look_seconds)


class Bounds(Struct, frozen=True, kw_only=True):
    """How much a cache may keep in the memory of one instance."""

    entries: int = 10_000
    bytes: int = 64 * 1024 * 1024
    """Of keys, values as JSON, and what an entry costs; never passed."""
    value_bytes: int = 1024 * 1024
    """A larger value is handed out and not kept."""

    def __post_init__(self) -> None:
        if not 1 <= self.entries <= ENTRIES_MAX:
            raise ValueError(f"entries is {self.entries}; it must be 1 to {ENTRIES_MAX}")
        if self.bytes < 1 or self.value_bytes < 1:
            raise ValueError("bytes and value_bytes must be 1 or more")


class Life(Struct, frozen=True, kw_only=True):
    """How long a value lives, from the beginning of its load, in seconds.

    `ttl` less a random part of up to `jitter` (0 to 1) of it. `idle`: without being asked for.
    `negative`: of `None`, which is not kept when this is None. `while_revalidate`: behind its life,
    served while it is loaded again. `if_error`: behind its life, served when loading failed.
    `early`: how eagerly a value is loaded again before its end (XFetch's beta); 0 for never.
    """

    ttl: float = 300.0
    jitter: float = 0.1
    idle: float | None = None
    negative: float | None = None
    while_revalidate: float = 0.0
    if_error: float = 0.0
    early: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ttl", "idle", "negative"):
            given = getattr(self, name)
            if given is not None and not 0.0 < given <= LIFE_SECONDS_MAX:
                raise ValueError(
                    f"{name} is {given:g}; it must be above 0, at most {LIFE_SECONDS_MAX:g} s"
                )
        for name in ("while_revalidate", "if_error"):
            if not 0.0 <= getattr(self, name) <= LIFE_SECONDS_MAX:
                raise ValueError(f"{name} must be 0 to {LIFE_SECONDS_MAX:g} seconds")
        if not 0.0 <= self.jitter <= 1.0 or self.early < 0:
            raise ValueError("jitter is 0 to 1, early 0 or more")

    @property
    def behind(self) -> float:
        """How long a value may be of use behind its life."""
        return max(self.while_revalidate, self.if_error)

    @property
    def longest(self) -> float:
        """How long a value may be of use at most."""
        return max(self.ttl, self.negative or 0.0) + self.behind
