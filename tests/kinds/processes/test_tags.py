"""Tags: what may be declared, where a value comes from, and how it is written into a mark."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from outlive import Outlive, Run
from outlive.errors import TagInvalid, TagNotDeclared
from outlive.kinds.processes import tags as tagging
from outlive.kinds.processes.tags import Tags, declared, marks, tags_of, text_of


class Size(Enum):
    LARGE = "large"


def test_names_alone_and_names_with_functions_are_declared() -> None:
    assert declared(("a", "b"), "t") == {"a": None, "b": None}
    found = declared({"a": str, "b": None}, "t")
    assert found["a"] is str and found["b"] is None


@pytest.mark.parametrize(
    ("tags", "error"),
    [
        ("customer", TypeError),
        (("Customer",), ValueError),
        (("a b",), ValueError),
        ({"a": "input.a"}, TypeError),
        (tuple(f"t{number}" for number in range(17)), ValueError),
    ],
)
def test_what_is_no_declaration_is_refused(tags: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        declared(tags, "t")


def test_what_is_given_stands_before_what_is_derived_and_none_is_nothing() -> None:
    found = {"who": lambda value: value["who"], "where": None, "size": lambda value: None}
    assert tags_of(found, "t", {"who": "a"}) == (("who", "a"),)
    given = {"who": "b", "where": Size.LARGE}
    assert tags_of(found, "t", {"who": "a"}, given) == (("where", "large"), ("who", "b"))


def test_a_function_that_fails_refuses_the_start_and_says_which() -> None:
    with pytest.raises(TagInvalid, match=r"Tag who of t .* KeyError"):
        tags_of({"who": lambda value: value["who"]}, "t", {})


def test_only_declared_names_are_taken() -> None:
    with pytest.raises(TagNotDeclared, match="its tags: a, b"):
        tags_of({"b": None, "a": None}, "t", None, {"c": "x"})


@pytest.mark.parametrize(
    ("value", "text"), [("é 1", "é 1"), (17, "17"), (True, "true"), (Size.LARGE, "large")]
)
def test_a_value_is_kept_as_text(value: Any, text: str) -> None:
    assert text_of("t", value) == text


@pytest.mark.parametrize("value", ["", "x" * 129, "a\nb", 1.5, ["a"]])
def test_what_is_no_short_text_is_refused(value: Any) -> None:
    with pytest.raises(TagInvalid):
        text_of("t", value)


def test_no_value_of_a_tag_begins_another_ones_marks() -> None:
    def mark(value: str) -> str:
        tags: Tags = (("t", value),)
        return marks(tags, 7)[0][1]

    assert mark("a") == "a 0000000000000007"
    assert not mark("a b").startswith("a ")
    assert mark("a%20b") != mark("a b")
    assert len(mark("🦀" * tagging.CHARACTERS_MAX)) < 1700  # an index row has room for it


def test_a_type_without_tags_has_two_marks_as_before() -> None:
    from outlive.kinds.processes.cells import Head, put_head, ref_of

    head = Head("s", "t", 1, "running", 7)
    plain = put_head(ref_of("t_1", 4), head)
    assert [name for name, _ in plain.marks] == ["process.status", "process.type"]
    assert b"tags" not in plain.value
    tagged = put_head(ref_of("t_1", 4), Head("s", "t", 1, "running", 7, tags=(("who", "a"),)))
    assert tagged.marks[2:] == (("process.tag.who", "a 0000000000000007"),)


def test_a_wrong_declaration_is_told_where_it_stands() -> None:
    app = Outlive("memory://")
    with pytest.raises(ValueError, match="no name of a tag"):

        @app.process("/t", version=1, tags=("Bad Name",))
        async def thing(run: Run) -> None: ...

    with pytest.raises(ValueError, match="retention_seconds of other"):

        @app.process("/o", version=1, retention_seconds=0)
        async def other(run: Run) -> None: ...
