"""The synchronous face: threads, loops, forks, Flask, Django, scripts, and their deaths."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from tests.doors.manual import NODE_OF_THE_MANUAL, TRY_DJANGO, TRY_FLASK, written_out
from tests.doors.programs import line_of, node, program, stands_still, until
from tests.ports import free_port

from outlive import BlockingOutlive, OutcomeUnknown, Outlive, ProcessFailed, Run, ids, step
from outlive.errors import InEventLoop, NoSuchProcess, NotAllowed, StoreRefused, StoreUnavailable


def shop(path: Path) -> tuple[Outlive, Any]:
    app = Outlive(f"sqlite:///{path}")

    @step
    def weigh(what: str) -> int:
        return len(what)

    @app.process("/orders", version=1, signals={"paid": int})
    async def order(run: Run, what: str) -> str:
        paid = await run.wait("paid", within=600)
        if paid < 0:
            raise ValueError("a debt")
        return f"{what} of {await run(weigh, what)} g for {paid}"

    return app, order


_earlier: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def threads_of_other_tests() -> None:
    _earlier.clear()
    _earlier.update(threading.enumerate())


def threads() -> list[str]:
    found = set(threading.enumerate()) - _earlier
    return [thread.name for thread in found if thread.name == "outlive-blocking"]


def test_a_script_starts_signals_and_awaits_and_leaves_no_thread(tmp_path: Path) -> None:
    app, order = shop(tmp_path / "store.db")
    with app.blocking(run=True) as client:
        handle = client.start(order, "tea")
        assert handle.status() in ("running", "waiting")
        handle.signal("paid", 3)
        assert handle.result(within=60) == "tea of 3 g for 3"
        assert [line.id for line in client.processes()[0]] == [handle.id]
    assert threads() == []


def test_errors_are_those_of_the_asynchronous_face(tmp_path: Path) -> None:
    app, order = shop(tmp_path / "store.db")
    with app.blocking(run=True) as client:
        with pytest.raises(NoSuchProcess):
            client.handle("order_nobody").view()
        handle = client.start(order, "tea")
        with pytest.raises(TimeoutError):
            handle.result(within=0.05)
        handle.signal("paid", -1)
        with pytest.raises(ProcessFailed):
            handle.result(within=60)
        cancelled = client.start(order, "salt")
        cancelled.cancel(reason="no appetite")
        with pytest.raises(ProcessFailed, match="cancelled"):
            cancelled.result(within=60)


def test_a_client_runs_nothing_and_a_node_elsewhere_does(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    app, order = shop(path)
    with app.blocking() as client:
        handle = client.start(order, "tea", key="k")
        assert handle.status() == "queued"
        assert client.start(order, "tea", key="k").id == handle.id
        other, _ = shop(path)
        with other.blocking(run=True):
            handle.signal("paid", 3)
            assert handle.result(within=60) == "tea of 3 g for 3"


def test_many_threads_share_one_thread_and_one_store(tmp_path: Path) -> None:
    app, order = shop(tmp_path / "store.db")
    client = app.blocking(run=True)
    assert app.blocking() is client

    def buy(number: int) -> str:
        handle = client.start(order, f"tea {number}")
        handle.signal("paid", number)
        return str(handle.result(within=60))

    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(buy, range(24)))
        assert found[7] == "tea 7 of 5 g for 7" and len(set(found)) == 24
        assert len(threads()) == 1
    finally:
        client.close()


@pytest.mark.parametrize("run", [True, False])
def test_a_call_while_another_thread_opens_it_waits_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: bool
) -> None:
    app, order = shop(tmp_path / "store.db")
    client = app.blocking(run=run)
    opening, go_on = threading.Event(), threading.Event()
    open_places = app._open_places

    async def held() -> None:
        opening.set()
        await asyncio.to_thread(go_on.wait)
        await open_places()

    monkeypatch.setattr(app, "_open_places", held)
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(client.start, order, "tea")
            assert opening.wait(60)
            second = pool.submit(client.start, order, "salt")
            try:
                assert not wait((second,), 0.2).done
            finally:
                go_on.set()
            assert {first.result(60).id, second.result(60).id} == {
                line.id for line in client.processes()[0]
            }
        assert len(threads()) == 1
    finally:
        client.close()


def test_threads_that_ask_for_the_face_at_once_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = shop(tmp_path / "store.db")
    making, go_on, make = threading.Event(), threading.Event(), BlockingOutlive.__init__

    def held(face: BlockingOutlive, of: Outlive) -> None:
        make(face, of)
        if threading.current_thread() is not threading.main_thread():
            making.set()
            go_on.wait(60)

    monkeypatch.setattr(BlockingOutlive, "__init__", held)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(app.blocking, run=True)
        try:
            assert making.wait(60)
            second = app.blocking()
        finally:
            go_on.set()
        assert first.result(60) is second is app.blocking() and second.runs


async def test_inside_an_event_loop_it_says_what_to_use_instead(tmp_path: Path) -> None:
    app, order = shop(tmp_path / "store.db")
    with pytest.raises(InEventLoop, match=r"await app\.start"):
        app.blocking().start(order, "tea")
    assert threads() == [] and not (tmp_path / "store.db").exists()


async def test_views_in_threads_of_a_running_service_use_its_loop(tmp_path: Path) -> None:
    app, order = shop(tmp_path / "store.db")
    async with app:
        client = app.blocking()
        handle = await asyncio.to_thread(client.start, order, "tea")
        await asyncio.to_thread(handle.signal, "paid", 3)
        assert await app.handle(handle.id).result(within=60) == "tea of 3 g for 3"
        assert threads() == []


def test_inside_a_transaction_a_call_would_wait_for_itself(tmp_path: Path) -> None:
    app, order = shop(tmp_path / "store.db")
    with app.blocking(run=True) as client:

        def wrong(tables: Any) -> None:
            client.start(order, "tea")

        with pytest.raises(NotAllowed, match=r"client\.within"):
            client.transact(wrong)
        assert client.start(order, "tea").status() != "queued"


def test_an_application_is_open_in_one_loop_at_a_time(tmp_path: Path) -> None:
    app, _ = shop(tmp_path / "store.db")
    with app.blocking(), pytest.raises(StoreRefused, match="another event loop"):
        asyncio.run(app.open())


def test_closed_and_called_again_it_opens_again(tmp_path: Path) -> None:
    app, order = shop(tmp_path / "store.db")
    client = app.blocking()
    with client:
        first = client.start(order, "tea")
    assert client.start(order, "salt").id != first.id
    assert first.status() == "queued"
    client.close()
    client.close()


def test_a_store_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"no database at all" * 100)
    app, order = shop(tmp_path / "store.db")
    with pytest.raises(StoreRefused):
        app.blocking().start(order, "tea")
    assert threads() == []


def test_whoever_waits_when_it_is_closed_is_told(tmp_path: Path) -> None:
    app, order = shop(tmp_path / "store.db")
    client = app.blocking()
    handle = client.start(order, "tea")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(handle.result)
        until(lambda: _waits(client), "the wait has begun")
        client.close()
        with pytest.raises((OutcomeUnknown, StoreUnavailable)):
            waiting.result(timeout=60)


def _waits(client: BlockingOutlive) -> bool:
    assert client._own is not None
    names = [str(task.get_coro()) for task in asyncio.all_tasks(client._own.loop)]
    return any("Reading.result" in name for name in names)


# --- scripts ------------------------------------------------------------------------------------

AWAITING = """
import os
from tests.doors.shop import client, order
handle = client.start(order, "tea", key="the one")
try:
    print(handle.id, flush=True)
    print(handle.result(within=60), flush=True)
