"""Times as people read them: how long something took, and how long ago it was."""

from __future__ import annotations

from itertools import pairwise

MICROS = 1_000_000
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def duration(micros: int) -> str:
    """`micros` in at most two units: `<1 ms`, `12 ms`, `1.24 s`, `2 min 5 s`, `1 d 2 h`."""
    if micros < 1_000:
        return "<1 ms"
    if micros < MICROS:
        return f"{micros // 1_000} ms"
    if micros < 60 * MICROS:
        return f"{micros / MICROS:.3g} s"
    seconds = micros // MICROS
    for (size, unit), (smaller, smaller_unit) in pairwise(_UNITS):
        if seconds >= size:
            rest = seconds % size // smaller
            return f"{seconds // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{seconds} s"


def ago(now: int, then: int) -> str:
    """When `then` was, seen from `now` (both microseconds since 1970): `3 min ago`, `in 2 h`."""
    seconds = abs(now - then) // MICROS
    if seconds < 1:
        return "just now"
    size, unit = next(found for found in _UNITS if seconds >= found[0])
    text = f"{seconds // size} {unit}"
    return f"{text} ago" if then <= now else f"in {text}"
