"""What a type checker says about users' code: right calls pass, wrong ones are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

EXAMPLES = """
from typing import Any, assert_type

from outlive import Asked, Callback, Seen, Update, Webhooks
from outlive import (
    BlockingHandle, BlockingRun, Child, Handle, Limit, Outlive, Rate, Retry, Run, Unknown, attempt,
    step,
)

app = Outlive("memory://", active_max=100)

@step(retry=Retry(attempts=3), timeout=3.0, undo="unmake")
async def make(name: str, count: int = 1) -> list[str]:
    return [name + attempt().key] * count

async def unmake(name: str, made: list[str] | Unknown) -> None: ...

@step
def measure(text: str) -> float:
    return float(len(text))

def insert(tables: Any, name: str) -> int:
    return len(tables.execute(name))

async def insert_later(connection: bytes, name: str) -> str:
    return name

async def pay(run: Run) -> str:
    return ""

async def ship(run: Run) -> int:
    return 1

@step
async def make_one(name: str) -> list[str]:
    return []

def right(run: BlockingRun) -> float:
    if run.since(2):
        run.again("a")
    return run(measure, "a")

def left(run: BlockingRun) -> str:
    assert_type(run.gather(left, right), tuple[str, float])
    run.gather(left, lambda run: run(measure, "a"))
    assert_type(run.all(["a"], measure, limit=3).results, tuple[float, ...])
    with run.scope():
        assert_type(run.first(left, left), str)
    assert_type(run.call(parcel, 1), str)
    assert_type(run.start(parcel, 1).result(), str)
    return ""

rename = Update("rename", str, bool)
Update("wrong")                         # refused

@app.process("/renamed", version=1, updates=[rename], callbacks={"scan": int})
async def renamed(run: Run) -> None:
    asked = await run.wait_update(rename, within=5)
    assert_type(asked, Asked[str, bool])
    assert_type(asked.value, str)
    await asked.answer(True)
    await asked.answer("yes")           # refused
    scan = await run.callback("scan", type=int, within=5)
    assert_type(scan, Callback[int])
    assert_type(await scan, int)
    assert_type(await run.wait(scan), int)
    assert_type(scan.url, str)

@app.query(of=renamed)
def count(seen: Seen, factor: int = 1) -> float:
    return len(seen.results) * float(factor)

async def ask(handle: Handle[bytes]) -> None:
    assert_type(await handle.update(rename, "new", key="k", within=3), bool)
    await handle.update(rename, 3)      # refused
    assert_type(await handle.query(count, factor=2), float)
    await handle.query(count, factor="2")       # refused
    await app.start(renamed, notify="https://example.org")
    Outlive(webhooks=Webhooks(["whsec_x"], allow_loopback=True), public_url="https://example.org")
    Webhooks(allow_loopback=True)       # refused

def ask_plainly(handle: BlockingHandle[bytes], run: BlockingRun) -> None:
    assert_type(handle.update(rename, "new"), bool)
    assert_type(handle.query(count, factor=2), float)
    assert_type(run.callback("scan", type=int).result(), int)
    assert_type(run.wait_update(rename).value, str)

class Moved: ...

@step
async def take_back(number: int, made: str | Unknown) -> None: ...

@app.on(Moved, signal="moved", to=lambda event: str(event))
@app.process("/parcels", version=1)
async def parcel(run: Run, number: int) -> str:
    return ""

@app.on(Moved, signal=3)                # refused
@app.process("/things", version=1)
async def thing(run: Run, name: str) -> bytes:
    assert_type(await run(make, name), list[str])
    assert_type(await run(make, name, count=2), list[str])
    assert_type(await run(measure, name), float)
    assert_type(await run.keyed(1)(measure, name), float)
    assert_type(await run.transact(insert, name), int)
    assert_type(await run.transact(insert_later, name), str)
    await run(make, 1)                  # refused
    await run(measure)                  # refused
    await run(make, name, wrong=2)      # refused
    await run.sleep("long")             # refused
    assert_type(await run.gather(pay, ship), tuple[str, int])
    assert_type(await run.gather(pay, ship, pay), tuple[str, int, str])
    await run.gather(lambda run: run(make, name), ship)
    assert_type(await run.gather(*[pay] * 9), tuple[str, ...])
    assert_type(await run.first(pay, ship), str | int)
    done = await run.all([name], measure, limit=5, key=lambda item: item)
    assert_type(done.results, tuple[float, ...])
    assert_type(done.failures[0].item, str)
    assert_type((await run.all([name], make_one, limit=5)).done, tuple[tuple[str, list[str]], ...])
    await run.gather(run(make, name), ship)     # refused
    await run.all([1], make_one, limit=5)       # refused
    run.deadline(60)
    run.deadline("60")                  # refused
    assert_type(run.since(2), bool)
    run.since("2")                      # refused
    assert_type(run.era, int)
    run.tags["region"] = "eu"
    run.tags[1] = "eu"                  # refused
    async with run.scope():
        await run(make, name)
    child = await run.start(parcel, 1, key=name, undo=take_back)
    assert_type(child, Child[str])
    assert_type(await child, str)
    assert_type(await run.call(parcel, 1), str)
    assert_type((await run.all([1], parcel, limit=5)).results, tuple[str, ...])
    assert_type(await run.publish(Moved()), str)
    await run.call(parcel, 1, after=3)  # refused
    if name:
        await run.again(name)           # does not return
    else:
        return b""

