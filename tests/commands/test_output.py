"""What is printed for programs, and what for a pipe."""

import json

from msgspec import Raw, Struct

from outlive.commands.output import dated, document, drawn_table, one_line, table


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

    told = dated({"outer": Outer((Line("x", 0, 0, Raw(b"1")),))})
    assert told["outer"]["lines"][0]["due"] == "1970-01-01T00:00:00.000000Z"


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
