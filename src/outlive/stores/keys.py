"""The keys that payloads are encrypted with: one that writes, and others that are still read.

    sealed    `~`, the key's name, `:`, and base64 of nonce, ciphertext and tag (AES-256-GCM)

Every event and every cell has a key of its own, derived from the named one (HMAC-SHA-256 over
where it stands), so that random nonces of 96 bits never come near their limit. What was sealed is
bound to its place: a value that is moved to another cell, or an event to another place in a stream,
does not open.

Rotation needs no downtime: give the new key to every node *behind* the old one, then put it first
everywhere, then (when nothing sealed by the old one is left) leave the old one out. The first key
of a store comes the same way: `Keys(…, seals=False)` everywhere, then without it.

Not hidden: how large things are, their types, versions, statuses, tags, step names of cells'
waits, and when they were written.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from collections.abc import Mapping
from typing import Any

from outlive import ids
from outlive.errors import KeysMissing, StoreRefused

_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}")
KEY_BYTES = 32
_NONCE_BYTES = 12
_SEALED = b"~"


class Keys:
    """A ring of named keys. The first seals; all open.

    Each is text: `name:key`, the key 32 bytes in base64 (`Keys.new("2026-11")` makes one).
    `seals=False`: open only, for the step of a roll-out in which not every node knows the keys yet.
    Raises `ValueError` for a malformed key, without showing it. Needs the extra `crypto`.
    """

    def __init__(self, *keys: str, seals: bool = True) -> None:
        if not keys:
            raise ValueError("a ring of keys needs at least one key: Keys('name:base64')")
        self._keys: Mapping[str, bytes] = dict(map(_parsed, keys))
        if len(self._keys) != len(keys):
            raise ValueError("two keys have the same name")
        self._first = next(iter(self._keys)) if seals else ""

    @classmethod
    def from_environment(cls, variable: str = "OUTLIVE_KEYS", *, seals: bool = True) -> Keys | None:
        """The keys in an environment variable, separated by spaces; None when it is not set."""
        found = os.environ.get(variable, "").split()
        return cls(*found, seals=seals) if found else None

    @staticmethod
    def new(name: str) -> str:
        """A new key as text. It is a secret: keep it where the service keeps its others."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a key: 1 to 32 of A-Z a-z 0-9 . _ -")
        return f"{name}:{base64.b64encode(ids.secret(KEY_BYTES)).decode()}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the keys, the one that seals first."""
        return tuple(self._keys)

    @property
    def sealing(self) -> str:
        """The name of the key that seals; empty when none does."""
        return self._first

    def __repr__(self) -> str:
        return f"Keys({', '.join(self._keys)})"

    def check(self, name: str) -> str:
        """A text by which a store recognises the key `name`, and which tells nothing about it."""
        return hmac.new(self._keys[name], b"check", "sha256").hexdigest()[:32]

    def seal(self, place: bytes, data: bytes) -> bytes:
        """`data`, so that it opens only at `place`."""
        name = self._first
        nonce = ids.secret(_NONCE_BYTES)
        sealed = nonce + self._derived(name, place).encrypt(nonce, data, place)
        return b"%b%b:%b" % (_SEALED, name.encode(), base64.b64encode(sealed))

    def open(self, place: bytes, data: bytes) -> bytes:
        """What was sealed at `place`.

        Raises `KeysMissing` when its key is not in the ring, `StoreRefused` when it was altered or
        does not belong there.
        """
        name, _, text = data[1:].partition(b":")
        key = name.decode("ascii", "replace")
        if key not in self._keys:
            raise KeysMissing(f"Something is sealed with the key {key!r}, which is not given here.")
        from cryptography.exceptions import InvalidTag

        try:
            sealed = base64.b64decode(text, validate=True)
            cipher = self._derived(key, place)
            found: bytes = cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place)
        except (InvalidTag, binascii.Error, ValueError):
            raise StoreRefused(
                f"What is sealed with the key {key!r} was altered, or moved from another place."
            ) from None
        return found

    def _derived(self, name: str, place: bytes) -> Any:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(hmac.digest(self._keys[name], b"place\0" + place, "sha256"))


def is_sealed(data: bytes) -> bool:
    """Whether `data` is something sealed; JSON never begins so."""
    return data[:1] == _SEALED


def _parsed(text: str) -> tuple[str, bytes]:
    name, _, key = text.partition(":")
    try:
        found = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if not _NAME.fullmatch(name) or len(found) != KEY_BYTES:
        raise ValueError("a key is `name:` and 32 bytes in base64; Keys.new(name) makes one")
    return name, found
