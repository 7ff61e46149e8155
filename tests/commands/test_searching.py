"""Times and tags as a person types them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from outlive.clock import MICROS, ManualClock
from outlive.commands.exits import CommandFailed
from outlive.commands.searching import Narrowing, moment_of, pairs_of

NOW = 1_700_000_000 * MICROS
AT = datetime.fromtimestamp(1_700_000_000, UTC)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("90s", AT - timedelta(seconds=90)),
        ("2h", AT - timedelta(hours=2)),
        ("3d", AT - timedelta(days=3)),
        ("1w", AT - timedelta(weeks=1)),
        ("999999999w", datetime.fromtimestamp(0, UTC)),
        ("2026-11-22T07:00:00+01:00", datetime(2026, 11, 22, 6, tzinfo=UTC)),
        ("2026-11-22", datetime(2026, 11, 22, tzinfo=UTC)),
    ],
)
def test_a_time_is_how_long_ago_or_a_moment(typed: str, meant: datetime) -> None:
    assert moment_of(typed, NOW) == meant


@pytest.mark.parametrize("typed", ["2", "h", "2 hours", "", "-2h", "soon"])
def test_what_is_no_time_is_refused(typed: str) -> None:
    with pytest.raises(CommandFailed, match="is no time"):
        moment_of(typed, NOW)


def test_tags_are_pairs() -> None:
    assert pairs_of(("a=b", "c=d=e")) == {"a": "b", "c": "d=e"}
    for typed in ("a", "=b", "a="):
        with pytest.raises(CommandFailed, match="NAME=VALUE"):
            pairs_of((typed,))


def test_all_of_it_goes_to_the_search() -> None:
    typed = Narrowing(2, ("a=b",), "1h", None, None, "2026-01-01")
    assert typed.narrowed(ManualClock()) == {
        "version": 2,
        "tags": {"a": "b"},
        "started_since": AT - timedelta(hours=1),
        "started_until": None,
        "changed_since": None,
        "changed_until": datetime(2026, 1, 1, tzinfo=UTC),
    }
