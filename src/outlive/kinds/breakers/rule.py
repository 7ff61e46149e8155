"""What is declared about a dependency: when it counts as down, and how it is tried again.

The defaults are those that most services can live with: half of at least 20 calls failed within
the last 100 calls or 30 seconds; a minute of rest; one probe in the whole fleet. Nobody else's
failures are this service's retries: a tenth more calls is what a brown-out gets, not three times.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from outlive.errors import DependencyError, NonRetryable

CALLS_MAX = 10_000
PROBES_MAX = 16
NAME_CHARACTERS_MAX = 128
CALLERS_FAULT_NOT = frozenset((408, 425, 429))
"""Of the answers 4xx, those that say something about the dependency and not about the request."""


class Breaker(Struct, frozen=True, kw_only=True):
    """When a dependency counts as down, and what then happens.

    `failure_rate`, `slow_rate` (above 0, at most 1): the share of calls that failed, or took
    `slow_seconds` or longer, at which it opens; judged over the last `window_calls` (1 to 10,000)
    of one instance, over the last `window_seconds` of one instance, and over those of all instances
    together, never over fewer than `calls_min`. `open_seconds`: how long it stays open, by the
    store's clock; doubled for each time that a probe failed, up to `open_seconds_max`. `probes` (1
    to 16): calls let through at one time over all instances while it is half-open, each for at most
    `probe_seconds`; `successes`: how many have to go well to close it. `share_seconds`: no call is
    decided on what other instances knew longer ago than that, while the store answers. `shadow`:
    decide and count, but refuse nothing.
    """

    failure_rate: float = 0.5
    slow_seconds: float = 60.0
    slow_rate: float = 1.0
    calls_min: int = 20
    window_calls: int = 100
    window_seconds: float = 30.0
    open_seconds: float = 60.0
    open_seconds_max: float = 600.0
    probes: int = 1
    probe_seconds: float = 10.0
    successes: int = 1
    share_seconds: float = 1.0
    shadow: bool = False

    def __post_init__(self) -> None:
        for name in ("failure_rate", "slow_rate"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is above 0 and at most 1")
        for name in (
            "slow_seconds", "window_seconds", "open_seconds", "probe_seconds", "share_seconds",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 seconds")
        if not self.open_seconds_max >= self.open_seconds:
            raise ValueError("open_seconds_max is less than open_seconds")
        if not 1 <= self.calls_min <= self.window_calls <= CALLS_MAX:
            raise ValueError(f"1 <= calls_min <= window_calls <= {CALLS_MAX} does not hold")
        if not 1 <= self.probes <= PROBES_MAX:
            raise ValueError(f"probes is {self.probes}; it must be 1 to {PROBES_MAX}")
        if self.successes < 1:
            raise ValueError(f"successes is {self.successes}; it must be 1 or more")

    def verdict(self, calls: int, failures: int, slow: int, where: str) -> str:
        """Why these counts mean that it is down; empty when they do not."""
        if calls < self.calls_min:
            return ""
        if failures >= self.failure_rate * calls:
            return f"{failures} of {calls} calls failed {where}"
        if slow >= self.slow_rate * calls:
            return f"{slow} of {calls} calls took {self.slow_seconds:g} s or longer {where}"
        return ""


class RetryBudget(Struct, frozen=True, kw_only=True):
    """How much retrying a dependency is given, by one instance.

    `ratio` (0 to 1): retries and hedges to first tries that went well, within `window_seconds`.
    `floor_per_second`: what is allowed beside that, so that a quiet service retries at all; each
    instance has its own, so N instances have N times as much.
    """

    ratio: float = 0.1
    floor_per_second: float = 0.5
    window_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio <= 1.0:
            raise ValueError(f"ratio is {self.ratio}; it must be 0 to 1")
        if self.floor_per_second < 0 or self.window_seconds <= 0:
            raise ValueError("floor_per_second is 0 or more, window_seconds above 0")


def is_failure(error: Exception) -> bool:
    """Whether `error` says that the dependency is not well.

    Not when it says that the request was wrong: a `NonRetryable`, or an exception with a
    `response` whose `status_code` is 4xx (but 408, 425 and 429). Not when another dependency's
    breaker, bulkhead or deadline refused.
    """
    if isinstance(error, (NonRetryable, DependencyError)):
        return isinstance(error, DependencyError) and error.counts
    status = getattr(getattr(error, "response", None), "status_code", None)
    return not isinstance(status, int) or is_failed_status(status)


def is_failed_status(status: int) -> bool:
    """Whether an HTTP status says that the dependency is not well."""
    return status >= 500 or status in CALLERS_FAULT_NOT


def retry_after(error: Any) -> float:
    """The seconds that `error` asks to wait, in its facts or its response; 0 when it does not."""
    facts = getattr(error, "facts", None) or {}
    found = facts.get("retry_after")
    if found is None:
        headers = getattr(getattr(error, "response", None), "headers", None)
        found = None if headers is None else headers.get("retry-after")
    try:
        return max(0.0, float(found or 0))
    except ValueError:  # a date: what it means depends on two clocks
        return 0.0
