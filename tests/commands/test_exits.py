"""How a command ends: each kind of error has its number."""

from outlive.commands.exits import CommandFailed, exit_code
from outlive.errors import (
    InvalidInput,
    NoSuchProcess,
    OutcomeUnknown,
    PastPivot,
    StoreBusy,
    StoreCorrupt,
)


def test_each_kind_of_error_has_its_exit_code():
    assert exit_code(OutcomeUnknown()) == 1
    assert exit_code(InvalidInput()) == 2
    assert exit_code(NoSuchProcess()) == 3
    assert exit_code(PastPivot()) == 4
    assert exit_code(StoreBusy()) == 5
    assert exit_code(StoreCorrupt()) == 5


def test_a_command_that_fails_for_no_better_reason_gives_1():
    assert CommandFailed("it did not work").code == 1
