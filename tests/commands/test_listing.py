"""Every noun of the command line, at a store and at a service elsewhere: the same is said."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.commands.conftest import ROOT, Running, until

from outlive import Outlive, Quota, Slots
from outlive.commands import main
from outlive.commands.listing import Listing
from outlive.kinds.caches.rule import best_effort
from outlive.kinds.requests.decisions import Claim, Place
from outlive.kinds.requests.fingerprints import fingerprints_of_value

ANN, WALL = "ann-0123456789abcdef", "wall-0123456789abcdef"
TOWN = f"""
from outlive import Access, Outlive, Run

app = Outlive(dashboard=Access(operators={{"ann": "{ANN}"}}, viewers={{"wall": "{WALL}"}}))


@app.process("/orders", version=1, prefix="ord", signals={{"paid": None}})
async def order(run: Run, amount: int) -> int:
    await run.wait("paid", within=3600)
    return amount
"""
HEARS_CTRL_C = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # deaf, where tests run in the background
from outlive.commands import main
sys.exit(main(sys.argv[1:]))
"""
CONTEXTS = """
[town]
url = "{url}"
token_file = "ann.token"

[seen]
url = "{url}"
token_env = "WALL_TOKEN"
"""


async def filled(address: str) -> None:
    """One of everything."""
    app = Outlive(address)
    hits = app.ratelimits(Quota("daily", 10, per_seconds=86_400), storage="durable")
    exports = app.slots(Slots("exports", 2, lease_seconds=600))
    sessions, partner, requests = app.sessions(), app.dependency("partner"), app.requests()

    @app.cache(best_effort(), name="price")
    async def price(what: str) -> int:
        return len(what)

    async with app:
        await hits.hit("ada", 3)
        held = exports.hold("acme")
        await held.__aenter__()
        for subject in ("ada", "ada", "bob"):
            visit = sessions.visit(None)
            visit.sign_in(subject)
            await sessions.settle(None, visit.change(), "a browser")
        await price("tea")
        await partner.force_open("bob", "it is down")
        async with app.once("charge", "key-1", 1):
            pass
        await requests.ask(Claim(Place("key-2"), fingerprints_of_value(None), "t", 1))


class Town:
    """A store, and a service on it that is asked from elsewhere."""

    def __init__(self, folder: Path, running: Running) -> None:
        self.address = f"sqlite:///{folder}/town.db"
        self.running, self.folder = running, folder


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    (folder / "town.py").write_text(TOWN)
    address = f"sqlite:///{folder}/town.db"
    asyncio.run(filled(address))
    command = ("-m", "outlive.commands", "serve", "town:app", "--port", "0", "--store", address)
    running = Running(folder, "town", sys.executable, *command)
    try:
        (folder / "contexts.toml").write_text(CONTEXTS.format(url=running.url()))
        (folder / "ann.token").write_text(ANN + "\n")
        for name in ("contexts.toml", "ann.token"):
            (folder / name).chmod(0o600)
        yield Town(folder, running)
    finally:
        running.end()


Said = tuple[int, str, str]


@pytest.fixture(params=["store", "context"])
def say(
    request: pytest.FixtureRequest,
    town: Town,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Said]:
    """Run a command at the store or at the service: exit code, stdout, stderr."""
    monkeypatch.setenv("OUTLIVE_CONTEXTS", str(town.folder / "contexts.toml"))
    where = ("--store", town.address) if request.param == "store" else ("--context", "town")

    def run(*words: str, stdin: str | None = None) -> Said:
        capsys.readouterr()
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = main([*words, *where])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def things(said: Said) -> Any:
    assert said[0] == 0, said[2]
    return json.loads(said[1])


def test_nodes_and_types_are_listed(say: Callable[..., Said]) -> None:
    (node,) = things(say("node", "list", "-o", "json"))
    assert node["runs"] == ["order v1"] and node["since"].endswith("Z")
    assert len(things(say("node", "shards", "-o", "json"))) == 16
    (kind,) = things(say("type", "list", "-o", "json"))
    assert (kind["type"], kind["version"], kind["nodes"]) == ("order", 1, 1)
    assert things(say("type", "show", "order", "-o", "json")) == [kind]
    assert say("type", "show", "nothing")[0] == 3


def test_a_session_is_listed_and_revoked(say: Callable[..., Said]) -> None:
    of_ada = things(say("session", "list", "--subject", "ada", "-o", "json"))
    everybody = things(say("session", "list", "-o", "json"))
    assert {one["subject"] for one in of_ada} == {"ada"} and len(everybody) > len(of_ada) > 0
    code, out, _ = say("session", "revoke", of_ada[0]["key"], "--reason", "lost telephone")
    assert (code, out) == (0, f"{of_ada[0]['key']} is signed out\n")
    code, _, err = say("session", "revoke", of_ada[0]["key"])
    assert code == 3 and "OL0020" in err
    assert len(things(say("session", "list", "-o", "json"))) == len(everybody) - 1
    assert say("session", "revoke")[0] == say("session", "revoke", "x", "--subject", "y")[0] == 2


