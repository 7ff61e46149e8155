"""A judge who must find each thing that can be wrong with a store, and nothing in a sound one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from outlive.testing.witness import PLAN, SHORT_PLAN, Verdict, Witness, judge, size_of, text_of

EVERYTHING = 1_000_000


async def worked(folder: Path, plan: tuple[str, ...] = SHORT_PLAN) -> Witness:
    witness = Witness(folder / "store.db", lambda: 0)
    await witness.work(plan)  # type: ignore[arg-type]
    await witness.close()
    return witness


@pytest.mark.parametrize("plan", [SHORT_PLAN, PLAN])
async def test_nothing_is_found_in_a_sound_store(tmp_path: Path, plan: tuple[str, ...]) -> None:
    witness = await worked(tmp_path, plan)
    assert {word.what for word in witness.words} == {
        "batch", "relaxed", "version", "time", "epoch", "blob", "claim",
    }  # fmt: skip
    for _ in range(2):  # the judge writes too, and may come again
        found = await judge(witness.path, witness, EVERYTHING, examined=True)
        assert found == Verdict()


async def test_what_is_gone_is_lost_only_if_it_was_told(tmp_path: Path) -> None:
    witness = await worked(tmp_path)
    empty = tmp_path / "other.db"
    assert await judge(empty, witness, -1) == Verdict()
    found = await judge(empty, witness, 0)
    lost = " ".join(found.lost)
    for what in ("epoch", "batch 1 was", "the claim of", "version", "the clock", "the blob of"):
        assert what in lost
    assert found.corrupt == () and found.relaxed_gone == 1


def on_the_file(statement: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with closing(apsw.Connection(str(path))) as db:
            db.execute(statement)
            assert db.changes(), statement

    return damage


def on_a_blob(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        change(next(path.with_name(path.name + "-blobs").iterdir()))

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (on_the_file("DELETE FROM outlive_cell WHERE space = 'right' AND key = '1'"), "batch 1:"),
        (on_the_file("DELETE FROM outlive_cell WHERE space = 'latest'"), "the latest batch is"),
        (on_the_file("UPDATE outlive_cell SET value = x'31' WHERE space = 'left'"), "is altered"),
        (on_the_file("UPDATE outlive_event SET data = x'312031' WHERE n = 0"), "chain is broken"),
        (
            on_the_file(
                "DELETE FROM outlive_event WHERE place = (SELECT max(place) FROM outlive_event)"
            ),
            "events, its head is",
        ),
        (on_the_file("UPDATE outlive_shard SET head = head + 1"), "events, its head is"),
        (on_the_file("DELETE FROM outlive_cell WHERE space = 'erases'"), "erased are"),
        (on_the_file("UPDATE outlive_event SET data = x'', n = n + 7"), "cannot be judged"),
        (on_the_file("UPDATE outlive_shard SET epoch = 0"), "epoch 1 was given"),
        (on_the_file("UPDATE outlive_store SET version = 0"), "was given"),
        (on_the_file("UPDATE outlive_store SET clock = 0"), "the clock went back"),
        (on_the_file("UPDATE outlive_cell SET version = 0 WHERE space = 'due'"), "the claim of"),
        (on_a_blob(Path.unlink), "is gone"),
        (on_a_blob(lambda blob: blob.write_bytes(b"x")), "digest differs"),
        (lambda path: path.write_bytes(b"no database" * 1000), "cannot be opened"),
    ],
)
async def test_damage_is_found(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    witness = await worked(tmp_path)
    damage(witness.path)
    found = await judge(witness.path, witness, EVERYTHING)
    assert said in " ".join((*found.lost, *found.corrupt))


async def test_a_hole_among_the_batches_is_found_where_order_is_promised(tmp_path: Path) -> None:
    witness = await worked(tmp_path, ("group", "relaxed", "group"))
    witness.words = []
    assert await judge(witness.path, witness, EVERYTHING) == Verdict(), "more than told is no flaw"
    for space in ("left", "right"):
        on_the_file(f"DELETE FROM outlive_cell WHERE space = '{space}' AND key = '2'")(witness.path)
    on_the_file("DELETE FROM outlive_event WHERE substr(data, 1, 2) = x'3220'")(witness.path)
    found = await judge(witness.path, witness, EVERYTHING)
    assert "no prefix of what was sent" in " ".join(found.corrupt)
    found = await judge(witness.path, witness, EVERYTHING, in_order=False)
    assert "no prefix" not in " ".join(found.corrupt)


async def test_a_denial_is_held_against_what_is_there(tmp_path: Path) -> None:
    witness = await worked(tmp_path)
    witness.refused[1] = 7
    assert (await judge(witness.path, witness, 6)).corrupt == ()
    assert "batch 1: 'nothing was written'" in (await judge(witness.path, witness, 7)).corrupt[0]


def test_the_text_of_a_batch_begins_with_its_number() -> None:
    for number in (1, 5, 10, 123):
        text = text_of(number, size_of(number))
        assert int(text.split(b" ")[0]) == number and len(text) >= size_of(number)
    assert size_of(5) > 4096, "some fill more than a page"
