"""Values of a Django cache come back as what they were, or are refused by name."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.http import HttpResponse, JsonResponse
from django.utils.safestring import SafeString, mark_safe
from hypothesis import given
from hypothesis import strategies as st
from tests.adapters import sites

from outlive.adapters.django_values import DEPTH_MAX, JSONValues

assert sites.settings.configured
VALUES = JSONValues()
BERLIN = ZoneInfo("Europe/Berlin")
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary() | st.datetimes() | st.dates() | st.times() | st.timedeltas() | st.uuids()
    | st.decimals(allow_nan=False)
)  # fmt: skip
hashables = st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text())
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(hashables, inner)
        | st.dictionaries(st.sampled_from(["!", "is", "a"]), inner)
        | st.frozensets(hashables) | st.sets(hashables)
    ),
    max_leaves=8,
)  # fmt: skip


def again(value: Any) -> Any:
    return VALUES.loads(VALUES.dumps(value))


@given(values)
def test_a_value_comes_back_equal_and_of_its_type(value: Any) -> None:
    found = again(value)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 11, 22, tzinfo=UTC), date.min, time(1, 2, 3), timedelta(-1, 5, 7),
        Decimal("1.10"), UUID(int=5), float("inf"), {1: {2: (3,)}}, {"!": "datetime", "is": "x"},
        datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN), time(2, 30, tzinfo=BERLIN),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
    ],
)  # fmt: skip
def test_what_json_has_no_word_for_comes_back(value: Any) -> None:
    assert again(value) == value and repr(again(value)) == repr(value)


def test_what_was_written_with_an_offset_is_read() -> None:
    written = b'{"!":"datetime","is":"2026-11-22T02:30:00+01:00"}'
    assert VALUES.loads(written) == datetime(2026, 11, 22, 2, 30, tzinfo=BERLIN)


def test_a_safe_string_stays_safe_and_a_plain_one_plain() -> None:
    assert type(again(mark_safe("<b>"))) is SafeString
    assert type(again("<b>")) is str


def test_a_finished_response_comes_back_with_its_status_fields_and_cookies() -> None:
    made = JsonResponse({"a": "é"}, status=201)
    made["X-Two"] = "2"
    made.set_cookie("seen", "a b", max_age=5)
    found = again(made)
    assert type(found) is HttpResponse and found.status_code == 201
    assert found.content == made.content and found["X-Two"] == "2"
    assert found["Content-Type"] == "application/json"
    assert found.cookies["seen"].OutputString() == made.cookies["seen"].OutputString()


@pytest.mark.parametrize("value", [object(), Exception("x"), lambda: 1, int])
def test_anything_else_is_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match="SERIALIZER"):
        VALUES.dumps({"deep": [value]})


def test_what_is_nested_too_deep_is_refused_and_does_not_end_the_program() -> None:
    value: Any = 1
    for _ in range(DEPTH_MAX + 1):
        value = [value]
    with pytest.raises(TypeError, match="deep"):
        VALUES.dumps(value)
