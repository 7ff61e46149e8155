"""The plugin in a user's project, under each way of running an asynchronous test, and without."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.doors.manual import written_out
from tests.testing.projects import pytest_in

ROOT = Path(__file__).resolve().parents[2]

ASYNC = """
import asyncio
import shop

async def test_an_order_is_paid(outlive):
    handle = await outlive.start(shop.order, "tea")
    await outlive.run_until_idle()
    assert await handle.status() == "waiting"
    await handle.signal("paid", 3)
    assert await handle.result() == "tea for 3"
    assert outlive.app is shop.app
    assert asyncio.get_running_loop() is shop.app._home

async def test_another_finds_nothing_of_it(outlive):
    assert (await shop.app.processes())[0] == []
    handle = await shop.app.start(shop.order, "salt")
    await outlive.advance(days=2)
    assert await handle.status() == "rolled_back"

class TestInAClass:
    async def test_it_works_too(self, outlive):
        assert (await outlive.start(shop.order, "ink")).id.startswith("order_")
        await outlive.run_until_idle()

def test_afterwards_it_is_bound_back():
    assert shop.app.store_address == "sqlite:///never/opened.db" and shop.app.phase == "new"
    assert shop.packed == ["tea", "salt", "no salt", "ink"]
"""
PLAIN = """
import shop

def view(what):
    client = shop.app.blocking()
    return client.start(shop.order, what).id

def test_a_view_starts_an_order(blocking_outlive):
    id = view("tea")
    handle = blocking_outlive.handle(id)
    blocking_outlive.run_until_idle()
    shop.app.blocking().handle(id).signal("paid", 4)
    blocking_outlive.advance(hours=2)
    assert handle.status() == "done"
    assert handle.result() == "tea for 4"
    assert blocking_outlive.now().hour == 2
    mine = blocking_outlive.start(shop.order, "salt")
    blocking_outlive.run_until_idle()
    blocking_outlive.evict(mine)
    mine.signal("paid", 5)
    assert mine.result() == "salt for 5"

def test_another_finds_nothing_of_it(blocking_outlive):
    assert shop.app.blocking().processes()[0] == []
"""
MARK = {
    "auto": ("", ("-o", "asyncio_mode=auto")),
    "strict": ("import pytest\npytestmark = pytest.mark.asyncio\n", ("-o", "asyncio_mode=strict")),
    "anyio": (
        "import pytest\npytestmark = pytest.mark.anyio\n\n@pytest.fixture\n"
        "def anyio_backend():\n    return 'asyncio'\n",
        ("-p", "no:asyncio"),
    ),
}


@pytest.mark.parametrize("store", ["memory://", "sqlite://"])
@pytest.mark.parametrize("way", MARK)
def test_asynchronous_tests_work_under_each_plugin(way: str, store: str, tmp_path: Path) -> None:
    marked, options = MARK[way]
    if way == "strict":
        body = ASYNC.replace("\ndef test_afterwards", "\nasync def test_afterwards")
    else:
        body = ASYNC
    counts, said = pytest_in(tmp_path, "--outlive-store", store, *options, test_it=marked + body)
    assert counts == {"passed": 4}, said
    assert not (tmp_path / "never").exists()


def test_plain_tests_and_the_code_they_test_need_no_event_loop(tmp_path: Path) -> None:
    counts, said = pytest_in(tmp_path, "-p", "no:asyncio", "-p", "no:anyio", test_it=PLAIN)
    assert counts == {"passed": 2}, said


def test_the_application_may_be_given_by_a_fixture_and_a_test_marked(tmp_path: Path) -> None:
    body = """
import pytest, random
from outlive import Outlive, Run, step

app = Outlive()

@step
async def take(number: int) -> int:
    return number

@app.process("/dice", version=1)
async def dice(run: Run) -> int:
    await run(take, random.randrange(10**9))
    return await run(take, 1)

@pytest.fixture
def outlive_app():
    return app

