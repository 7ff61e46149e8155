"""How much time is left for the work at hand, and which layer retries it.

Both go along with the context: into tasks, into nested calls, and as two headers into the next
service. A deadline only ever becomes shorter. Inside an attempt of a layer that retries no other
layer does: three layers of three tries would be 27 calls.

    Outlive-Deadline-Ms: 1840     what was left when the request was sent
    Outlive-Attempt: 2            the sender retries; this is its second attempt
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token

from outlive.clock import Clock

DEADLINE_HEADER, ATTEMPT_HEADER = "outlive-deadline-ms", "outlive-attempt"
DIGITS_MAX = 12

_deadline: ContextVar[float | None] = ContextVar("outlive_deadline", default=None)
_attempt: ContextVar[int] = ContextVar("outlive_dependency_attempt", default=0)

deadline_here = _deadline.get
"""When the work at hand must be over, by the clock since boot; None when nobody said."""
attempt_here = _attempt.get
"""The number of the attempt of the layer that retries, 1 for the first; 0 outside of any."""


def enter_attempt(number: int) -> Token[int]:
    """From now on this is attempt `number` of a layer that retries."""
    return _attempt.set(number)


leave_attempt = _attempt.reset


@contextmanager
def until(ends: float) -> Iterator[None]:
    """The work inside must be over at `ends`, or earlier if it had to be before."""
    outer = _deadline.get()
    mark = _deadline.set(ends if outer is None else min(ends, outer))
    try:
        yield
    finally:
        _deadline.reset(mark)


def outgoing(clock: Clock) -> dict[str, str]:
    """The headers that tell the next service how much time is left and that this one retries."""
    headers = {}
    deadline = _deadline.get()
    if deadline is not None:
        headers[DEADLINE_HEADER] = str(max(0, round((deadline - clock.boot()) * 1000)))
    if _attempt.get():
        headers[ATTEMPT_HEADER] = str(_attempt.get())
    return headers


@contextmanager
def incoming(headers: Mapping[str, str], clock: Clock | None = None) -> Iterator[None]:
    """Work for a request with `headers` (names in lower case): within the time that is left for it,
    and without retries where its sender retries. What is malformed is left out."""
    number, mark = _digits(headers.get(ATTEMPT_HEADER, "")), None
    left = _digits(headers.get(DEADLINE_HEADER, ""))
    if number:
        mark = _attempt.set(number)
    try:
        if left is None:
            yield
        else:
            with until((clock or Clock()).boot() + left / 1000):
                yield
    finally:
        if mark is not None:
            _attempt.reset(mark)


def _digits(text: str) -> int | None:
    fits = text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX
    return int(text) if fits else None