except KeyboardInterrupt:
    print("interrupted", handle.status(), flush=True)
    print(handle.result(within=60), flush=True)
"""


def test_a_script_killed_while_it_awaits_finds_its_process_again(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/store.db"
    with node(address):
        with program(address, "-c", AWAITING) as script:
            id = line_of(script)
            os.kill(script.pid, signal.SIGKILL)
            assert script.wait(60) == -signal.SIGKILL
        with program(address, "-c", AWAITING) as again:
            assert line_of(again) == id
            app, _ = shop(tmp_path / "store.db")
            with app.blocking() as client:
                client.handle(id).signal("paid", 5)
            assert line_of(again) == "tea for 5"
            assert again.wait(60) == 0


def test_ctrl_c_in_a_wait_leaves_everything_as_it_is(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/store.db"
    with node(address), program(address, "-c", AWAITING) as script:
        id = line_of(script)
        app, _ = shop(tmp_path / "store.db")
        with app.blocking() as client:
            until(lambda: client.handle(id).status() == "waiting", "it waits")
            until(lambda: stands_still(script), "the script waits too")
            os.kill(script.pid, signal.SIGINT)
            assert line_of(script) == "interrupted waiting"
            client.handle(id).signal("paid", 5)
            assert line_of(script) == "tea for 5"


def test_a_script_that_just_ends_hands_its_work_over(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/store.db"
    code = """