def test_all_sessions_of_nobody_are_none(say: Callable[..., Said]) -> None:
    assert say("session", "revoke", "--subject", "eve")[1] == "eve is signed out of 0 sessions\n"


def test_csv_has_nothing_that_a_spreadsheet_would_carry_out() -> None:
    rows = [["=1+1", "@SUM(A1)", "+x", "-cmd|' /c'!A1", "\t=1", "-", "-1.5", "+3", "a=1", ""]]
    text = Listing([f"h{n}" for n in range(10)], rows, [], []).text("csv")
    (_, row) = csv.reader(io.StringIO(text, newline=""))
    assert row[:5] == [f"'{cell}" for cell in rows[0][:5]]
    assert row[5:] == rows[0][5:]


def test_limits_are_listed_in_every_format(say: Callable[..., Said]) -> None:
    listed = things(say("limit", "list", "-o", "json"))
    assert {(one["key"], one["what"]) for one in listed} >= {("daily/ada", "quota")}
    assert say("limit", "list", "-o", "ids")[1].splitlines() == [one["key"] for one in listed]
    heads, *rows = csv.reader(io.StringIO(say("limit", "list", "-o", "csv")[1]))
    assert heads[:3] == ["key", "what", "used"] and ["daily/ada", "quota", "3 of 10"] in [
        row[:3] for row in rows
    ]
    assert "3 of 10" in say("limit", "list")[1]
    assert say("limit", "reset", "daily/nobody")[0] == 3


def test_a_breaker_is_held_and_released_with_a_reason(say: Callable[..., Said]) -> None:
    assert say("breaker", "force", "partner", "open", "--reason", "so")[0] == 0
    listed = things(say("breaker", "list", "-o", "json"))
    assert ("partner", "held open") in {(one["name"], one["state"]) for one in listed}
    assert say("breaker", "release", "partner", "--why", "well again")[0] == 0
    shown = things(say("breaker", "show", "partner", "-o", "json"))
    assert [note["why"] for note in shown["controls"]][-2:] == ["so", "well again"]
    assert "release" in say("breaker", "show", "partner")[1]
    assert say("breaker", "reset", "nobody")[0] == say("breaker", "show", "nobody")[0] == 3
    assert say("breaker", "force", "partner", "ajar")[0] == 2


def test_a_cache_is_made_old_unless_it_is_not_there(say: Callable[..., Said]) -> None:
    before = things(say("cache", "list", "-o", "json"))[0]
    assert before["name"] == "price" and before["values"] == 1
    assert say("cache", "invalidate", "price", "--key", '["tea"]', "--reason", "dearer")[0] == 0
    assert things(say("cache", "list", "-o", "json"))[0]["stamps"] >= 1
    assert say("cache", "invalidate", "prize")[0] == 3
    assert say("cache", "invalidate", "prise", "--unseen")[0] == 0
    assert say("cache", "invalidate", "price", "--key", "tea")[0] == 2
    assert say("cache", "invalidate", "price", "--key", "[1.5]")[0] == 2
    assert say("cache", "invalidate", "price", "--key", "[1]", "--tag", "x")[0] == 2


def test_requests_are_shown_and_an_answered_one_is_not_resolved(say: Callable[..., Said]) -> None:
    listed = things(say("request", "list", "-o", "json"))
    done = next(one for one in listed if one["key"] == "key-1")
    assert "key-1" in say("request", "show", done["id"])[1]
    code, _, err = say("request", "resolve", done["id"], "--not-done")
    assert code == 4 and "OL5107" in err
    assert say("request", "show", "0" * 32)[0] == 3
    assert say("request", "resolve", done["id"])[0] == 2
    assert {one["state"] for one in things(say("request", "list", "-o", "json"))} >= {"done"}


def test_ids_are_read_from_stdin_and_one_that_refuses_stops_nobody(
    say: Callable[..., Said], town: Town, request_json: Callable[..., Any]
) -> None:
    ids = [request_json(f"{town.running.url()}/orders", 3)[1]["id"] for _ in range(3)]
    code, out, err = say("process", "cancel", "-", stdin="\n".join([*ids, "", "ord_no", ids[0]]))
    assert code == 3 and err.startswith("outlive: ord_no: ") and err.count("\n") == 1
    assert sorted(out.splitlines()) == sorted(f"{id} is asked to cancel" for id in ids)
    assert say("process", "retry", "-", stdin="")[:2] == (0, "")
    assert say("process", "retry", "-", stdin=ids[0])[0] == 4  # it is not stuck
    assert say("process", "retry", "--naw")[0] == 2


