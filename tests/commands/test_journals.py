"""Journals at the command line: out of a store, into another, and tried on new code."""

import json

import pytest

CHANGED = """
import os
from shop import NonRetryable, Order, Outlive, Paid, Run, put_back, step

app = Outlive("sqlite:////nowhere/at/all.db")  # --store says which store is read
none = Outlive("memory://")


@step(undo="put_back")
async def reserve(order: Order, shelf: str) -> int:
    raise AssertionError("called by a comparison")


@app.process("/orders", version=2, accepts=(1,), prefix="ord", signals={"paid": Paid})
async def order(run: Run, form: Order) -> str:
    await run(reserve, form, "left")
    return "done"


def redact(kind, data):
    if kind == "started":
        data["input"] = {"amount": 0}
    return data
"""


@pytest.fixture
def process(outlive, in_shop_folder, tmp_path):
    """Run `outlive process …` on the shop's store, in a folder that has changed code too."""
    (tmp_path / "changed.py").write_text(CHANGED)

    def run(verb, *arguments, store=in_shop_folder):
        return outlive("process", verb, *arguments, "--store", store)

    return run


def test_what_would_drift_is_named_before_the_deploy(shop, process):
    ids = {shop.order(), shop.order(2)}
    same = process("diff", "--against", "shop:app")
    assert (same.returncode, same.stdout) == (0, "2 compared: 2 same\n"), same.stderr
    found = process("diff", "--against", "changed:app")
    assert found.returncode == 1, found.stderr
    assert found.stdout.count("reserve is recorded with arguments") == 2
    assert found.stdout.endswith("2 compared: 2 drift\n")
    told = json.loads(process("diff", "--against", "changed:app", "-o", "json").stdout)
    assert {one["id"] for one in told} == ids
    assert {one["verdict"] for one in told} == {"drift"}
    assert {shop.status(id) for id in ids} == {"waiting"}, "nothing was done by it"
    none = process("diff", "--against", "changed:none", "--status", "waiting")
    assert none.returncode == 1 and "no_worker_for_version  ord_" in none.stdout
    assert process("diff", "--against", "changed:none", "--status", "done").returncode == 0
    assert process("diff", "--against", "changed:none", "--type", "other").returncode == 0


def test_one_process_and_files_can_be_tried(shop, process, tmp_path):
    id = shop.order(3)
    (tmp_path / "one.jsonl").write_text(process("export", id).stdout)
    assert process("diff", "--against", "shop:app", id).stdout == "1 compared: 1 same\n"
    found = process("diff", "--against", "changed:app", id, "one.jsonl")
    assert found.stdout.endswith("2 compared: 2 drift\n")
    only = process("diff", "--against", "shop:app", "one.jsonl", store="sqlite:///none.db")
    assert (only.returncode, only.stdout) == (0, "1 compared: 1 same\n"), only.stderr
    assert process("diff", "--against", "shop:app", "ord_none").returncode == 3
    assert process("diff", "--against", "shop:app", "--status", "happy").returncode == 2
    (tmp_path / "broken.jsonl").write_text("{}")
    broken = process("diff", "--against", "shop:app", "broken.jsonl")
    assert broken.returncode == 4 and "OL2072" in broken.stderr


def test_a_process_moves_to_another_store_and_goes_on_there(shop, process, serve, tmp_path):
    id = shop.order(4)
    (tmp_path / "one.jsonl").write_text(process("export", id).stdout)
    again = process("import", "one.jsonl")
    assert again.returncode == 4 and "OL2071" in again.stderr
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    there = type(shop)(serve("shop:app", "--store", elsewhere))
    done = process("import", "one.jsonl", store=elsewhere)
    assert (done.returncode, done.stdout) == (0, f"{id} is imported\n"), done.stderr
    assert there.status(id) == "paused"
    assert process("signal", id, "paid", '{"by": "Ada"}', store=elsewhere).returncode == 0
    assert process("retry", id, store=elsewhere).returncode == 0
    there.reaches(id, "done")
    assert shop.status(id) == "waiting"


def test_without_a_node_an_import_is_kept(process, outlive, shop, tmp_path):
    id = shop.order()
    (tmp_path / "one.jsonl").write_text(process("export", id).stdout)
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    assert outlive("db", "migrate", elsewhere).returncode == 0
    done = process("import", "one.jsonl", "--within", "0.1", store=elsewhere)
    assert done.returncode == 1
    assert "it is kept, and done when a node runs" in done.stderr


def test_what_must_not_leave_is_redacted(shop, process):
    id = shop.order(77)
    assert '"amount":77' in process("export", id).stdout
    text = process("export", id, "--redact", "changed:redact").stdout
    started = json.loads(text.splitlines()[1])
    assert started["data"]["input"] == {"amount": 0}
    assert json.loads(text.splitlines()[0])["redacted"] is True
