"""Values to bytes and back: JSON by msgspec, never pickle.

Accepted as payloads: msgspec structs, dataclasses, attrs classes, pydantic models (also nested),
and plain JSON values. Integers stay exact. A `Shape` is a declared type with its decoder; it is
built once, where the type is declared, so that a type nobody can decode fails at import and not in
the middle of a process.
"""

from __future__ import annotations

import hashlib
import inspect
import typing
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import msgspec

NULL = msgspec.Raw(b"null")


def _plain(value: Any) -> Any:
    """What msgspec does not know by itself: pydantic models, by their own rules."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json", by_alias=True)
    raise NotImplementedError(f"values of type {type(value).__name__} cannot be recorded")


def _rich(wanted: type, value: Any) -> Any:
    validate = getattr(wanted, "model_validate", None)
    if validate is not None:
        return validate(value)
    raise NotImplementedError(f"values of type {wanted!r} cannot be read back")


encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=_plain).encode
"""A value as JSON. Raises `TypeError` when it cannot be recorded."""

_canonical = msgspec.json.Encoder(enc_hook=_plain, order="deterministic").encode


FINGERPRINT_PLAIN_MAX = 32


def fingerprint(value: Any) -> str:
    """A short text that is equal for equal values, whatever the order of their fields.

    The value's own JSON when that has at most 32 bytes, which makes a difference readable; else 16
    hexadecimal digits.
    """
    plain = _canonical(value)
    if len(plain) <= FINGERPRINT_PLAIN_MAX:
        return plain.decode()
    return hashlib.blake2b(plain, digest_size=8).hexdigest()


def digest(*parts: bytes) -> str:
    """A key made of `parts`: 32 hexadecimal digits, without ambiguity about where a part ends."""
    return digest_of(apart(*parts))


def digest_of(told_apart: bytes) -> str:
    """The digest of parts that `apart` has joined: who digests many with one beginning joins that
    once."""
    return hashlib.blake2b(told_apart, digest_size=16).hexdigest()


def apart(*parts: bytes) -> bytes:
    """`parts` behind one another, each with its length in front."""
    if len(parts) == 1:
        return len(parts[0]).to_bytes(8, "big") + parts[0]
    return b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "big"), part)])


PLAIN = (int, str, bool, type(None))
"""Types whose values JSON gives back exactly as they were."""


class Shape:
    """A declared type: how its values are read from JSON, and their JSON schema."""

    __slots__ = ("_decode", "plain", "type")

    def __init__(self, wanted: Any) -> None:
        self.type = Any if wanted in (inspect.Parameter.empty, None) else wanted
        if wanted is None:
            self.type = type(None)
        self.plain = PLAIN if self.type is Any else (self.type,) if self.type in PLAIN else ()
        """Types of which a value needs no reading back: it would be the same."""
        validate = getattr(self.type, "model_validate_json", None)
        if validate is not None:
            self._decode: Callable[[bytes], Any] = validate
        else:
            self._decode = msgspec.json.Decoder(self.type, dec_hook=_rich).decode

    def again(self, value: Any, data: bytes) -> Any:
        """`value`, whose JSON is `data`, as it is read back. Raises as `read`."""
        return value if type(value) in self.plain else self.read(data)

    def read(self, data: bytes | msgspec.Raw) -> Any:
        """The value in `data`. Raises `ValueError` (msgspec's or pydantic's) when it does not
        fit."""
        try:
            return self._decode(bytes(data) if isinstance(data, msgspec.Raw) else data)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None

    def schema(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The JSON schema of the type and the components it refers to under
        `#/components/schemas/`."""
        reference = "#/components/schemas/{name}"
        model_schema = getattr(self.type, "model_json_schema", None)
        if model_schema is not None:
            whole: dict[str, Any] = model_schema(
                ref_template="#/components/schemas/{model}", by_alias=True
            )
            parts = whole.pop("$defs", {})
            return whole, parts
        schemas, parts = msgspec.json.schema_components([self.type], ref_template=reference)
        return schemas[0], parts


ANYTHING = Shape(Any)


def hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of `function`, resolved; one that cannot be resolved, such as a name that is
    imported for type checkers only, counts as not annotated, and the others as they are."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (AttributeError, NameError, TypeError):
        pass
    real = inspect.unwrap(function)
    try:
        written = dict(real.__annotations__)
    except (AttributeError, NameError):
        return {}
    found: dict[str, Any] = {}
    for name, hint in written.items():
        alone = SimpleNamespace(
            __annotations__={name: hint}, __type_params__=getattr(real, "__type_params__", ())
        )
        with suppress(AttributeError, NameError, TypeError):
            known = getattr(real, "__globals__", {})
            found |= typing.get_type_hints(alone, known, include_extras=True)
    return found


def shapes(function: Callable[..., Any], skip: int = 0) -> tuple[list[Shape], Shape]:
    """The shapes of the positional parameters of `function` after the first `skip`, and of its
    result."""
    found = hints(function)
    parameters = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ][skip:]
    given = [Shape(found.get(parameter.name, Any)) for parameter in parameters]
    returned = found.get("return", Any)
    return given, Shape(type(None) if returned is None else returned)
