"""How often keys were asked for lately, in a fixed number of bytes: a count-min sketch that ages.

Four rows of counters up to 15; a key is in one of each row, and its count is the least of them, so
it may be too high (keys that share counters) and never too low. When it ages all counters are
halved: what was asked for long ago fades.

Einziger, Friedman, Manes: TinyLFU (2017); Cormode, Muthukrishnan: count-min sketch (2005).
"""

from __future__ import annotations

from collections.abc import Hashable

ROWS = 4
COUNT_MAX = 15
WIDTH_MAX = 1 << 20
_HALVES = bytes(count // 2 for count in range(256))
_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
_WORD = (1 << 64) - 1


class Sketch:
    """Counts for about `entries` keys."""

    __slots__ = ("_mask", "_rows", "_shift")

    def __init__(self, entries: int) -> None:
        bits = max(6, min(entries, WIDTH_MAX).bit_length())
        self._mask = (1 << bits) - 1
        self._shift = 64 - bits
        self._rows = [bytearray(1 << bits) for _ in range(ROWS)]

    def count(self, key: Hashable) -> int:
        """How often `key` was asked for, or more."""
        places = self._places(key)
        return min(row[place] for row, place in zip(self._rows, places, strict=True))

    def remember(self, key: Hashable, count: int) -> None:
        """`key` was asked for `count` times."""
        count = min(count, COUNT_MAX)
        for row, place in zip(self._rows, self._places(key), strict=True):
            if row[place] < count:
                row[place] = count

    def age(self) -> None:
        """Halve all counts."""
        self._rows = [bytearray(row.translate(_HALVES)) for row in self._rows]

    def _places(self, key: Hashable) -> list[int]:
        mixed = hash(key) & _WORD
        mixed ^= mixed >> 32
        return [(mixed * odd & _WORD) >> self._shift for odd in _ODD]
