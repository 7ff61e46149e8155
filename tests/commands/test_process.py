"""What a person may see and ask of the processes in a store, while a service works on it."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import suppress

import msgspec
import pytest
from tests.commands.conftest import ROOT, until

from outlive import NonRetryable, Outlive, Run
from outlive.commands import main
from outlive.errors import ProcessFailed


@pytest.fixture
def process(outlive, in_shop_folder):
    """Run `outlive process …` on the shop's store."""

    def run(verb, *arguments):
        return outlive("process", verb, *arguments, "--store", in_shop_folder)

    return run


def test_they_are_listed_the_newest_first(shop, process):
    ids = [shop.order(), shop.order(), shop.order()]
    assert process("list", "-o", "ids").stdout.split() == ids[::-1]
    assert process("list", "-o", "ids", "--limit", "2").stdout.split() == ids[:0:-1]
    assert process("list", "-o", "ids", "--status", "done").stdout == ""
    assert process("list", "-o", "ids", "--type", "order").stdout.split() == ids[::-1]
    rows = process("list").stdout.splitlines()
    assert len(rows) == 3
    assert all("order v1  waiting" in row and "paid until" in row for row in rows)
    (first, *_) = json.loads(process("list", "-o", "json").stdout)
    assert first["id"] == ids[2]
    assert first["started"].endswith("Z")


def test_a_status_that_does_not_exist_is_misuse(process):
    done = process("list", "--status", "happy")
    assert done.returncode == 2
    assert "waiting" in done.stderr


def test_one_is_shown_with_its_steps_and_journal(shop, process):
    id = shop.order()
    told = process("show", id).stdout
    assert told.startswith(f"{id}  order v1  waiting\n")
    assert "waits for  paid until " in told
    assert "reserve  done" in told
    assert process("show", id, "--era", "1").stdout == told
    assert "OL2070" in process("show", id, "--era", "2").stderr
    whole = json.loads(process("show", id, "-o", "json").stdout)
    assert whole["process"]["status"] == "waiting"
    assert [entry["n"] for entry in whole["journal"]] == list(range(len(whole["journal"])))


