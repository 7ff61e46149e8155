"""A value of a declared type, made from its JSON schema: what a proof starts processes with.

Only what is required is filled in; bounds, lengths and enumerations are kept, and a pattern is met
by the first of a few usual texts that fits. `Meta(examples=[…])` (or pydantic's `examples`) is
taken before anything else: where nothing fits, that is the remedy.
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from outlive.codec import Shape

Json = dict[str, Any]
Texts = tuple[str, ...]
BOUNDS = {
    "minimum": operator.ge,
    "exclusiveMinimum": operator.gt,
    "maximum": operator.le,
    "exclusiveMaximum": operator.lt,
}
DEPTH_MAX = 8
ITEMS_MAX = 100
TEXTS = (
    "a", "ada", "Ada", "A", "1", "0", "ada@example.org", "https://example.org/",
    "2026-01-02", "2026-01-02T03:04:05Z", "00:00:00Z", "PT1S", "+441632960001", "192.0.2.1",
    "EUR", "de", "en-GB", "12345", "123456", "12345678", "1234567890", "a-1", "A-1", "AB12",
    "00000000-0000-4000-8000-000000000000", "DE89370400440532013000",
)  # fmt: skip
"""What a pattern or a format is tried with."""
FORMATS = {
    "date": "2026-01-02",
    "date-time": "2026-01-02T03:04:05Z",
    "time": "03:04:05Z",
    "duration": "PT1S",
    "email": "ada@example.org",
    "uri": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "decimal": "1.5",
    "byte": "YQ==",
}


def specimen(shape: Shape) -> bytes:
    """JSON that `shape` reads. Raises `ValueError` when none could be made."""
    schema, parts = shape.schema()
    unfit: ValueError | None = None
    for at in range(len(TEXTS)):  # some types are plain text to a schema, such as a time of day
        made = msgspec.json.encode(_from(schema, parts, DEPTH_MAX, TEXTS[at:] + TEXTS[:at]))
        try:
            shape.read(made)
        except ValueError as error:
            unfit = unfit or error
            continue
        return made
    raise ValueError(f"no specimen was read by its own type: {unfit}; give it examples")


def _from(schema: Json, parts: Json, depth: int, texts: Texts) -> Any:
    if depth == 0:
        raise ValueError("it refers to itself too deeply")
    if "$ref" in schema:
        return _from(parts.get(schema["$ref"].rpartition("/")[2], {}), parts, depth - 1, texts)
    for several in ("examples", "enum"):
        if schema.get(several):
            return schema[several][0]
    for given in ("const", "default"):
        if given in schema:
            return schema[given]
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return _first_of(schema[choice], parts, depth, texts)
    match schema.get("type"):
        case "object":
            return _object(schema, parts, depth, texts)
        case "array":
            return _array(schema, parts, depth, texts)
        case "string":
            return _text(schema, texts)
        case "integer" | "number" as kind:
            return _number(schema, kind == "integer")
        case "boolean":
            return True
    return None


def _first_of(choices: list[Json], parts: Json, depth: int, texts: Texts) -> Any:
    """The first choice that can be made; a reference to itself is left for a simpler one."""
    for choice in sorted(choices, key=lambda each: "$ref" in each):
        try:
            return _from(choice, parts, depth - 1, texts)
        except ValueError:
            continue
    raise ValueError("none of its choices can be made")


def _object(schema: Json, parts: Json, depth: int, texts: Texts) -> Json:
    properties = schema.get("properties", {})
    return {
        name: _from(properties.get(name, {}), parts, depth - 1, texts)
        for name in schema.get("required", ())
    }


def _array(schema: Json, parts: Json, depth: int, texts: Texts) -> list[Any]:
    first = [_from(each, parts, depth - 1, texts) for each in schema.get("prefixItems", ())]
    items = schema.get("items")
    for _ in range(len(first), min(ITEMS_MAX, schema.get("minItems", 0))):
        first.append(_from(items if isinstance(items, dict) else {}, parts, depth - 1, texts))
    return first


def _text(schema: Json, texts: Texts) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength", 1_000_000)
    pattern = schema.get("pattern")
    named = [FORMATS[schema["format"]]] if schema.get("format") in FORMATS else []
    for text in (*named, *texts):
        longer = text.ljust(least, text[-1])
        for tried in (text, longer):
            if least <= len(tried) <= most and (not pattern or re.search(pattern, tried)):
                return tried
    raise ValueError(f"no usual text has the pattern {pattern!r}: give it examples")


def _number(schema: Json, whole: bool) -> float:
    """The first of a few numbers that keeps all bounds: 1, those beside a bound, the middle."""
    step = schema.get("multipleOf", 0)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    tries: list[float] = [1, 0]
    if low is not None:
        tries += [low, low + 1]
    if high is not None:
        tries += [high, high - 1]
    if low is not None and high is not None:
        tries.append((low + high) / 2)
    for tried in tries:
        found = -(-tried // step) * step if step else tried
        found = int(found) if whole else found
        if all(keeps(found, schema[bound]) for bound, keeps in BOUNDS.items() if bound in schema):
            return found
    raise ValueError(f"no usual number keeps the bounds {low} and {high}: give it examples")
