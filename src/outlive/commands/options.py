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
Limit = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=LIST_MAX))]
