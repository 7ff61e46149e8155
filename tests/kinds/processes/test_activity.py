"""Lines of the activity log, as cells."""

from __future__ import annotations

import pytest

from outlive.kinds.processes.activity import Noted, lines_of, note_of, noted, place_of
from outlive.kinds.processes.cells import Command
from outlive.model import Cell

NOW = 1_790_000_000_000_000


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (Command("pause", "x", who="ann", reason="r"), Noted(NOW, "ann", "pause", "x", "", "r")),
        (Command("hasten", "x", "pay", who="ann"), Noted(NOW, "ann", "retry now", "x", "pay")),
        (Command("fork", "x", "new id", who="ann"), Noted(NOW, "ann", "fork", "x")),
        (Command("cancel", "x", who="http"), None),
        (Command("pause", "x", who="http"), Noted(NOW, "http", "pause", "x")),
        (Command("pause", "x"), None),
    ],
)
def test_a_command_is_noted_by_who_asked_for_it(command: Command, line: Noted | None) -> None:
    assert note_of(command, NOW) == line


def test_the_later_a_line_the_earlier_its_key() -> None:
    assert place_of(NOW + 1) < place_of(NOW) and len(place_of(NOW)) == 16
    put = noted(Noted(NOW, "ann", "skip", "x", "pay", "why"), "abc")
    cell = Cell(put.ref.space, put.ref.key, put.value, 1)
    assert lines_of([cell]) == [Noted(NOW, "ann", "skip", "x", "pay", "why")]
