"""What goes along with the work: how much time is left, and who retries."""

from __future__ import annotations

import pytest

from outlive.clock import ManualClock
from outlive.runtime.deadlines import (
    attempt_here,
    deadline_here,
    enter_attempt,
    incoming,
    leave_attempt,
    outgoing,
    until,
)


def test_a_deadline_only_ever_becomes_shorter() -> None:
    with until(10.0):
        with until(20.0):
            assert deadline_here() == 10.0
        with until(5.0):
            assert deadline_here() == 5.0
        assert deadline_here() == 10.0
    assert deadline_here() is None


def test_the_next_service_is_told_what_is_left_and_who_retries() -> None:
    clock = ManualClock()
    assert outgoing(clock) == {}
    with until(clock.boot() + 2.0):
        clock.advance(0.5)
        mark = enter_attempt(3)
        headers = outgoing(clock)
        leave_attempt(mark)
    assert headers == {"outlive-deadline-ms": "1500", "outlive-attempt": "3"}
    with incoming(headers, clock):
        assert deadline_here() == pytest.approx(clock.boot() + 1.5)
        assert attempt_here() == 3
    assert (deadline_here(), attempt_here()) == (None, 0)


@pytest.mark.parametrize("wrong", ["", "-1", "1.5", "x", "٣", "9" * 13])
def test_what_is_malformed_is_left_out(wrong: str) -> None:
    with incoming({"outlive-deadline-ms": wrong, "outlive-attempt": wrong}):
        assert (deadline_here(), attempt_here()) == (None, 0)
