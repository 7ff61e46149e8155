"""Options that several commands share: how much is listed, and for whom."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter, validators

LIST_MAX = 100_000
"""Processes one command lists."""

ListFormat = Annotated[
    Literal["text", "json", "ids"],
    Parameter(name=["--output", "-o"], help="text for people, json or ids for programs."),
]
Limit = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=LIST_MAX))]
