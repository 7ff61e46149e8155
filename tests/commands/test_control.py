"""What an operator asks from the command line, of one process and of many."""

import json
import shlex

import pytest

from outlive.commands import main
from outlive.commands.client import Where
from outlive.commands.control import _there


@pytest.fixture
def process(outlive, in_shop_folder):
    """Run `outlive process …` on the shop's store."""

    def run(verb, *arguments):
        return outlive("process", verb, *arguments, "--store", in_shop_folder)

    return run


def journal(process, id):
    told = json.loads(process("show", id, "-o", "json").stdout)
    return [entry["kind"] for entry in told["journal"]]


def test_a_process_is_paused_and_resumed_with_who_and_why(shop, process):
    id = shop.order()
    assert process("pause", id, "--why", "the bank is down").returncode == 0
    shop.reaches(id, "paused")
    assert ": the bank is down" in process("show", id).stdout
    assert process("resume", id).returncode == 0
    shop.reaches(id, "waiting")
    assert process("resume", id).returncode == 4
    assert process("retry", id, "--now").returncode == 4
    assert process("deadline", id, "3600").returncode == 0
    assert process("deadline", id, "soon").returncode == 2
    assert process("deadline", id, "0").returncode == 2
    far = process("deadline", id, "inf")
    assert far.returncode == 2 and len(far.stderr.splitlines()) == 1


def test_a_stuck_undo_is_skipped(shop, process):
    id = shop.order(13)
    process("cancel", id)
    shop.reaches(id, "stuck")
    refused = process("skip", id, "nothing")
    assert refused.returncode == 4 and "undo reserve" in refused.stderr
    assert process("skip", id, "--value", "{").returncode == 2
    assert process("skip", id, "undo reserve", "--why", "put back by hand").returncode == 0
    shop.reaches(id, "cancelled")


def test_a_process_is_forked_and_the_new_id_is_printed(shop, process):
    id = shop.order()
    assert process("fork", id, "wait paid").returncode == 4
    done = process("fork", id, "wait paid", "--cancel", "--app", "shop:app")
    new = done.stdout.strip()
    assert done.returncode == 0 and new.startswith("ord_") and new != id, done.stderr
    shop.reaches(id, "cancelled")
    shop.reaches(new, "waiting")
    assert f"forked from  {id}" in process("show", new).stdout
    assert f"forked as    {new}" in process("show", id).stdout
    assert "undone" not in journal(process, id)


def test_many_are_shown_and_then_asked_exactly_those(shop, process, in_shop_folder):
    ids = {shop.order() for _ in range(3)}
    assert process("pause", "--status", "waiting").returncode == 2
    assert process("pause").returncode == 2
    assert process("pause", next(iter(ids)), "--yes").returncode == 2
    shown = process("pause", "--status", "waiting", "--type", "order", "--preview").stdout
    assert ids == set(shown.splitlines()[:3])
    assert "0 processes" in process("pause", "--tag", "city=oslo", "--preview").stdout
    assert "0 processes" in process("pause", "--type=order", "--until=1h", "--preview").stdout
    assert process("pause", "--tag", "rome", "--preview").returncode == 2
    _, _, token, *there = shlex.split(shown.splitlines()[-1])[2:]
    assert there == ["--store", in_shop_folder], "the command is to be run as it is printed"
    later = shop.order()
    assert process("cancel", "--token", token).returncode == 2, "that preview is to pause"
    done = process("pause", "--token", token, "--why", "look")
    assert done.returncode == 0 and "3 of 3 were asked to pause, 0 refused" in done.stderr
    for id in ids:
        shop.reaches(id, "paused")
    assert shop.status(later) == "waiting"
    done = process("cancel", "--type", "order", "--yes", "--reason", "over")
    assert done.returncode == 0 and "4 of 4" in done.stderr
    for id in (*ids, later):
        shop.reaches(id, "cancelled")
    done = process("cancel", "--type", "order", "--yes")
    assert done.returncode == 4 and len(done.stdout.splitlines()) == 4
    assert "OL2003" in done.stdout


def test_the_command_that_follows_a_preview_names_the_place_and_no_password():
    assert _there(None) == _there(Where()) == ""
    assert _there(Where(context="east side")) == " --context 'east side'"
    assert _there(Where("sqlite:///a b.db")) == " --store 'sqlite:///a b.db'"
    assert _there(Where("postgresql://ada:secret@db/shop")) == " --store …"


@pytest.mark.parametrize(
    "asked",
    [
        ("cancel", "ord_1", "--version", "2"),
        ("cancel", "ord_1", "--since", "1h"),
        ("pause", "ord_1", "--older-than", "60"),
        ("cancel", "--token", "t", "--preview"),
        ("cancel", "--token", "t", "--type", "order"),
        ("retry", "--now", "--step", "charge", "--type", "order", "--yes"),
    ],
)
def test_what_would_narrow_nothing_is_misuse_and_nothing_is_asked(asked, tmp_path, capsys):
    nowhere = ("--store", f"sqlite:///{tmp_path}/none.db")  # 5, when it is looked into
    assert main(["process", *asked, *nowhere]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