async def use() -> None:
    handle = await app.start(thing, "x")
    assert_type(handle, Handle[bytes])
    assert_type(await handle.result(), bytes)
    assert_type(await make("a"), list[str])
    assert_type(measure("a"), float)
    Retry("many")                       # refused
    await app.start(thing, "x", priority=3)
    await app.start(thing, "x", priority="high")    # refused
    within = await app.within(object()).start(thing, "x", key="k")
    assert_type(within, Handle[bytes])
    assert_type(await app.transact(insert, "x"), int)
    assert_type(await app.transact(insert_later, "x"), str)
    await app.transact(insert, 1)       # refused
    text = await app.export_journal(handle.id, redact=lambda kind, data: data)
    assert_type(text, str)
    assert_type(await app.import_journal(text, within=3), str)
    assert_type((await app.diff(text)).fits, bool)
    assert_type((await app.journal(handle.id, era=2))[0].n, int)
    await app.export_journal(3)         # refused
    assert_type(await app.publish(Moved()), str)
    assert_type(await app.within(object()).publish(Moved()), str)
    await app.pause("x", who="ann", why="because")
    await app.resume("x", who="ann")
    await app.retry("x", now=True, step="make")
    await app.skip("x", "make", value=["a"], with_undo=False)
    await app.skip("x", "make", error="no")
    await app.deadline("x", None)
    await app.deadline("x")             # refused
    assert_type(await app.fork("x", "make", input="a", version=2, cancel=True), Handle[Any])
    await app.fork("x")                 # refused
    preview = await app.bulk("cancel", status="stuck", older_than=60)
    assert_type(preview.count, int)
    assert_type((await app.carry_out(preview.token, who="ann")).refused, int)
    await app.pause("x", because="y")   # refused
    await app.start(thing, "x", tags={"region": "eu"})
    await app.start(thing, "x", tags=("region",))   # refused
    items, cursor = await app.processes("done", tags={"region": "eu"}, version=1)
    assert_type(cursor, str)
    assert_type(items[0].tags, dict[str, str])
    assert_type((await app.processes()).bounded, bool)
    await app.processes(since="2h")     # refused

@app.process("/jobs", version=1, limit=[Limit(1, per="tenant"), Limit(rate=Rate(3, 1.5))])
async def job(run: Run) -> None: ...

@app.process("/more", version=1, limit=10)      # refused
async def more(run: Run) -> None: ...

@app.process("/tagged", version=1, tags={"who": lambda name: name, "x": None}, retention_seconds=3)
async def tagged(run: Run, name: str) -> None: ...

def view() -> None:
    client = app.blocking()
    handle = client.start(thing, "x", key="k")
    assert_type(handle, BlockingHandle[bytes])
    assert_type(handle.result(within=3), bytes)
    assert_type(handle.status(), str)
    assert_type(client.within(object()).start(thing, "x"), BlockingHandle[bytes])
    assert_type(client.transact(insert, "x"), int)
    client.transact(insert)             # refused
    assert_type(client.processes(tags={"x": 1}, changed_since=None).cursor, str)
    client.processes(versions=1)        # refused
    handle.signal(1)                    # refused
    handle.result(timeout=3)            # refused
"""


def test_right_calls_are_typed_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "examples.py").write_text(EXAMPLES)
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "examples.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = EXAMPLES.splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# refused")}
    found = {
        int(line.split(":")[1])
        for line in ran.stdout.splitlines()
        if line.startswith("examples.py:") and ": error:" in line
    }
    assert found == expected, ran.stdout + ran.stderr