from tests.doors.shop import app, order
handle = app.blocking(run=True).start(order, "tea")
print(handle.id, flush=True)
"""
    with program(address, "-c", code) as script:
        id = line_of(script)
        began = time.monotonic()
        assert script.wait(60) == 0
        assert time.monotonic() - began < 15
    with node(address):
        app, _ = shop(tmp_path / "store.db")
        with app.blocking() as client:
            client.handle(id).signal("paid", 5)
            assert client.handle(id).result(within=60) == "tea for 5"
            taken = client.call(lambda app: app.journal(id))
            assert not any('"crash":true' in str(event.data) for event in taken)


def test_no_step_fails_because_the_interpreter_ends(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/store.db"
    code = """
from tests.doors.shop import app, bread
client = app.blocking(run=True)
handle = client.start(bread, 200)
while len(handle.view().steps) < 20:
    pass
print(handle.id, flush=True)
"""
    with program(address, "-c", code) as script:
        id = line_of(script)
        assert script.wait(60) == 0
    with node(address):
        app, _ = shop(tmp_path / "store.db")
        with app.blocking() as client:
            assert client.handle(id).result(within=60) == sum(range(200))
            kinds = [entry.kind for entry in client.call(lambda app: app.journal(id))]
            assert kinds.count("step") == 200 and "attempt" not in kinds


# --- Flask and Django ---------------------------------------------------------------------------


def ask(method: str, url: str, body: Any = None, **headers: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers["Content-Type"] = "application/json"
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def serves(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError as answer:
        answer.close()
        return True
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("site", "early", "kind"),
    [
        ("flask_site", False, "sqlite"),
        ("flask_site", True, "sqlite"),
        ("flask_site", True, "postgres"),
        ("django_site", False, "sqlite"),
    ],
    ids=["flask", "flask that called before the fork", "the same on PostgreSQL", "django"],
)
def test_views_of_forked_workers_start_and_signal(
    tmp_path: Path, postgres: str, site: str, early: bool, kind: str
) -> None:
    address, port = f"sqlite:///{tmp_path}/store.db", free_port()
    if kind == "postgres":
        address = f"{postgres}?schema=store_{ids.token(40)}"
    words = ["-m", "gunicorn", "--workers=2", f"--bind=127.0.0.1:{port}", "--preload"]
    words += ["--log-level=error", f"tests.doors.{site}:site"]
    env = {"CALL_BEFORE_FORK": "1"} if early else {}
    url = f"http://127.0.0.1:{port}/orders"
    with node(address), program(address, *words, env=env):
        until(lambda: serves(f"http://127.0.0.1:{port}/"), "the site serves")
        workers: dict[int, str] = {}

        def both() -> bool:
            made = ask("POST", url, {"what": "tea"})
            workers[made["worker"]] = made["id"]
            return len(workers) == 2

        until(both, "both workers have answered")
        again = [ask("POST", url, {"what": "salt"}, Key="k")["id"] for _ in range(6)]
        assert len(set(again)) == 1
        for id in (*workers.values(), again[0]):
            ask("POST", f"{url}/{id}/paid", 7)
            one = f"{url}/{id}"
            until(lambda one=one: ask("GET", one)["status"] == "done", "it is done")
        assert ask("GET", f"{url}/{again[0]}")["result"] == "salt for 7"


# --- the manual ---------------------------------------------------------------------------------


def test_the_programs_of_the_manual_do_what_they_say(tmp_path: Path) -> None:
    names = written_out("synchronous.md", tmp_path)
    assert names == ["shop.py", "flask_shop.py", "django_shop.py", "script.py", "limited.py"]
    with program("", "script.py", folder=tmp_path) as script:
        assert line_of(script) == "tea for 300"
    with program("", "-c", NODE_OF_THE_MANUAL, folder=tmp_path) as manual_node:
        assert line_of(manual_node) == "ready"
        for code in (TRY_FLASK, TRY_DJANGO):
            with program("", "-c", code, folder=tmp_path) as trying:
                assert line_of(trying) == "well"
