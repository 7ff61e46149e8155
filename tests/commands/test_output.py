"""What is printed for programs, and what for a pipe."""

import json

import msgspec
import pytest
from msgspec import Raw, Struct

from outlive.commands.output import dated, document, drawn_table, one_line, table
from outlive.doors.desk import BreakerLine, LimitLine, RequestLine, SessionLine
from outlive.kinds.processes import Node, Summary


class Line(Struct):
    id: str
    started: int
    due: int | None
    data: Raw


def test_times_are_rfc_3339_and_other_integers_stay_exact(capsys):
    document([Line("x", 1_700_000_000_000_001, None, Raw(b'{"started":9007199254740993}'))])
    (told,) = json.loads(capsys.readouterr().out)
    assert told["started"] == "2023-11-14T22:13:20.000001Z"
    assert told["due"] is None
    assert told["data"] == {"started": 9007199254740993}


def test_structs_inside_structs_are_dated_too():
    class Outer(Struct):
        lines: tuple[Line, ...]

    told = dated({"outer": Outer((Line("x", 0, 1, Raw(b"1")),))})
    assert told["outer"]["lines"][0]["due"] == "1970-01-01T00:00:00.000001Z"
    assert told["outer"]["lines"][0]["started"] is None, "0 stands for no time"


@pytest.mark.parametrize(
    "line",
    [SessionLine, LimitLine, BreakerLine, RequestLine, Summary, Node],
    ids=lambda it: it.__name__,
)
def test_every_time_of_a_list_is_printed_as_one(line):
    now = 1_790_000_000_000_000
    given = {
        one.name: now if one.type in (int, int | None) else None
        for one in msgspec.structs.fields(line)
    }
    counts = {"version", "pid", "shards", "status", "used", "of", "opened"}
    for name, value in dated(line(**given)).items():
        assert value is None or name in counts or value.startswith("2026-"), name


def test_a_table_into_a_pipe_is_aligned_lines_without_heads(capsys):
    table(("a", "b"), [("long", "x"), ("s", "")])
    assert capsys.readouterr().out == "long  x\ns\n"


def test_what_somebody_else_chose_moves_no_cursor_and_makes_no_second_row(capsys):
    table(("who", "browser"), [("ada", "\x1b[2J\x9b1A\nroot"), ("bob", "plain é")])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "ada  \\x1b[2J\\x9b1A\\nroot"
    assert second == "bob  plain é"
    assert "\x1b[2J" not in str(list(drawn_table(("a",), [("\x1b[2J",)]).columns[0].cells))


def test_a_message_is_one_line_of_bounded_length():
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("\x07") == "\\x07" and one_line("\u202e") == "\\u202e"
    assert len(one_line("é" * 5000)) == 1001
