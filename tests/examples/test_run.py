"""`make run` as a visitor sees it: the sign-up and its partner, killed in between."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
from tests.ports import free_port
from tests.postgres_server import end_with_tests

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "examples" / "signup" / "run.py"
ADA = {"firstName": "Ada", "lastName": "Lovelace", "email": "ada@example.org"}
DEADLINE_SECONDS = 60


def until(condition, what):
    end = time.monotonic() + DEADLINE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: not within {DEADLINE_SECONDS} s"
        time.sleep(0.05)
    return found


class Example:
    """`run.py` in a folder of its own, which may be killed and started again."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.start()

    def start(self):
        self.said = self.folder / "said"
        path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PORT": str(self.port), "PYTHONPATH": path}
        environment.pop("OUTLIVE_STORE", None)
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(RUN)],
                cwd=self.folder,
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                preexec_fn=partial(end_with_tests, signal.SIGTERM),
            )
        until(self._ready, "the example is ready")
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        (partner,) = re.findall(r"partner ready on (\S+)", self.said.read_text())
        self.partner = httpx.Client(base_url=partner, timeout=60)

    def _ready(self):
        assert self.process.poll() is None, self.said.read_text()
        said = self.said.read_text()
        return "End " in said and re.search(r"partner ready on \S+\n", said)

    def workers(self):
        (pids,) = re.findall(r"workers ([\d, ]+)", self.said.read_text())
        return [int(pid) for pid in pids.split(", ")]

    def end(self, number=signal.SIGTERM):
        self.http.close()
        self.partner.close()
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.process.wait(DEADLINE_SECONDS)

    def sign_up(self):
        answer = self.http.post("/registrations", json=ADA)
        assert answer.status_code == 201, answer.text
        return answer.headers["location"]

    def look(self, place):
        try:
            return self.http.get(place).json()
        except httpx.TransportError:
            return {"status": "nobody answers", "data": {}}

    def reaches(self, place, status):
        until(lambda: self.look(place)["status"] == status, f"{place} is {status}")
        return self.look(place)

    def confirm(self, place):
        return self.http.post(f"{place}/signals/confirmed", json={"newsletter": True})

    def effects(self):
        lines = self.partner.get("/ledger").json()
        return {(line["kind"], line["effects"], line["undone"]) for line in lines}


@pytest.fixture
def example(tmp_path):
    running = Example(tmp_path)
    yield running
    running.end()


def test_a_sign_up_waits_for_its_confirmation_and_is_done(example):
    place = example.sign_up()
    waiting = example.reaches(place, "waiting")
    assert waiting["data"]["firstName"] == "Ada"
    assert waiting["data"]["stage"] == "waiting for the confirmation"
    assert waiting["data"]["customer"].startswith("customer-")
    assert example.confirm(place).status_code == 202
    done = example.reaches(place, "done")
    assert done["result"]["newsletter"] is True
    assert done["result"]["id"] == place.rpartition("/")[2]
    assert example.effects() == {("customer", 1, False), ("mail", 1, False)}
    assert example.end() == 0


def test_bad_forms_leave_no_trace(example):
    for change in ({"email": "x"}, {"firstName": ""}, {"surname": "L"}, {"lastName": "l" * 101}):
        assert example.http.post("/registrations", json={**ADA, **change}).status_code == 422
    assert example.effects() == set()


def test_a_refusing_partner_rolls_the_sign_up_back(example):
    example.partner.put("/behaviour", json={"answer": "refuse", "on": ["mails"]})
    rolled = example.reaches(example.sign_up(), "rolled_back")
    assert "StepFailed" in str(rolled) or "refused" in str(rolled)
    assert example.effects() == {("customer", 1, True)}


def test_a_partner_that_hangs_up_after_the_commit_does_nothing_twice(example):
    example.partner.put("/behaviour", json={"answer": "after_commit_drop"})
    place = example.sign_up()
    until(lambda: example.effects(), "the partner's first effect")
    example.partner.put("/behaviour", json={})
    example.reaches(place, "waiting")
    assert example.effects() == {("customer", 1, False), ("mail", 1, False)}


def test_every_worker_killed_in_the_middle_loses_and_doubles_nothing(example):
    example.partner.put("/behaviour", json={"delay_seconds": 0.6})
    place = example.sign_up()
    for worker in example.workers():
        os.kill(worker, signal.SIGKILL)
    example.reaches(place, "waiting")
    assert example.effects() == {("customer", 1, False), ("mail", 1, False)}
    told = "was ended by SIGKILL; another takes its place"
    until(lambda: example.said.read_text().count(told) == 2, "both deaths are told")


def test_the_whole_example_killed_and_started_again_goes_on(example):
    place = example.sign_up()
    example.reaches(place, "waiting")
    assert example.end(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: port_is_free(example.port), "its children end")
    example.start()
    example.reaches(place, "waiting")
    example.confirm(place)
    example.reaches(place, "done")
    assert example.effects() == {("customer", 1, False), ("mail", 1, False)}


def port_is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_a_taken_port_is_one_clear_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, str(RUN)],
            cwd=tmp_path,
            env={**os.environ, "PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == f"port {port} is taken; choose another: make run PORT={port + 1}"
