"""Idempotency keys: one cell for a scope, a type and a key, and one process for a value."""

from __future__ import annotations

from typing import Any

import pytest

from outlive.errors import KeyReused
from outlive.kinds.processes import Definition
from outlive.kinds.processes.requests import request_of, started_by
from outlive.model import Put


def body(run: Any, what: Any) -> None: ...


THING = Definition(body, "/things", 1, "thing", None, 202, None, ())
OTHER = Definition(body, "/others", 1, "other", None, 202, None, ())


def asked(
    made: Definition = THING, raw: bytes = b'{"a":1,"b":2}', key: str = "k", scope: str = "s"
) -> Put:
    return request_of(made, raw, key, scope, "thing_1", 7)


def test_a_scope_a_type_and_a_key_have_a_cell_of_their_own() -> None:
    others = (asked(OTHER), asked(key="l"), asked(scope="t"), asked(key="", scope="sk"))
    assert len({asked().ref, *(other.ref for other in others)}) == 5
    assert asked().due == 7


def test_the_same_value_in_other_words_gives_the_process_that_there_is() -> None:
    again = request_of(THING, b'{ "b": 2, "a": 1 }', "k", "s", "thing_2", 9)
    assert again.ref == asked().ref
    assert started_by(asked().value, again) == "thing_1"


def test_another_value_is_refused() -> None:
    with pytest.raises(KeyReused, match="nothing was started"):
        started_by(asked().value, asked(raw=b'{"a":2}'))
