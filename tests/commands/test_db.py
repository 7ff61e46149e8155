"""`outlive db` as a person meets it: what it says, how it ends, and services before and after."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.stores.later import release_to_come

from outlive import Outlive, ids
from outlive.commands import db, main
from outlive.commands.db import LINE_ROWS, address_of, progress
from outlive.commands.exits import DONE, FAILED, FORBIDDEN, MISUSED, STORE, CommandFailed
from outlive.errors import BadAddress
from outlive.stores import sql

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def schema(postgres: str) -> str:
    """The address of a schema that is not there, as a user with a password would write it."""
    return postgres.replace("postgres@", "postgres:s3cret@") + f"?schema=store_{ids.token(40)}"


@pytest.fixture
def idle(shop, in_shop_folder):
    """The address of a store with three waiting orders that nobody serves any more."""
    shop.ids = [shop.order(amount) for amount in (1, 2, 3)]
    assert shop.running.end() == 0
    return in_shop_folder


def told(done: Any) -> Any:
    """What a command that went well printed as JSON."""
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def refused(done: Any, code: int, *said: str) -> None:
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.splitlines()[-1].startswith("outlive: ") and "Traceback" not in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    for text in said:
        assert text in done.stderr


TO_COME = """
import sys
from pathlib import Path
from outlive.commands import main
from outlive.stores import sql
sql.FOLDER = Path(sys.argv.pop(1))
sys.exit(main())
"""
"""The command line of a release that ships the migrations in another folder."""


# --- migrate --------------------------------------------------------------------------------------


def test_migrate_makes_a_store_says_what_it_did_and_then_has_nothing_to_do(outlive, schema):
    for address in ("sqlite:///new.db", schema):
        assert outlive("db", "migrate", address, "--check").returncode == FAILED
        done = outlive("db", "migrate", address)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"applied: 1 kernel\n(applied: \d+ \w+\n)*", done.stdout)
        done = outlive("db", "migrate", address, "--check")
        assert done.returncode == DONE and done.stdout.startswith("nothing to do: ")
        assert "s3cret" not in done.stdout
        assert told(outlive("db", "migrate", address, "-o", "json"))["applied"] == []


def test_two_migrations_at_once_apply_each_step_once(tmp_path, schema):
    folder = release_to_come(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for address in (f"sqlite:///{tmp_path}/both.db", schema):
        command = [sys.executable, "-c", TO_COME, folder, "db", "migrate", address, "-o", "json"]
        running = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(3)
        ]
        said = [json.loads(process.communicate(timeout=60)[0]) for process in running]
        assert [process.returncode for process in running] == [0, 0, 0]
        counts = sorted(len(one["applied"]) for one in said)
        shipped = sql.migrations("sqlite" if address.startswith("sqlite") else "postgres")
        assert counts == [0, 0, len(shipped) + 1]


def test_the_store_of_a_service_is_migrated_by_the_services_name(outlive, in_shop_folder):
    done = outlive("db", "migrate", "shop:app", OUTLIVE_STORE=in_shop_folder)
    assert done.returncode == 0 and Path(in_shop_folder.removeprefix("sqlite:///")).exists()


def test_a_role_is_granted_what_a_service_needs(outlive, postgres, schema):
    refused(outlive("db", "migrate", schema, "--grant", "nobody_at_all"), STORE, "nobody_at_all")
    refused(outlive("db", "migrate", "sqlite:///x.db", "--grant", "app"), MISUSED, "no roles")


# --- check ----------------------------------------------------------------------------------------


def test_check_counts_what_it_read_and_names_every_fault(outlive, idle):
    done = outlive("db", "check", idle)
    assert done.returncode == DONE and "no fault was found" in done.stdout
    assert re.search(r"events +\d+ +sha256 [0-9a-f]{16}", done.stdout)
    assert "checking events: " in done.stderr
    with apsw.Connection(idle.removeprefix("sqlite:///")) as db:
        db.execute("UPDATE outlive_event SET kind = 'x' WHERE n = 0").fetchall()
        db.execute("DELETE FROM outlive_mark").fetchall()
    db.close()
    done = outlive("db", "check", OUTLIVE_STORE=idle)
    assert done.returncode == FAILED
    assert "chain broken" in done.stdout and "is missing" in done.stdout
    done = outlive("db", "check", idle, "-o", "json")
    assert done.returncode == FAILED and len(json.loads(done.stdout)["faults"]) >= 2
    assert done.stderr == ""


# --- backup and restore ---------------------------------------------------------------------------


def test_a_backup_of_a_running_service_is_restored_and_served(
    outlive, shop, serve, in_shop_folder, tmp_path
):
    kept = shop.order()
    done = told(outlive("db", "backup", in_shop_folder, "monday", "-o", "json"))
    assert done["bytes"] == (tmp_path / "monday").stat().st_size
    forgotten = shop.order()
    assert shop.running.end() == 0
    again = told(outlive("db", "restore", "monday", "sqlite:///new.db", "-o", "json"))
    assert (again["counts"], again["digests"]) == (done["counts"], done["digests"])
    shop.url = serve("shop:app", "--store", f"sqlite:///{tmp_path}/new.db").url()
    shop.reaches(kept, "waiting")
    ask = ("process", "signal", kept, "paid", '{"by": "card"}')
    assert outlive(*ask, "--store", "sqlite:///new.db").returncode == 0
    shop.reaches(kept, "done")
    shown = outlive("process", "show", forgotten, "--store", "sqlite:///new.db")
    assert shown.returncode != 0
    assert outlive("db", "check", "sqlite:///new.db").returncode == DONE


def test_what_cannot_be_backed_up_or_restored_is_refused_in_one_line(outlive, idle, tmp_path):
    assert outlive("db", "backup", idle, "monday").returncode == 0
    refused(outlive("db", "backup", idle, "monday"), FORBIDDEN, "exists", "Name another file")
    refused(outlive("db", "backup", "sqlite:///none.db", "x"), STORE, "no store")
    refused(outlive("db", "restore", "monday", idle), FORBIDDEN, "has been used", "does not exist")
    refused(outlive("db", "restore", "none", "sqlite:///new.db"), FORBIDDEN, "cannot be read")
    whole = (tmp_path / "monday").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-9])
    refused(outlive("db", "restore", "cut", "sqlite:///new.db"), FAILED, "cut is damaged")
    assert not (tmp_path / "new.db").exists()


def test_addresses_that_mean_nothing_are_refused(monkeypatch):
    for address, code in (("memory://", STORE), ("nothing", MISUSED)):
        with pytest.raises(CommandFailed) as found:
            address_of(address)
        assert found.value.code == code
    for address in ("redis://here", "postgresql://host", "sqlite:///x?y=1"):
        with pytest.raises(BadAddress):
            address_of(address)
    monkeypatch.setenv("OUTLIVE_STORE", "sqlite:///from/env.db")
    assert address_of(None) == "sqlite:///from/env.db"


# --- move -----------------------------------------------------------------------------------------


def test_a_store_that_is_served_is_not_moved_and_the_node_is_named(
    outlive, shop, in_shop_folder, schema
):
    done = outlive("db", "move", in_shop_folder, schema)
    (worker,) = shop.running.workers()
    refused(done, FORBIDDEN, "is served by n", f"(pid {worker})", "End the service everywhere")
    shop.order()


def test_orders_that_wait_go_on_after_a_move_there_and_back(
    outlive, shop, idle, serve, schema, tmp_path
):
    done = told(outlive("db", "move", idle, schema, "-o", "json"))
    assert done["counts"]["events"] > 0
    moved = outlive("process", "list", "--store", idle)
    refused(moved, STORE, "was moved to postgresql://127.0.0.1", "OL1109")
    mistaken = serve("shop:app", "--store", idle)
    assert mistaken.process.wait(60) != 0
    assert "was moved to postgresql://127.0.0.1" in mistaken.err.read_text()
    assert "s3cret" not in mistaken.err.read_text()
    running = serve("shop:app", "--store", schema)
    shop.url = running.url()
    first, second, third = shop.ids
    pay = ("process", "signal", first, "paid", '{"by": "card"}', "--store")
    for id in (first, second):
        shop.reaches(id, "waiting")
    assert outlive(*pay, schema).returncode == 0
    shop.reaches(first, "done")
    assert running.end() == 0
    back = f"sqlite:///{tmp_path}/back.db"
    assert outlive("db", "move", schema, back).returncode == 0
    again = outlive("db", "move", schema, back)
    assert again.returncode == 0 and "nothing was left to do" in again.stdout
    running = serve("shop:app", "--store", back)
    shop.url = running.url()
    assert shop.status(first) == "done"
    shop.reaches(second, "waiting")
    outlive("process", "cancel", second, "--store", back)
    shop.reaches(second, "cancelled")
    shop.reaches(third, "waiting")
    assert running.end() == 0
    assert outlive("db", "check", back).returncode == DONE


def test_what_cannot_be_moved_is_refused_and_leaves_the_store_served(outlive, idle, tmp_path):
    refused(outlive("db", "move", idle, idle), MISUSED, "same place")
    (tmp_path / "photo.db").write_bytes(b"not a database at all, not by a long way" * 100)
    refused(outlive("db", "move", idle, "sqlite:///photo.db"), STORE, "not a SQLite file")
    gone = "postgresql://postgres:s3cret@127.0.0.1:1/postgres"  # nobody listens there
    refused(outlive("db", "move", idle, gone), STORE, "PostgreSQL")
    assert outlive("process", "list", "--store", idle).returncode == 0
    done = outlive("db", "move", idle, "sqlite:///new.db", "--give-up")
    refused(done, STORE, "No move of the store")


def test_a_move_that_is_given_up_is_told_as_json_where_that_is_asked_for(
    tmp_path, monkeypatch, capsys
):
    async def made(address):
        async with Outlive(address):
            pass

    async def give_up(source, target): ...

    old, new = (f"sqlite:///{tmp_path}/{name}.db" for name in ("old", "new"))
    asyncio.run(made(old))
    monkeypatch.setattr(db, "give_move_up", give_up)
    assert main(["db", "move", old, new, "--give-up", "-o", "json"]) == DONE
    assert json.loads(capsys.readouterr().out) == {"place": old, "given_up": new}


# --- progress -------------------------------------------------------------------------------------


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys):
    with progress() as report:
        for done in (1, LINE_ROWS - 1, LINE_ROWS, LINE_ROWS + 1, 3 * LINE_ROWS):
            report("copying", "events", done, 3 * LINE_ROWS)
    with progress(silent=True) as report:
        report("copying", "cells", 1, 1)
    assert capsys.readouterr().err.splitlines() == [
        f"copying events: {LINE_ROWS} of {3 * LINE_ROWS}",
        f"copying events: {3 * LINE_ROWS} of {3 * LINE_ROWS}",
    ]


def test_on_a_terminal_progress_is_a_bar_for_each_section(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress() as report:
        report("copying", "events", 1, 2)
        report("copying", "events", 2, 2)
    assert "copying events" in capsys.readouterr().err