def test_what_an_error_says_does_not_write_over_the_terminal(tmp_path, capsys):
    store = f"sqlite:///{tmp_path}/store.db"

    async def fail(run: Run) -> None:
        raise LookupError("\x1b[2Jall is well\n  second line")

    async def failed() -> str:
        app = Outlive(store)
        app.process("/fails", version=1)(fail)
        async with app:
            handle = await app.start(fail)
            with pytest.raises(ProcessFailed):
                await handle.result(within=20)
            return handle.id

    assert main(["process", "show", asyncio.run(failed()), "--store", store]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\\x1b[2Jall is well\n  second line" in shown


def test_a_signal_reaches_the_process_of_a_running_service(shop, process):
    id = shop.order()
    assert process("signal", id, "paid", '{"by": "Ada"}').returncode == 0
    shop.reaches(id, "done")
    assert '"Ada"' in process("show", id).stdout


def test_a_signal_that_cannot_be_taken_says_why(shop, process):
    id, app = shop.order(), ("--app", "shop:app")
    assert process("signal", id, "thanks", "{}", *app).returncode == 4
    assert process("signal", id, "paid", "{").returncode == 2
    assert process("signal", id, "paid", '{"from": 1}', *app).returncode == 2
    assert process("signal", id, "paid", "{}", "--app", "shop:nothing").returncode == 2
    assert process("signal", "ord_00000000000000000000000000", "paid").returncode == 3
    assert shop.status(id) == "waiting"


def test_a_cancelled_process_is_rolled_back_and_cannot_be_cancelled_again(shop, process):
    id = shop.order()
    assert process("cancel", id, "--reason", "changed my mind").returncode == 0
    shop.reaches(id, "cancelled")
    assert "changed my mind" in process("show", id).stdout
    again = process("cancel", id)
    assert again.returncode == 4
    (line,) = again.stderr.splitlines()
    assert "OL2003" in line


def test_a_stuck_process_goes_on_when_it_is_retried(shop, process, tmp_path):
    id = shop.order(13)
    assert process("retry", id).returncode == 4
    process("cancel", id)
    shop.reaches(id, "stuck")
    assert process("list", "--status", "stuck", "-o", "ids").stdout.split() == [id]
    (tmp_path / "mended").touch()
    assert process("retry", id).returncode == 0
    shop.reaches(id, "cancelled")


def test_what_is_asked_while_nobody_serves_is_done_by_the_next_who_does(
    shop, process, serve, in_shop_folder
):
    id = shop.order()
    assert shop.running.end() == 0
    assert process("signal", id, "paid", '{"by": "Bo"}').returncode == 0
    again = type(shop)(serve("shop:app", "--store", in_shop_folder))
    again.reaches(id, "done")


UNTOLD = """
from outlive import Outlive, Retry, Run, Webhooks

app = Outlive(webhooks=Webhooks(
    ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], allow_loopback=True, retry=Retry(attempts=1)
))


@app.process("/works", version=1)
async def work(run: Run) -> str:
    return "done"


with app.blocking(run=True) as client:
    # Nobody listens on the discard port.
    id = client.start(work, notify="http://ann:geheim@127.0.0.1:9/hook?a=geheim").id
    while client.call(lambda app: app.notice(id)).status != "undelivered":
        pass
    print(id)
"""


def test_an_end_that_nobody_was_told_of_is_listed_and_told_again(outlive, tmp_path):
    (tmp_path / "untold.py").write_text(UNTOLD)
    address = f"sqlite:///{tmp_path}/untold.db"
    environment = {"OUTLIVE_STORE": address, "PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run(
        [sys.executable, "untold.py"], cwd=tmp_path, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    id = ran.stdout.strip()
    assert id, ran.stderr
    store = ("--store", address)
    listed = ("process", "list", "--unnotified", "-o", "ids", *store)
    assert outlive(*listed).stdout.split() == [id]
    assert outlive(*listed, "--status", "failed").stdout.split() == []
    shown = outlive("process", "show", id, *store).stdout
    assert "http://…@127.0.0.1:9/hook?… (undelivered, 1 attempts: " in shown
    assert "geheim" not in shown
    assert outlive("process", "notify", id, *store).returncode == 0
    assert outlive("process", "notify", "work_00000000000000000000000000", *store).returncode == 3

    assert outlive(*listed, "--type", "work", "--limit", "1").stdout.split() == [id]
    assert outlive(*listed, "--tag", "customer=c-17").stdout.split() == []
    assert outlive(*listed, "--version", "2").stdout.split() == []


async def fails(run: Run) -> None:
    raise NonRetryable("no – money")


@pytest.fixture
def failed(tmp_path):
    """The address of a store, and the id of a process in it that failed."""
    address = f"sqlite:///{tmp_path}/failed.db"

    async def made():
        app = Outlive(address)
        body = app.process("/fails", version=1)(fails)
        async with app:
            handle = await app.start(body)
            with suppress(ProcessFailed):
                await handle.result()
            return handle.id

    return address, asyncio.run(made())


@pytest.mark.parametrize("output", ["text", "json"])
def test_into_a_pipe_goes_utf_8_whatever_the_locale_is(failed, outlive, output):
    address, id = failed
    show = ("process", "show", id, "--store", address, "-o", output)
    done = outlive(*show, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "no – money" in done.stdout


def test_an_unknown_process_gives_3(shop, process):
    for verb in ("show", "cancel", "retry"):
        assert process(verb, "ord_00000000000000000000000000").returncode == 3


def test_a_store_that_does_not_exist_gives_5_and_is_not_made(outlive, tmp_path):
    done = outlive("process", "list", "--store", "sqlite:///none.db")
    assert done.returncode == 5
    assert "there is no store at none.db" in done.stderr
    assert not (tmp_path / "none.db").exists()


class Told(msgspec.Struct):
    id: str


async def child(run: Run) -> None: ...


async def parent(run: Run) -> None:
    await run.call(child)
    await run.publish(Told("child_nobody"))


def test_children_and_undelivered_events_are_shown(outlive, tmp_path):
    place = f"sqlite:///{tmp_path}/family.db"
    app = Outlive(place)
    app.process("/children", version=1, signals={"told": Told})(child)
    app.process("/parents", version=1)(parent)
    app.on(Told, signal="told", to=lambda event: event.id)(child)
    with app.blocking(run=True) as client:
        handle = client.start(parent)
        handle.result(within=20)
        until(lambda: client.call(lambda app: app.undelivered()), "it is said")
        (born,) = handle.view().children
    told = outlive("process", "show", handle.id, "--store", place).stdout
    assert f"  child      {born.id}  child  done\n" in told
    told = outlive("process", "show", born.id, "--store", place).stdout
    assert f"  parent     {handle.id}\n" in told
    (row,) = outlive("process", "undelivered", "--store", place).stdout.splitlines()
    assert row.startswith("evt_")
    assert row.endswith("there is no child child_nobody")
    found = json.loads(outlive("process", "undelivered", "--store", place, "-o", "json").stdout)
    assert found[0]["payload"] == {"id": "child_nobody"}
