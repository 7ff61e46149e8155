"""Callbacks: an address that an outside system may call once, long after it was given away.

    token    256 bits: HMAC-SHA-256 of the process and the callback, under a secret that lies in a
             cell of the store. A replay makes the same one; it stands in no record.
    place    the cell that leads from a digest of the token to the process. It is found by that
             digest alone, so no comparison takes longer for a token that is nearly right.

The address tells neither the id of the process nor its type: whoever has it may say one thing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from outlive.ids import ALPHABET, base32
from outlive.kinds.processes.requests import REQUESTS
from outlive.model import Put, Ref

SECRET = Ref("secret", "callbacks")
"""Where the secret of a store's callbacks lies."""
CALLBACKS_PATH = "/outlive/callbacks/"
TOKEN_CHARACTERS = 52
_TOKEN = re.compile(f"[{ALPHABET}]{{{TOKEN_CHARACTERS}}}\\Z")


class Place(Struct, frozen=True):
    """The value of the cell that a token leads to. It is read as an idempotency key's too, and kept
    like one: until its time has passed and its process has ended."""

    id: str
    of: str = msgspec.field(name="fingerprint")
    """Which callback of the process."""
    stream: str = ""
    """The journal of the era that made it: the next one may make its own under the same name.
    Empty: made by an older release, for whatever era is under way."""


read_place = msgspec.json.Decoder(Place).decode


def token_of(secret: str, stream: str, of: str) -> str:
    """The token of the callback `of` of the process with the internal id `stream`."""
    made = hmac.digest(secret.encode(), f"{stream} {of}".encode(), "sha256")
    return base32(int.from_bytes(made, "big"), TOKEN_CHARACTERS)


def place_ref(token: str) -> Ref:
    """The cell that `token` leads to."""
    return Ref(REQUESTS, f"callback-{hashlib.sha256(token.encode()).hexdigest()}")


def place_put(token: str, id: str, of: str, stream: str, due: int) -> Put:
    """The cell that leads from `token` to the callback `of` of the process `id`, made in the era
    whose journal is `stream`, until `due`."""
    return Put(place_ref(token), msgspec.json.encode(Place(id, of, stream)), due)


def key_of(of: str, stream: str) -> str:
    """Under what a call of a callback is kept for its owner: once for each era."""
    return f"{of} {stream}" if stream else of


def is_token(text: str) -> bool:
    """Whether `text` could be a token at all."""
    return _TOKEN.match(text) is not None


def checked_base(url: str) -> str:
    """`url` as what public addresses begin with. Raises `ValueError`."""
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError(f"public_url is {url!r}; it must be an http or https address")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("public_url has a query, a fragment or a user; it must have none")
    return url.rstrip("/")
