"""Journals at the command line: out of a store, into another, and tried on new code.

The same is asked of services elsewhere, which are killed meanwhile.
"""

import http.client
import json
import os
import signal
import urllib.request

import pytest
from tests.commands.conftest import SHOP, fetch, until

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
    assert broken.returncode == 2 and "OL2072" in broken.stderr
    broken = process("import", "broken.jsonl")
    assert broken.returncode == 2 and "OL2072" in broken.stderr


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


ANN, WALL = "ann-0123456789abcdef", "wall-0123456789abcdef"
ACCESS = f"""
from outlive import Access

app = Outlive(dashboard=Access(operators={{"ann": "{ANN}"}}, viewers={{"wall": "{WALL}"}}))
"""
AT = "/outlive/journals"
BY_ANN = {"Authorization": f"Bearer {ANN}"}


@pytest.fixture
def two(shop, serve, tmp_path):
    """Another service elsewhere, with people who may, and contexts of both; gives its shop."""
    head, rest = SHOP.split("app = Outlive()\n")
    (tmp_path / "guarded.py").write_text(head + ACCESS + rest)
    other = type(shop)(serve("guarded:app", "--store", f"sqlite:///{tmp_path}/other.db"))
    told = [("here", shop.url, ""), ("ann", other.url, ANN), ("wall", other.url, WALL)]
    told.append(("eve", other.url, "eve-0123456789abcdef"))
    path = tmp_path / "contexts.toml"
    path.touch(0o600)
    path.write_text(
        "".join(
            f'[{name}]\nurl = "{url}"\n' + (f'token = "{token}"\n' if token else "")
            for name, url, token in told
        )
    )
    return other


@pytest.fixture
def remote(outlive, tmp_path):
    """Run `outlive process …` on a service elsewhere."""

    def run(context, verb, *arguments):
        contexts = str(tmp_path / "contexts.toml")
        found = outlive(
            "process", verb, *arguments, "--context", context, OUTLIVE_CONTEXTS=contexts
        )
        assert "Traceback" not in found.stderr and "-0123456789abcdef" not in found.stderr
        return found

    return run


def test_a_process_moves_between_services_that_are_elsewhere(shop, two, remote, tmp_path):
    id = shop.order(4)
    text = remote("here", "export", id)
    assert text.returncode == 0, text.stderr
    (tmp_path / "one.jsonl").write_text(text.stdout)
    for context, reason, code, said in (
        ("wall", "moves", 4, "OL4012"),
        ("eve", "moves", 4, "OL4011"),
        ("ann", "", 2, "OL4014"),
        ("ann", "moves", 0, ""),
        ("ann", "moves", 4, "OL2071"),
    ):
        done = remote(context, "import", "one.jsonl", "--reason", reason)
        assert done.returncode == code and said in done.stderr, done
        assert len(done.stderr.splitlines()) == (code != 0)
    shown = json.loads(remote("wall", "show", id, "-o", "json").stdout)
    assert shown["process"]["status"] == "paused"
    assert remote("ann", "signal", id, "paid", '{"by": "Ada"}').returncode == 0
    assert remote("ann", "retry", id).returncode == 0
    two.reaches(id, "done")
    assert '  result     "Ada"\n' in remote("wall", "show", id).stdout
    first, again = (
        json.loads(told.splitlines()[1])
        for told in (text.stdout, remote("wall", "export", id).stdout)
    )
    assert {**first, "sum": ""} == {**again, "sum": ""}, "its events are those it had"


def test_what_is_no_journal_is_one_line_and_nothing_is_imported(shop, two, remote, tmp_path):
    text = remote("here", "export", shop.order(5)).stdout
    names = {
        "cut": (text[: len(text) // 2], 4, "OL2072"),
        "other": ('{"id": 3}', 4, "OL2072"),
        "none": ("", 4, "OL2072"),
        "large": ("x" * 9_000_000, 2, "OL1004"),
    }
    for name, (body, code, said) in names.items():
        (tmp_path / name).write_text(body)
        done = remote("ann", "import", name, "--reason", "x")
        assert done.returncode == code and said in done.stderr, done
        assert len(done.stderr.splitlines()) == 1
    assert remote("ann", "import", "gone.jsonl", "--reason", "x").returncode == 3
    assert remote("ann", "list", "-o", "ids").stdout == ""
    assert remote("wall", "export", "ord_none").returncode == 3
    assert remote("wall", "export", "../processes").returncode == 3


def test_what_would_drift_elsewhere_is_named_before_the_deploy(two, remote, tmp_path):
    (tmp_path / "changed.py").write_text(CHANGED)
    ids = [two.order(), two.order(2)]
    same = remote("wall", "diff", "--against", "shop:app")
    assert (same.returncode, same.stdout) == (0, "2 compared: 2 same\n"), same.stderr
    found = remote("wall", "diff", "--against", "changed:app")
    assert found.returncode == 1 and found.stdout.endswith("2 compared: 2 drift\n"), found
    assert remote("wall", "diff", "--against", "shop:app", ids[0]).stdout.startswith("1 compared")
    assert remote("wall", "diff", "--against", "shop:app", "ord_none").returncode == 3
    assert remote("eve", "diff", "--against", "shop:app").returncode == 4
    assert {two.status(id) for id in ids} == {"waiting"}, "nothing was done by it"


def test_an_import_whose_service_is_killed_is_there_whole_or_not_at_all(shop, two):
    id = shop.order(6)
    text = lines_at(f"{shop.url}{AT}/{id}")
    headers = {**BY_ANN, "Content-Type": "application/x-ndjson"}
    path, (pid,) = f"{AT}?reason=moves", two.running.workers()
    half = http.client.HTTPConnection(two.url.partition("//")[2], timeout=30)
    half.putrequest("POST", path)
    for name, value in {**headers, "Content-Length": str(len(text))}.items():
        half.putheader(name, value)
    half.endheaders()
    half.send(text[: len(text) // 2])
    os.kill(pid, signal.SIGKILL)
    with pytest.raises((OSError, http.client.HTTPException)):
        half.getresponse()
    half.close()
    pid = successor_of(pid, two.running)
    assert fetch(f"{two.url}/orders/{id}")[0] == 404, "half a journal was taken in"
    whole = sent(two.url, path, text, headers)
    os.kill(pid, signal.SIGKILL)  # before it was done, or after: nobody knows
    whole.close()
    successor_of(pid, two.running)
    again = sent(two.url, path, text, headers)
    assert again.getresponse().status in (201, 409)
    again.close()
    two.reaches(id, "paused")
    events = [json.loads(line) for line in lines_at(f"{two.url}{AT}/{id}", BY_ANN).splitlines()]
    before = [json.loads(line)["kind"] for line in text.splitlines()[1:-1]]
    assert [event["kind"] for event in events[1:-1]] == [*before, "imported", "paused"]


def sent(url, path, text, headers):
    made = http.client.HTTPConnection(url.partition("//")[2], timeout=30)
    made.request("POST", path, text, headers)
    return made


def lines_at(url, headers=()):
    with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers))) as answer:
        return answer.read()


def successor_of(pid, running):
    """The worker that has taken the place of the one that was killed, once it serves."""

    def found():
        said = running.err.read_text().partition(f"worker {pid} ")[2]
        ready = [line.split()[2] for line in said.splitlines() if line.endswith(" is ready")]
        return int(ready[0]) if ready else None

    return until(found, f"a successor of {pid} is ready")
