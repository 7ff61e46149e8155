"""Times as people read them."""

import pytest

from outlive.dashboard.times import ago, duration

S = 1_000_000


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "<1 ms"),
        (12_345, "12 ms"),
        (1_240_000, "1.24 s"),
        (59 * S, "59 s"),
        (125 * S, "2 min 5 s"),
        (3_600 * S, "1 h"),
        (93_600 * S, "1 d 2 h"),
    ],
)
def test_a_duration_has_at_most_two_units(micros: int, text: str) -> None:
    assert duration(micros) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (5, "5 s ago"),
        (200, "3 min ago"),
        (-7_300, "in 2 h"),
        (864_000, "10 d ago"),
    ],
)
def test_a_time_is_told_as_a_distance(seconds: int, text: str) -> None:
    assert ago(10**15, 10**15 - seconds * S) == text
