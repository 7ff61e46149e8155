"""What could not be delivered is a cell; what delivers no event leaves none."""

from __future__ import annotations

from msgspec import Raw

from outlive.kinds.processes import Command
from outlive.kinds.processes.undelivered import read_undelivered, undelivered


def test_it_says_what_it_was_for_whom_and_why() -> None:
    command = Command(
        "signal", "ord_1", "paid", Raw(b"7"), "evt_1/order signal paid", event="evt_1"
    )
    (put,) = undelivered(command, "it has ended", 100, 50)
    kept = read_undelivered(put.value)
    assert (kept.event, kept.subscriber, kept.process) == ("evt_1", "order signal paid", "ord_1")
    assert (kept.why, bytes(kept.payload), kept.at, put.due) == ("it has ended", b"7", 100, 150)
    assert put.ref.key.startswith("evt_1/")


def test_other_commands_leave_nothing() -> None:
    assert undelivered(Command("signal", "ord_1", "paid"), "it has ended", 100, 50) == ()
