"""The query of a list: what it may say, and what is said when it may not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from outlive.web.problems import InvalidQuery
from outlive.web.searching import kept, narrowed, parameters


def test_everything_that_narrows_is_read() -> None:
    found = narrowed(
        {
            "version": "2",
            "startedSince": "2026-11-22T07:00:00Z",
            "changedUntil": "2026-11-22T08:00:00.5+01:00",
            "tag.customer": "c 17",
            "limit": "3",
        },
        {"customer": None, "region": None},
    )
    assert found == {
        "version": 2,
        "started_since": datetime(2026, 11, 22, 7, tzinfo=UTC),
        "changed_until": datetime(2026, 11, 22, 7, 0, 0, 500_000, tzinfo=UTC),
        "tags": {"customer": "c 17"},
    }
    assert narrowed({}, ()) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", "0"),
        ("version", "one"),
        ("version", "99999999999"),
        ("version", "²"),
        ("startedSince", "yesterday"),
        ("startedUntil", "2026-11-22T07:00:00"),
        ("changedUntil", ""),
        ("tag.customer", ""),
        ("tag.customer", "x" * 129),
        ("tag.colour", "red"),
        ("tag.", "red"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidQuery) as refused:
        narrowed({name: value}, ("customer",))
    assert refused.value.facts["parameter"] == name


def test_the_next_page_is_narrowed_the_same() -> None:
    given = {"tag.a": "b", "status": "done", "limit": "3", "cursor": "1", "changedSince": "t"}
    assert kept(given) == {"tag.a": "b", "status": "done", "changedSince": "t"}


def test_each_declared_tag_is_described() -> None:
    names = [found["name"] for found in parameters(("region", "customer"))]
    assert names[-2:] == ["tag.customer", "tag.region"]
    assert "startedSince" in names
