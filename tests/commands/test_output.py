"""What is printed for programs, and what for a pipe."""

import json

from msgspec import Raw, Struct

from outlive.commands.output import dated, document, table


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
