"""Identifiers and randomness: the only module that draws any.

public    `reg_` + 26 characters of Crockford base 32 carrying at least 120 random bits (130, less
          those that lead to its shard). Guess-proof; neither time, count nor internal id can be
          read from it. This is what leaves the service.
internal  23 hexadecimal digits, time first: ordered, so that new streams land side by side in an
          index. It never leaves the service.
node      pid and random: a new one for each boot, so that nobody inherits a dead node's identity.

`drawn_from` is for simulations: there the same seed draws the same again.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LETTERS = bytes(ord(ALPHABET[byte % 32]) for byte in range(256))
"""The character for each random byte: five bits of it count."""
_PAIRS = [a + b for a in ALPHABET for b in ALPHABET]
_NO_END = b"\0\0"
_SHARDS_FEW = 128
_jitter: random.Random = random.SystemRandom()
_bytes: Callable[[int], bytes] = os.urandom
_process: Callable[[], int] = os.getpid


def base32(number: int, characters: int) -> str:
    """`number` in Crockford base 32, lower case, left-padded to `characters`."""
    out = []
    for _ in range((characters + 1) // 2):
        out.append(_PAIRS[number & 1023])
        number >>= 10
    return "".join(reversed(out))[-characters:]


def public_id(prefix: str, shards: int, shard: int | None = None) -> str:
    """A new public id, in `shard` if one is given: its last two characters are then drawn from
    those that lead there."""
    drawn = _bytes(26)
    name = f"{prefix}_{drawn.translate(_LETTERS).decode()}"
    if shard is None:
        return name
    front, place = name[:-2], drawn[-2] << 8 | drawn[-1]
    seen = zlib.crc32(front.encode())
    if shards <= _SHARDS_FEW and shards & (shards - 1) == 0:
        ends = _ends(shards)[(zlib.crc32(_NO_END, seen) ^ shard) % shards]
        return front + ends[place % len(ends)]
    for turn in range(place, place + len(_PAIRS)):
        end = _PAIRS[turn % len(_PAIRS)]
        if zlib.crc32(end.encode(), seen) % shards == shard:  # as `shard_of` counts
            return front + end
    return public_id(prefix, shards, shard)


@cache
def _ends(shards: int) -> list[list[str]]:
    """The pairs of last characters by what they change in a CRC-32, modulo a power of two.

    A CRC is linear: what two last bytes change in it does not depend on what stands before them.
    None of the lists is empty up to `_SHARDS_FEW`.
    """
    found: list[list[str]] = [[] for _ in range(shards)]
    for pair in _PAIRS:
        found[(zlib.crc32(pair.encode()) ^ zlib.crc32(_NO_END)) % shards].append(pair)
    return found


def internal_id(micros: int) -> str:
    """A new internal id: `micros` and 40 random bits, in hexadecimal."""
    return f"{micros:013x}{_bytes(5).hex()}"


def token(bits: int = 80) -> str:
    """A short random name of at least `bits` random bits: five in each character."""
    return _bytes((bits + 4) // 5).translate(_LETTERS).decode("ascii")


def secret(size: int) -> bytes:
    """`size` random bytes, fit for a key or a nonce."""
    return _bytes(size)


def node_id() -> str:
    """The identity of this process from now on: its pid, and random for this boot of it."""
    return f"n{_process()}-{token(40)}"


def full_jitter(base_seconds: float, cap_seconds: float, attempt: int) -> float:
    """A wait before attempt `attempt + 1`: uniform between 0 and min(cap, base · 2^(attempt-1))."""
    return _jitter.uniform(0.0, min(cap_seconds, base_seconds * 2.0 ** min(attempt - 1, 60)))


def seeded(seed: str) -> random.Random:
    """A generator that gives the same numbers for the same `seed`, on every node and after every
    replay."""
    return random.Random(seed)


@contextmanager
def drawn_from(dice: random.Random) -> Iterator[None]:
    """While it is open everything here is drawn from `dice`, in this program: for simulations.

    What is made meanwhile can be guessed by who knows the seed, and repeats with it.
    """
    global _jitter, _bytes, _process
    kept = _jitter, _bytes, _process
    _jitter, _bytes, _process = dice, dice.randbytes, lambda: 1
    try:
        yield
    finally:
        _jitter, _bytes, _process = kept
