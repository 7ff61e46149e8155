"""A body of the shape a type has."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from outlive.dashboard.samples import sample


class Inner(msgspec.Struct):
    on: bool
    words: list[str]


class Outer(msgspec.Struct):
    inner: Inner
    amount: float
    kind: str = "left out"
    parent: "Outer | None" = None


def test_a_sample_fits_the_type_it_was_made_from() -> None:
    (schema,), named = msgspec.json.schema_components((Outer,))
    made = sample(schema, named)
    assert "kind" not in made
    msgspec.convert(made, Outer)


def test_anything_is_an_empty_object() -> None:
    assert sample({}, {}) == {}


@given(st.sampled_from(["string", "integer", "number", "boolean", "null", "array"]))
def test_every_plain_type_has_a_sample(kind: str) -> None:
    checks: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool}
    assert isinstance(
        sample({"type": kind}, {}), checks.get(kind, type(sample({"type": kind}, {})))
    )


def test_a_schema_that_refers_to_itself_ends() -> None:
    node = {"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#/x/Node"}}}
    assert "next" in sample({"$ref": "#/x/Node"}, {"Node": node})


def test_of_several_types_in_one_list_it_is_the_first_that_is_something() -> None:
    assert sample({"type": ["null", "integer"]}, {}) == 1
    assert sample({"type": ["null"]}, {}) is None
