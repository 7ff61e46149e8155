"""The example's partner: one effect per key, whatever is done to it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import httpx
import pytest
from examples.signup.partner import LEDGER

PARTNER = Path(__file__).resolve().parents[2] / "examples" / "signup" / "partner.py"


class Partner:
    """A partner in a process of its own, on a free port."""

    def __init__(self, ledger: Path) -> None:
        command = (sys.executable, str(PARTNER), "--port", "0", "--ledger", str(ledger))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ready = re.fullmatch(r"partner ready on (\S+)\n", self.process.stdout.readline())
        assert ready is not None
        self.http = httpx.Client(base_url=ready[1], timeout=60)

    def post(self, path, key, body=None):
        return self.http.post(path, headers={"Idempotency-Key": key}, json=body or {"x": 1})

    def behave(self, **how):
        return self.http.put("/behaviour", json=how).raise_for_status()

    def ledger(self):
        return {line["key"]: line for line in self.http.get("/ledger").json()}

    def end(self, number=signal.SIGTERM):
        self.http.close()
        os.kill(self.process.pid, number)
        status = self.process.wait(60)
        self.process.stdout.close()
        return status


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "deep" / "partner.db"


@pytest.fixture
def partner(ledger):
    started = Partner(ledger)
    yield started
    if started.process.poll() is None:
        assert started.end() == 0


def test_the_same_key_gets_the_same_answer_and_one_effect(partner):
    first, second = partner.post("/customers", "k"), partner.post("/customers", "k")
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert first.status_code == 201
    line = partner.ledger()["k"]
    assert (line["calls"], line["effects"], line["undone"]) == (2, 1, False)


def test_keys_of_customers_and_mails_do_not_meet(partner):
    assert partner.post("/customers", "k").status_code == 201
    assert partner.post("/mails", "k").status_code == 202
    assert [line["kind"] for line in partner.http.get("/ledger").json()] == ["customer", "mail"]


def test_a_key_with_another_body_is_refused(partner):
    partner.post("/mails", "k", {"to": "a"})
    again = partner.post("/mails", "k", {"to": "b"})
    assert (again.status_code, again.json()["error"]) == (422, "key-reused")


def test_closing_twice_or_what_was_never_made_is_harmless(partner):
    partner.post("/customers", "made")
    for key in ("made", "made", "never"):
        assert partner.http.delete(f"/customers/by-key/{key}").status_code == 204
    lines = partner.ledger()
    assert (lines["made"]["effects"], lines["made"]["undone"]) == (1, True)
    assert (lines["never"]["effects"], lines["never"]["undone"]) == (0, True)


def test_a_create_that_comes_after_its_undo_makes_nothing(partner):
    partner.http.delete("/customers/by-key/late")
    late = partner.post("/customers", "late")
    assert (late.status_code, late.json()["error"]) == (410, "key-undone")
    assert partner.ledger()["late"]["effects"] == 0


def test_hanging_up_after_the_commit_leaves_the_effect_and_the_retry_finds_it(partner):
    partner.behave(answer="after_commit_drop")
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        partner.post("/customers", "k")
    partner.behave()
    assert partner.post("/customers", "k").status_code == 201
    assert partner.ledger()["k"]["effects"] == 1


def test_next_n_fails_n_times_without_an_effect_and_then_no_more(partner):
    partner.behave(fail="next:2")
    assert [partner.post("/mails", "k").status_code for _ in range(3)] == [503, 503, 202]
    assert partner.ledger()["k"]["calls"] == 1


def test_always_and_never_fail(partner):
    partner.behave(fail="always")
    assert partner.post("/mails", "k").status_code == 503
    partner.behave(fail="rate:1")
    assert partner.post("/mails", "k").status_code == 503
    partner.behave(fail="rate:0")
    assert partner.post("/mails", "k").status_code == 202


def test_undo_goes_through_unless_it_is_meant_too(partner):
    partner.behave(fail="always")
    assert partner.http.delete("/customers/by-key/k").status_code == 204
    partner.behave(fail="always", on=["undo"])
    assert partner.http.delete("/customers/by-key/k").status_code == 503
    assert partner.post("/customers", "other").status_code == 201


def test_a_refusal_is_422_and_does_nothing(partner):
    partner.behave(answer="refuse")
    refused = partner.post("/customers", "k")
    assert (refused.status_code, refused.json()["error"]) == (422, "refused")
    assert partner.ledger() == {}


def test_a_delay_is_waited_for(partner):
    partner.behave(delay_seconds=0.3)
    assert partner.post("/mails", "k").elapsed.total_seconds() >= 0.3


def test_behaviour_can_be_read_and_a_bad_one_is_refused(partner):
    partner.behave(fail="next:3", delay_seconds=0.5)
    assert partner.http.get("/behaviour").json()["fail"] == "next:3"
    bad = ({"fail": "sometimes"}, {"delay_seconds": -1}, {"answer": "no"}, {"fial": "none"}, [])
    for how in bad:
        answer = partner.http.put("/behaviour", json=how)
        assert (answer.status_code, answer.json()["error"]) == (400, "bad-behaviour")
    assert partner.http.get("/behaviour").json()["fail"] == "next:3"


def test_bad_input_is_a_clear_json_error(partner):
    http = partner.http
    assert http.post("/customers", json={}).json()["error"] == "key-missing"
    assert partner.post("/customers", "k" * 256).json()["error"] == "key-missing"
    for body in (b"", b"[]", b"{", b'"x"', b"\xff"):
        answer = http.post("/mails", headers={"Idempotency-Key": "k"}, content=body)
        assert (answer.status_code, answer.json()["error"]) == (400, "bad-body")
    large = http.post("/mails", headers={"Idempotency-Key": "k"}, json={"x": "y" * 70_000})
    assert (large.status_code, large.json()["error"]) == (413, "too-large")
    assert http.get("/nowhere").json()["error"] == "no-such-thing"
    assert http.get("/mails").status_code == 405
    assert partner.ledger() == {}


def test_what_it_answered_survives_kill_9(partner, ledger):
    answers = {key: partner.post("/customers", key).json() for key in "abc"}
    partner.http.delete("/customers/by-key/c")
    before = partner.ledger()
    assert partner.end(signal.SIGKILL) == -signal.SIGKILL

    again = Partner(ledger)
    try:
        assert again.ledger() == before
        assert {key: again.post("/customers", key).json() for key in "ab"} == {
            key: answers[key] for key in "ab"
        }
        assert again.post("/customers", "c").status_code == 410
        assert sum(line["effects"] for line in again.ledger().values()) == 3
    finally:
        assert again.end() == 0


def test_a_taken_port_is_one_clear_line(partner, tmp_path):
    port = str(partner.http.base_url.port)
    command = [sys.executable, str(PARTNER), "--port", port, "--ledger", str(tmp_path / "x.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_long_ledger_is_read_without_walking_it_once_for_each_key(partner, ledger):
    """A soak of 40 minutes ended in a ledger of 24,000 keys that nobody could read any more."""
    plan = apsw.Connection(str(ledger)).execute(f"EXPLAIN QUERY PLAN {LEDGER}")
    steps = [detail for *_, detail in plan if re.match(r"(SCAN|SEARCH) e\b", detail)]
    assert steps and all("effects_of_key" in step for step in steps), steps
