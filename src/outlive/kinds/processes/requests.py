"""Idempotency keys of starts: a cell for each, which names the process that was started with it.

The same key with the same value gives the same process; with another value it is refused. A cell is
found by the digest of its scope, the type and the key, and is kept until its `due` has passed and
the process has ended.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from outlive import codec
from outlive.errors import KeyReused
from outlive.kinds.processes.definition import Definition
from outlive.model import Put, Ref

REQUESTS = "request"
"""The space of idempotency keys."""


class Request(Struct, frozen=True):
    """The value of an idempotency key's cell: which process it started, and for what."""

    id: str
    fingerprint: str


read_request = msgspec.json.Decoder(Request).decode


def request_of(
    made: Definition, raw: bytes, key: str, scope: str, id: str, due: int, notify: str = ""
) -> Put:
    """The cell of `key` for a start of `made` with the input `raw`, as the process `id`.

    `scope` keeps the keys of different callers apart; `due`: kept at least until then.
    """
    name = codec.digest(scope.encode(), made.name.encode(), key.encode())
    asked = codec.ANYTHING.read(raw)
    if notify:  # who is told of the end is a part of what is asked for
        asked = [asked, codec.digest(notify.encode())]
    value = Request(id, codec.fingerprint(asked))
    return Put(Ref(REQUESTS, name), codec.encode(value), due)


def started_by(found: bytes, request: Put) -> str:
    """The process that was started with the key of `request` before, as the cell says that was
    `found`. Raises `KeyReused` when it was for another value."""
    ours, theirs = read_request(request.value), read_request(found)
    if ours.fingerprint != theirs.fingerprint:
        raise KeyReused("This idempotency key was used for another request; nothing was started.")
    return theirs.id
