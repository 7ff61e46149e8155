"""The supervisor: one socket, workers that may die, an end in order."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from tests.ports import free_port

from outlive.commands.serve import Supervisor, listen


def test_it_says_where_it_serves_and_by_whom(serve, request_json):
    running = serve("stub:app", "--workers", "2")
    status, pid = request_json(running.url())
    assert status == 200
    assert pid in running.workers()
    assert len(running.workers()) == 2


def test_sigterm_ends_every_worker_in_order_and_gives_0(serve, is_alive):
    running = serve("stub:app", "--workers", "2")
    workers = running.workers()
    assert running.end(signal.SIGTERM) == 0
    assert not any(map(is_alive, workers))
    assert running.out.read_text().count("shut down in order") == 2
    assert running.err.read_text() == ""


def test_ctrl_c_ends_in_order_too(serve):
    running = serve()
    running.url()
    assert running.end(signal.SIGINT) == 0


@pytest.mark.usefixtures("serve")
def test_it_serves_though_it_was_given_its_streams_closed(start, request_json, wait_until):
    port = free_port()
    words = f"-m outlive.commands serve stub:app --port {port} <&- >&- 2>&-"
    shell = ("sh", "-c", f"exec {sys.executable} {words}")
    running = start("-c", f"import os; os.execvp('sh', {shell})")

    def answers() -> bool:
        assert running.process.poll() is None
        try:
            return request_json(f"http://127.0.0.1:{port}")[0] == 200
        except OSError:
            return False

    wait_until(answers, "it serves")
    assert running.end() == 0


def test_a_killed_worker_is_replaced_and_the_death_is_told(serve, request_json, wait_until):
    running = serve()
    (victim,) = running.workers()
    os.kill(victim, signal.SIGKILL)
    running.complained(f"worker {victim} was ended by SIGKILL; another takes its place")
    running.complained("is ready")
    status, pid = request_json(running.url())
    assert status == 200
    assert pid != victim
    assert running.end() == 0


def test_a_worker_that_ends_by_a_signal_without_a_name_is_replaced_too(serve):
    running = serve()
    (victim,) = running.workers()
    os.kill(victim, 40)
    running.complained(f"worker {victim} was ended by signal 40; another takes its place")
    running.complained("is ready")
    assert running.end() == 0


def test_a_connection_waits_while_the_only_worker_is_replaced(serve, request_json):
    running = serve()
    url, (victim,) = running.url(), running.workers()
    os.kill(victim, signal.SIGKILL)
    running.complained("was ended by SIGKILL")
    assert request_json(url)[0] == 200


def test_workers_end_in_order_when_the_supervisor_is_killed(serve, is_alive, wait_until):
    running = serve("stub:app", "--workers", "2")
    workers = running.workers()
    running.end(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, workers)), "the workers' end")
    assert running.out.read_text().count("shut down in order") == 2


def test_a_worker_that_does_not_end_is_killed_after_the_grace_time(serve, is_alive, tmp_path):
    (tmp_path / "deaf.py").write_text(
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        await receive()\n"
        "        await send({'type': 'lifespan.startup.complete'})\n"
        "        await receive()\n"
        "        while True: await __import__('asyncio').sleep(1)\n"
    )
    running = serve("deaf:app", "--grace-seconds", "0.5")
    (worker,) = running.workers()
    assert running.end() == 1
    assert "did not end in 0.5 s" in running.err.read_text()
    assert not is_alive(worker)


def test_a_taken_port_is_one_clear_line(serve):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = serve("stub:app", "--port", str(port))
        assert running.process.wait(60) == 1
    (line,) = running.err.read_text().splitlines()
    assert line.startswith(f"outlive: cannot listen on 127.0.0.1:{port}: ")
    assert line.endswith("; try --port 0")


def test_a_host_that_is_none_is_one_clear_line(serve):
    running = serve("stub:app", "--host", "nowhere.invalid")
    assert running.process.wait(60) == 1
    (line,) = running.err.read_text().splitlines()
    assert line.startswith("outlive: cannot listen on nowhere.invalid:")
    assert line.endswith("; try another --host")


def test_what_does_not_name_an_app_is_one_clear_line(outlive, tmp_path):
    (tmp_path / "shop.py").write_text("number = 3\n")
    (tmp_path / "broken.py").write_text("\nimport no_such_thing_at_all\n")
    (tmp_path / "typo.py").write_text("def f(:\n")
    for target, text in {
        "shop": "write MODULE:APP",
        "nowhere:app": "there is no module 'nowhere'",
        "shop:app": "module shop has no 'app'",
        "shop:number": "neither an Outlive nor an ASGI app",
        "broken:app": "No module named 'no_such_thing_at_all'",
        "typo:app": "SyntaxError",
    }.items():
        done = outlive("serve", target, "--port", "0")
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2, target
        assert line.startswith("outlive: ")
        assert text in line


def test_an_error_in_a_module_names_the_users_line(outlive, tmp_path):
    (tmp_path / "broken.py").write_text("\n\nraise ValueError('no key is set')\n")
    done = outlive("serve", "broken:app", "--port", "0")
    assert "ValueError: no key is set" in done.stderr
    assert "broken.py, line 3" in done.stderr


def test_an_app_that_does_not_start_ends_the_command(outlive, tmp_path):
    (tmp_path / "sick.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no luck'})\n"
    )
    done = outlive("serve", "sick:app", "--port", "0")
    assert done.returncode == 1
    assert "the app did not start" in done.stderr


def test_options_out_of_bounds_are_misuse(outlive):
    for options in (("--workers", "0"), ("--workers", "65"), ("--port", "x"), ("--grace", "1")):
        done = outlive("serve", "stub:app", *options)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


async def test_a_machine_that_starts_no_process_now_ends_no_service(monkeypatch, capsys):
    """Out of processes or memory for a moment: the other workers go on, and it is tried again."""
    tried = []

    async def fail(*_, **__):
        tried.append(len(list(Path("/proc/self/fd").iterdir())))
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fail)
    supervisor = Supervisor("stub:app", listen("127.0.0.1", 0), 1, 5.0)
    supervisor.announced = True
    keeping = asyncio.create_task(supervisor._keep())
    try:
        async with asyncio.timeout(30):
            while len(tried) < 3 and not keeping.done():
                await asyncio.sleep(0.01)
        assert not keeping.done(), "the place is given up"
        assert len(set(tried)) == 1, "a descriptor is left open by each try"
        assert "no worker can be started" in capsys.readouterr().err
    finally:
        supervisor.leaving.set()
        await asyncio.gather(keeping, return_exceptions=True)
        supervisor.listener.close()
        os.close(supervisor.life)
        os.close(supervisor._held)
