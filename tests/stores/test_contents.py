"""Every row of a store is looked at, and each thing that is wrong with it is named."""

from __future__ import annotations

from typing import Any

import pytest
from tests.stores.filling import BLOB, facts, sound

from outlive.model import Shard
from outlive.stores.blobs import named
from outlive.stores.contents import (
    FAULTS_MAX,
    SECTIONS,
    Inspection,
    Sums,
    key_of,
    size_of,
)


def looked_at(rows: dict[str, list[tuple[Any, ...]]], **changes: Any) -> tuple[list[str], Sums]:
    inspection = Inspection(facts(rows, **changes))
    for section in SECTIONS:
        for row in rows[section]:
            inspection.take(section, [row])
    sums = inspection.end()
    return inspection.found, sums


def test_nothing_is_found_in_a_sound_store() -> None:
    found, sums = looked_at(sound())
    assert found == []
    assert sums.counts == {"holds": 2, "events": 6, "cells": 3, "blobs": 1}


def changed(section: str, at: int, field: int, value: Any) -> dict[str, list[tuple[Any, ...]]]:
    rows = sound()
    row = list(rows[section][at])
    row[field] = value
    rows[section][at] = tuple(row)
    return rows


@pytest.mark.parametrize(
    ("section", "at", "field", "value", "said"),
    [
        ("events", 1, 6, b"dato", "shard 0: event 2 is not what was committed"),
        ("events", 5, 2, "t", "shard 1: event 2 is not what was committed"),
        ("events", 3, 5, 8, "shard 0: event 4 is not what was committed"),
        ("events", 0, 7, b"\0" * 16, "shard 0: event 1 is not what was committed"),
        ("events", 1, 4, "erased", "shard 0: event 2 is not what was committed"),
        ("events", 5, 0, 3, "shard 3: has events, and the store has no such shard"),
        ("cells", 1, 2, 11, "cell a/2: version 11 was never drawn"),
        ("cells", 0, 1, "3", "cells: ('a', '2') stands after ('a', '3')"),
        ("holds", 1, 1, 3, "shard 1: epoch 3 in its ledger is above its own"),
        ("blobs", 0, 2, b"bytez", f"blob {BLOB} is not what was put"),
    ],
)
def test_a_changed_row_is_named(section: str, at: int, field: int, value: Any, said: str) -> None:
    found, sums = looked_at(changed(section, at, field, value))
    assert any(said in fault for fault in found), found
    assert sums != looked_at(sound())[1]


@pytest.mark.parametrize(
    ("section", "at", "said"),
    [
        ("events", 1, "shard 0: event 2 is missing"),
        ("events", 3, "shard 0: its head is 4, its last event is 3"),
        ("cells", 2, "cells: 2 were read, and 3 counted"),
        ("blobs", 0, f"blob {BLOB} is named by a cell, and is not there"),
    ],
)
def test_a_missing_row_is_named(section: str, at: int, said: str) -> None:
    rows = sound()
    counts = {name: len(rows[name]) for name in SECTIONS}
    del rows[section][at]
    found, _ = looked_at(rows, counts=counts)
    assert any(said in fault for fault in found), found


def test_an_erased_row_is_trusted_and_what_hangs_on_it_is_looked_at() -> None:
    rows = sound()
    rows["events"][1] = (*rows["events"][1][:4], "erased", 7, b"", rows["events"][1][7])
    assert looked_at(rows)[0] == []
    rows["events"][1] = (*rows["events"][1][:7], b"\0" * 16)
    assert "shard 0: event 3 is not what was committed (chain broken)" in looked_at(rows)[0]


def test_a_head_that_was_moved_and_a_missing_shard_are_named() -> None:
    shards = (Shard(0, "node", 1, 5), Shard(2, "", 2, 0))
    found, _ = looked_at(sound(), shards=shards)
    assert "shards: they are not numbered 0 to 1" in found
    assert "shard 0: its head is 5, its last event is 4" in found


def test_what_a_user_wrote_into_a_cell_names_no_blob() -> None:
    rows = sound()
    made_up = named(b"never kept", 100).encode()
    rows["cells"][0] = ("a", "1", 9, None, "[]", b'{"nickname":"' + made_up + b'"}')
    assert looked_at(rows)[0] == []


def test_the_date_of_a_blob_is_no_part_of_the_sums() -> None:
    assert looked_at(changed("blobs", 0, 1, 99))[1] == looked_at(sound())[1]


def test_the_sums_do_not_depend_on_the_pages() -> None:
    rows = sound()
    inspection = Inspection(facts(rows))
    for section in SECTIONS:
        inspection.take(section, rows[section])
    assert inspection.end() == looked_at(rows)[1]


def test_no_more_faults_are_kept_than_anybody_reads() -> None:
    rows = sound()
    rows["cells"] = [("a", f"{n:04}", 99, None, "[]", b"") for n in range(2 * FAULTS_MAX)]
    assert len(looked_at(rows)[0]) == FAULTS_MAX


def test_a_row_knows_its_key_and_its_size() -> None:
    assert key_of("events", sound()["events"][1]) == (0, 2)
    assert key_of("blobs", sound()["blobs"][0]) == (BLOB,)
    assert [size_of(section, sound()[section][0]) for section in ("holds", "blobs")] == [100, 105]
