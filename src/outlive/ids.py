"""Identifiers and randomness: the only module that draws any.

public    `reg_` + 26 characters of Crockford base 32 carrying 128 random bits. Guess-proof; neither
          time, count nor internal id can be read from it. This is what leaves the service.
internal  23 hexadecimal digits, time first: ordered, so that new streams land side by side in an
          index. It never leaves the service.
node      pid and random: a new one for each boot, so that nobody inherits a dead node's identity.
"""

from __future__ import annotations

import os
import random
import secrets
import zlib

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in ALPHABET for b in ALPHABET]
_ENDS = [pair.encode() for pair in _PAIRS]
_jitter = random.SystemRandom()


def base32(number: int, characters: int) -> str:
    """`number` in Crockford base 32, lower case, left-padded to `characters`."""
    out = []
    for _ in range((characters + 1) // 2):
        out.append(_PAIRS[number & 1023])
        number >>= 10
    return "".join(reversed(out))[-characters:]


def public_id(prefix: str, shards: int, shard: int | None = None) -> str:
    """A new public id, in `shard` if one is given: its end is then drawn until it is."""
    while True:
        number = int.from_bytes(os.urandom(17), "big")
        if shard is None:
            return f"{prefix}_{base32(number, 26)}"
        front = f"{prefix}_{base32(number >> 10, 24)}"
        seen = zlib.crc32(front.encode())
        for turn in range(number & 1023, (number & 1023) + len(_PAIRS)):
            if zlib.crc32(_ENDS[turn & 1023], seen) % shards == shard:  # as `shard_of` counts
                return front + _PAIRS[turn & 1023]


def internal_id(micros: int) -> str:
    """A new internal id: `micros` and 40 random bits, in hexadecimal."""
    return f"{micros:013x}{os.urandom(5).hex()}"


def token(bits: int = 80) -> str:
    """A short random name, `bits` long (a multiple of five reads best)."""
    return base32(secrets.randbits(bits), (bits + 4) // 5)


def node_id() -> str:
    """The identity of this process from now on: its pid, and random for this boot of it."""
    return f"n{os.getpid()}-{token(40)}"


def full_jitter(base_seconds: float, cap_seconds: float, attempt: int) -> float:
    """A wait before attempt `attempt + 1`: uniform between 0 and min(cap, base · 2^(attempt-1))."""
    return _jitter.uniform(0.0, min(cap_seconds, base_seconds * 2.0 ** min(attempt - 1, 60)))


def seeded(seed: str) -> random.Random:
    """A generator that gives the same numbers for the same `seed`, on every node and after every
    replay."""
    return random.Random(seed)
