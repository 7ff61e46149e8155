"""Values to bytes and back: exact, typed, by declared shapes, and never pickle."""

from __future__ import annotations

import dataclasses
import datetime
import functools
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlive import codec
from outlive.codec import ANYTHING, Shape

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


class Inner(pydantic.BaseModel):
    number: int = pydantic.Field(alias="theNumber")


class Outer(msgspec.Struct):
    inner: Inner
    when: datetime.datetime


@dataclasses.dataclass
class Point:
    x: int
    names: list[str]


@given(PLAIN)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    assert ANYTHING.read(codec.encode(value)) == value


@given(st.dictionaries(st.text(max_size=5), PLAIN, max_size=4))
def test_equal_values_have_one_fingerprint_whatever_the_order(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert codec.fingerprint(value) == codec.fingerprint(turned)


def test_other_values_have_other_fingerprints_and_types_count() -> None:
    found = {codec.fingerprint(value) for value in (1, "1", 1.5, None, True, [1], {"a": 1})}
    assert len(found) == 7


def test_integers_of_any_size_stay_exact() -> None:
    assert Shape(int).read(codec.encode(2**200)) == 2**200


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        (Point, Point(1, ["a"])),
        (Inner, Inner(theNumber=3)),
        (Outer, Outer(Inner(theNumber=3), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC))),
        (dict[str, Inner], {"a": Inner(theNumber=3)}),
        (type(None), None),
        (int | None, 3),
    ],
)
def test_declared_types_come_back_typed(wanted: Any, value: Any) -> None:
    assert Shape(wanted).read(codec.encode(value)) == value


def test_what_does_not_fit_or_is_no_json_is_a_value_error() -> None:
    for shape in (Shape(Point), Shape(Inner), Shape(int)):
        for data in (b'{"x": "no"}', b"{", b'"text"'):
            with pytest.raises(ValueError):  # noqa: PT011
                shape.read(data)


def test_what_cannot_be_recorded_says_so() -> None:
    with pytest.raises((TypeError, NotImplementedError), match="cannot be recorded"):
        codec.encode(object())


def test_schemas_are_given_for_structs_and_models() -> None:
    for wanted in (Point, Inner, list[int]):
        schema, _ = Shape(wanted).schema()
        assert schema


def test_a_digest_knows_where_its_parts_end() -> None:
    assert codec.digest(b"ab", b"c") != codec.digest(b"a", b"bc")
    assert len(codec.digest()) == 32


def test_the_shapes_of_a_function_are_those_it_declares() -> None:
    def work(tables: Any, a: int, b: Point, *, c: str = "") -> None: ...

    given, result = codec.shapes(work, skip=1)
    assert [shape.type for shape in given] == [int, Point] and result.type is type(None)


def test_the_bounds_of_an_annotation_count() -> None:
    def work(count: Annotated[int, msgspec.Meta(ge=100)]) -> None: ...

    (given,), _ = codec.shapes(work)
    assert given.read(b"100") == 100
    with pytest.raises(ValueError, match=">= 100"):
        given.read(b"1")
    assert given.schema()[0]["minimum"] == 100


def test_a_type_that_its_module_does_not_have_counts_as_not_annotated() -> None:
    def lost(value: msgspec.NoSuchType) -> int: ...  # type: ignore[name-defined]

    (taken,), _ = codec.shapes(lost)
    assert taken.type is Any


def test_one_type_for_checkers_only_does_not_hide_the_others() -> None:
    def lost(run: msgspec.NoSuchType, value: Point) -> list[Point]:  # type: ignore[name-defined]
        return [value]

    given, gives = codec.shapes(lost)
    assert [shape.type for shape in given] == [Any, Point]
    assert gives.type == list[Point]

    @functools.wraps(lost)
    def around(*given: Any) -> Any: ...

    assert codec.hints(around) == codec.hints(lost)
    assert codec.hints(functools.partial(lost)) == {}