async def test_without(outlive):
    assert await (await outlive.start(dice)).result() == 1
    assert type(outlive.app.store.blobs).__name__ == "MemoryBlobs"

@pytest.mark.outlive(always_replay=True, store="sqlite://")
async def test_with(outlive):
    assert await (await outlive.start(dice)).result() == 1
"""
    counts, said = pytest_in(tmp_path, "-o", "asyncio_mode=auto", "--strict-markers", test_it=body)
    assert counts == {"passed": 1, "failed": 1}, said
    assert "The body of dice is not deterministic" in said and "take" in said


def test_without_an_application_it_says_what_to_set(tmp_path: Path) -> None:
    options = ("-o", "outlive_app=", "-o", "asyncio_mode=auto")
    counts, said = pytest_in(tmp_path, *options, test_it="async def test_it(outlive): pass")
    assert counts == {"error": 1}, said
    assert "Set outlive_app = 'module:name'" in said


def test_a_failing_test_with_a_step_under_way_ends_at_once(tmp_path: Path) -> None:
    body = """
import asyncio
from outlive import Outlive, Run, step
import pytest

app = Outlive()

@step
async def hang():
    await asyncio.get_running_loop().create_future()

@app.process("/x", version=1)
async def x(run: Run):
    await run(hang)

@pytest.fixture
def outlive_app():
    return app

async def test_it(outlive):
    await outlive.start(x)
    await outlive.run_until_idle(within=1)

async def test_next(outlive):
    assert (await app.processes())[0] == []
"""
    counts, said = pytest_in(tmp_path, "-o", "asyncio_mode=auto", test_it=body)
    assert counts == {"passed": 1, "failed": 1}, said
    assert "Still under way after 1 s" in said and "in hang" in said


def test_it_is_registered_and_loads_nothing_until_it_is_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"outlive": "outlive.testing.plugin"}
    assert not any(name.startswith("pytest") for name in project["dependencies"])
    code = (
        "import sys, pytest; before = set(sys.modules); import outlive.testing.plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {"outlive", "outlive.testing", "outlive.testing.plugin"}
    assert {name for name in ran.stdout.split() if not name.startswith("_")} <= ours


def test_the_programs_of_the_manual_run_as_they_are_printed(tmp_path: Path) -> None:
    assert written_out("testing.md", tmp_path) == [
        "shop.py", "test_order.py", "test_plain.py", "test_killed.py",
    ]  # fmt: skip
    shop = (tmp_path / "shop.py").read_text()
    counts, said = pytest_in(tmp_path, "-o", "asyncio_mode=auto", "--strict-markers", shop=shop)
    assert counts == {"passed": 7}, said
    assert not (tmp_path / "shop.db").exists()


def test_a_failure_under_a_kill_shows_where_and_how_to_repeat_it(tmp_path: Path) -> None:
    body = """
import shop

def test_it(kill_everywhere):
    def check(outcome):
        assert shop.packed == ["tea", "no tea"], "packed once"
    kill_everywhere(shop.order, "tea", check=check, reset=shop.packed.clear)

def test_only(kill_everywhere):
    assert kill_everywhere(shop.order, "tea", only="2-after") == ["2-after"]

async def test_awaited(kill_everywhere):
    assert len(await kill_everywhere(shop.order, "tea", reset=shop.packed.clear)) > 8

async def test_forgotten(kill_everywhere):
    kill_everywhere(shop.order, "tea")
"""
    counts, said = pytest_in(tmp_path, "-o", "asyncio_mode=auto", test_it=body)
    assert counts == {"passed": 3, "failed": 1, "error": 1}, said
    assert "packed once" in said
    assert "killed before commit 2: pack done at attempt 1" in said
    assert 'only="2-before"' in said and "await kill_everywhere" in said


def test_every_name_that_is_given_out_is_there() -> None:
    from outlive import testing

    for name in testing.__all__:
        assert getattr(testing, name).__name__.rpartition(".")[2] == name
    with pytest.raises(AttributeError):
        testing.__getattr__("Nothing")
