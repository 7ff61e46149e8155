"""When two requests are the same one: a canonical form, and the rule that it was made by.

    1:9f86d081…      the rule, and the digest of what it takes of the request

What a rule takes never changes. A record says by which rule it was written, and is compared by that
one, so instances of two versions agree while a deploy rolls. Headers are in none: `traceparent` and
`date` differ in every repetition.

Rule 1: the method, the route, the values of its parameters, and the body. JSON counts by its value:
the order of members, spaces, escapes and the ways to write one number (`1`, `1.0`, `1e0`) make no
difference; the form of accents in a text does. Any other body counts by its bytes and media type.

Rule 2: the same, and the query, in which the order of names makes no difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from outlive import codec

EXACT_MAX = 2**53
"""The largest number that every client's JSON keeps exact: above it 1.0 and 1 are not compared."""


class Asked(Struct, frozen=True):
    """What of a request a rule may take. `fields`: the members of a JSON body that count; all when
    there are none."""

    method: str
    route: str
    parameters: Mapping[str, str]
    body: bytes
    media: str = ""
    query: str = ""
    fields: Sequence[str] = ()


def _first(asked: Asked) -> str:
    head = codec.encode(
        [asked.method, asked.route, sorted(asked.parameters.items()), sorted(asked.fields)]
    )
    media = asked.media.partition(";")[0].strip().lower()
    body = asked.body
    if media.endswith("json") or (not media and body[:1] in b'{["'):
        with suppress(msgspec.DecodeError, RecursionError):  # what nobody reads counts by its bytes
            value = msgspec.json.decode(body)
            if asked.fields and isinstance(value, dict):
                value = {name: value[name] for name in asked.fields if name in value}
            body, media = _spelled(value), "json"
    return _digest(head, media.encode(), body)


def _second(asked: Asked, first: str) -> str:
    if not asked.query:
        return first
    given = parse_qsl(asked.query, keep_blank_values=True, encoding="latin-1")  # loses nothing
    return _digest(first.encode(), codec.encode(sorted(given, key=itemgetter(0))))


NEWEST = "2"
_AS_THEY_ARE = (int, str, bool, type(None))
"""Types of JSON's values that there is one way to write."""


def fingerprints_of(asked: Asked) -> dict[str, str]:
    """The fingerprint of a request by every rule."""
    first = _first(asked)
    return {"1": f"1:{first}", "2": f"2:{_second(asked, first)}"}


def fingerprints_of_value(value: Any) -> dict[str, str]:
    """The same for a call of a function, of which `value` is all that counts."""
    first = _digest(canonical(value))
    return {"1": f"1:{first}", "2": f"2:{first}"}


def canonical(value: Any) -> bytes:
    """The one way to write `value`, whatever the order of members and the kind of numbers."""
    return _spelled(msgspec.json.decode(codec.encode(value)))


def _spelled(plain: Any) -> bytes:
    """The same of what JSON has given."""
    return msgspec.json.encode(_numbers(plain), order="deterministic")


def _numbers(value: Any) -> Any:
    if type(value) in _AS_THEY_ARE:  # most are
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= EXACT_MAX else value
    if isinstance(value, dict):
        return {name: _numbers(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_numbers(member) for member in value]
    return value


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(codec.apart(*parts)).hexdigest()