def test_a_process_is_listed_shown_and_told(
    say: Callable[..., Said], town: Town, request_json: Callable[..., Any]
) -> None:
    id = request_json(f"{town.running.url()}/orders", 7)[1]["id"]
    assert id in say("process", "list", "-o", "ids", "--since", "1h", "--type", "order")[1].split()
    assert say("process", "show", id)[1].startswith(f"{id}  order v1")
    assert say("process", "pause", id, "--reason", "a moment")[0] == 0
    assert say("process", "deadline", id, "3600")[0] == 0
    until(lambda: "paused" in say("process", "show", id)[1], "the pause")
    assert say("process", "resume", id)[0] == 0
    assert say("process", "signal", id, "paid")[0] == 0
    assert say("process", "signal", id, "paid", "{")[0] == 2
    assert say("process", "show", "ord_no")[0] == 3
    assert say("process", "undelivered")[:2] == (0, "")
    code, _, err = say("process", "cancel", "--type", "order", "--state", "paused", "--preview")
    assert code == 0, err


def test_a_viewer_looks_and_changes_nothing(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLIVE_CONTEXTS", str(town.folder / "contexts.toml"))
    monkeypatch.setenv("WALL_TOKEN", WALL)
    assert main(["limit", "list", "--context", "seen"]) == 0
    assert main(["limit", "reset", "daily/ada", "--context", "seen"]) == 4
    monkeypatch.setenv("WALL_TOKEN", "nobody-0123456789abcdef")
    assert main(["limit", "list", "--context", "seen"]) == 4
    told = capsys.readouterr()
    assert "nobody-01" not in told.out + told.err


def test_who_is_elsewhere_is_recorded_by_the_name_of_the_token(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLIVE_CONTEXTS", str(town.folder / "contexts.toml"))
    assert main(["breaker", "force", "bank", "closed", "--context", "town"]) == 0
    assert main(["breaker", "show", "bank", "--store", town.address]) == 0
    assert "force closed  ann" in capsys.readouterr().out


def test_watching_in_a_pipe_prints_a_block_for_each_change_and_ends_with_130(
    town: Town, request_json: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    words = ("process", "list", "--watch", "-o", "ids", "--limit", "1", "--store", town.address)
    watching = Running(town.folder, "watch", sys.executable, "-c", HEARS_CTRL_C, *words)
    try:
        first = request_json(f"{town.running.url()}/orders", 1)[1]["id"]
        watching.said(first)
        second = request_json(f"{town.running.url()}/orders", 1)[1]["id"]
        watching.said(second)
        blocks = watching.out.read_text().split("\n\n")
        assert blocks[-3:] == [first, second, ""]
    finally:
        assert watching.end(2) == 130
    assert watching.err.read_text() == ""


def test_watching_on_a_terminal_draws_over_and_gives_the_screen_back(town: Town) -> None:
    import pty

    pid, terminal = pty.fork()
    if pid == 0:  # the child becomes the command, and hears Ctrl-C where the tests do not
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.environ |= {"PYTHONPATH": str(ROOT / "src"), "TERM": "xterm-256color", "COLUMNS": "100"}
        words = ("limit", "list", "--watch", "--store", town.address)
        os.execv(sys.executable, [sys.executable, "-m", "outlive.commands", *words])
    said = b""
    try:
        while said.count(b"daily/ada") < 3:
            said += os.read(terminal, 65_536)
        os.write(terminal, b"\x03")
        try:
            while part := os.read(terminal, 65_536):
                said += part
        except OSError:  # so does Linux say that the other side is gone
            pass
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130, said[-500:]
    assert said.count(b"\x1b[2J") <= 1, "it is cleared at each look: that flickers"
    assert said.startswith(b"\x1b[?1049h") and b"\x1b[?1049l" in said
    assert b"Traceback" not in said


def test_a_bar_is_drawn_on_the_terminal_of_stderr_and_nowhere_else(town: Town) -> None:
    import pty

    ours, theirs = pty.openpty()
    words = ("limit", "reset", "-", "--store", town.address)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm-256color"}
    done = subprocess.run(
        [sys.executable, "-m", "outlive.commands", *words], input=b"a\nb\nc\n",
        stdout=subprocess.PIPE, stderr=theirs, env=environment, timeout=60,
    )  # fmt: skip
    os.close(theirs)
    said = os.read(ours, 65_536)
    os.close(ours)
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"3/3" in said and said.count(b"OL0020") == 3


def test_a_list_of_nothing_is_no_line_and_no_error(tmp_path: Path) -> None:
    asyncio.run(filled_with_nothing(f"sqlite:///{tmp_path}/empty.db"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    environment |= {"OUTLIVE_STORE": f"sqlite:///{tmp_path}/empty.db"}
    command = [sys.executable, "-m", "outlive.commands", "session", "list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def filled_with_nothing(address: str) -> None:
    async with Outlive(address):
        pass
