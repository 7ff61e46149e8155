"""What a kind demands of the store it is kept in, and what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from outlive.errors import StoreRefused
from outlive.kind import Decision, Kind, View, class_of, kept_as
from outlive.model import Batch, Cell, Ref


class Notes(Kind[str, None]):
    name = "notes"
    spaces = {"note": "relaxed", "ledger": "durable"}  # noqa: RUF012

    def refs(self, command: str) -> Sequence[Ref]:
        return (Ref("note", command),)

    def decide(self, view: View, command: str, now: int) -> Decision[None]:
        return Decision(Batch(), None)


def test_a_space_and_what_lies_below_it_are_of_one_class() -> None:
    assert class_of(Notes(), "note") == class_of(Notes(), "note/7") == "relaxed"
    assert class_of(Notes(), "ledger") == "durable"
    with pytest.raises(ValueError, match="none of notes: note, ledger"):
        class_of(Notes(), "other")


def test_what_is_kept_is_never_weaker_than_what_was_declared() -> None:
    database, memory = ("relaxed", "durable"), ("volatile", "relaxed", "durable")
    assert kept_as("volatile", database, "a", "b") == "relaxed"
    assert kept_as("volatile", memory, "a", "b") == "volatile"
    assert kept_as("durable", database, "a", "b") == "durable"
    with pytest.raises(StoreRefused, match="Space a is relaxed, and Cache keeps only what is vol"):
        kept_as("relaxed", ("volatile",), "Space a", "Cache")


def test_a_cell_past_its_deadline_is_dropped_unless_its_kind_says_otherwise() -> None:
    cell = Cell("note", "a", b"", 3, 7)
    assert Notes().on_due(cell, 8) == Batch(drop=(Ref("note", "a"),))
