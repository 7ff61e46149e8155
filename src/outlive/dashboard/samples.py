"""A body of the shape a declared type accepts: for the command the empty dashboard teaches."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

DEPTH_MAX = 4
_PLAIN: Json = {
    "string": "text",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "null": None,
    "array": [],
}


def sample(schema: Json, named: Json) -> Any:
    """A value that has the shape of `schema`, its required members only.

    `named` are the schemas that `schema` refers to, by the last part of their reference.
    """
    return _from(schema, named, DEPTH_MAX)


def _from(schema: Json, named: Json, depth: int) -> Any:
    if "$ref" in schema:
        schema = named.get(schema["$ref"].rpartition("/")[2], {})
    for given in ("default", "const"):
        if given in schema:
            return schema[given]
    for several in ("examples", "enum"):
        if schema.get(several):
            return schema[several][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return _from(schema[choice][0], named, depth)
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind != "object":
        return _PLAIN.get(kind)
    if depth == 0:
        return {}
    properties = schema.get("properties", {})
    return {
        name: _from(properties.get(name, {}), named, depth - 1)
        for name in schema.get("required", ())
    }
