"""Declaring a type of process: what cannot work is refused where it is declared."""

from __future__ import annotations

from typing import Any

import pytest

from outlive.errors import InvalidInput, MalformedInput, SignalNotExpected
from outlive.kinds.processes import Definition


async def body(run: Any, form: dict[str, int]) -> list[str]:
    return []


def define(**other: Any) -> Definition:
    given: dict[str, Any] = {
        "body": body, "path": "/things", "version": 1, "name": None, "prefix": None,
        "status_code": 202, "signals": None, "rollback_on": (Exception,),
    }  # fmt: skip
    return Definition(**(given | other))


def test_name_prefix_and_types_come_from_the_function() -> None:
    made = define()
    assert (made.name, made.prefix, made.label) == ("body", "body", "body v1")
    assert made.takes_input and made.is_async
    assert (made.input_type.type, made.output_type.type) == (dict[str, int], list[str])


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Upper"},
        {"name": "x" * 65},
        {"prefix": "has_underscore"},
        {"path": "no-slash"},
        {"path": "/a//b"},
        {"path": "/outlive/x"},
        {"path": "/metrics"},
        {"version": 0},
        {"version": 2**31},
        {"status_code": 200},
    ],
)
def test_what_cannot_be_served_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        define(**wrong)


def test_a_body_takes_one_input_or_none() -> None:
    async def none(run: Any) -> None: ...

    async def two(run: Any, a: int, b: int) -> None: ...

    assert not define(body=none).takes_input
    with pytest.raises(TypeError, match="takes 2 inputs"):
        define(body=two)


def test_signals_are_read_as_declared() -> None:
    made = define(signals={"go": int})
    assert bytes(made.signal_payload("go", b" 7 ")) == b"7"
    with pytest.raises(SignalNotExpected, match="it takes: go"):
        made.signal_payload("stop", b"7")
    with pytest.raises(InvalidInput):
        made.signal_payload("go", b'"x"')
    with pytest.raises(MalformedInput):
        made.signal_payload("go", b"{")
    assert bytes(define().signal_payload("anything", b'{"a":1}')) == b'{"a":1}'


def test_a_deadline_is_above_zero() -> None:
    async def body(run: Any) -> None: ...

    assert Definition(body, "/a", 1, None, None, 202, None, (), 5).deadline == 5
    with pytest.raises(ValueError, match="deadline of body is 0"):
        Definition(body, "/a", 1, None, None, 202, None, (), 0)


@pytest.mark.parametrize("accepts", [(2,), (3,), (0,), (1, 1)])
def test_a_body_accepts_older_versions_each_once(accepts: tuple[int, ...]) -> None:
    async def body(run: Any) -> None: ...

    made = Definition(body, "/a", 3, None, None, 202, None, (), accepts=(1, 2))
    assert made.versions == (3, 1, 2)
    with pytest.raises(ValueError, match="it names older versions"):
        Definition(body, "/a", 2, None, None, 202, None, (), accepts=accepts)
