"""Options that several commands share: how much is listed, for whom; and why a thing is done."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter, validators

LIST_MAX = 100_000
"""Processes one command lists."""

ListFormat = Annotated[
    Literal["table", "json", "ids", "csv"],
    Parameter(name=["--output", "-o"], help="table for people; json, ids, csv for programs."),
]
Reason = Annotated[str, Parameter(name=["--reason", "--why"], help="Why; kept with your name.")]


def _no_option(kind: object, value: object) -> None:
    """A mistyped option is not taken for an id."""
    if isinstance(value, str) and value.startswith("-") and value != "-":
        raise ValueError(f"there is no option {value.partition('=')[0]}")


OrStdin = Parameter(allow_leading_hyphen=True, validator=_no_option)
"""Of an argument that may be `-`: then stdin has it, or several of them, one a line."""
Limit = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=LIST_MAX))]
