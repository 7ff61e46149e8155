"""What the pages print is what their programs say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.doors.manual import DOCS, TRY_LIMITED_SERVICE, written_out
from tests.doors.programs import program
from tests.testing.projects import pytest_on

ROOT = Path(__file__).resolve().parents[2]

SAID = {
    ("from-celery.md", "albums.py"): "Ada: 2 images, key True",
    ("from-dbos.md", "checkout.py"): "tea for 3",
    ("from-temporal.md", "onboarding.py"): "account of Ada, signed A.",
    ("processes.md", "accounts.py"): "Ada {",
    ("processes.md", "trips.py"): "2 tickets, vegetarian: False ['bus', 'guide', 'museum', "
    "'seat beside 13', 'train']",
}


PRINTED = {"requests.md": "repeat.py", "sessions.md": "visit.py"}
"""Pages whose last program prints exactly the text that follows `prints`."""


@pytest.mark.parametrize(("page", "name"), SAID, ids=lambda word: word.partition(".")[0])
def test_a_program_of_a_page_says_what_it_should(page: str, name: str, tmp_path: Path) -> None:
    assert name in written_out(page, tmp_path)
    with program("memory://", name, folder=tmp_path) as running:
        said, _ = running.communicate(timeout=120)
    assert running.returncode == 0 and said.startswith(SAID[page, name]), said


def test_the_simulation_of_the_manual_prints_what_it_says(tmp_path: Path) -> None:
    assert written_out("simulation.md", tmp_path) == ["signups.py", "simulated.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "0"}
    ran = subprocess.run(
        [sys.executable, "simulated.py"], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.stdout == "3 seeds, 0 violations\n", ran.stdout + ran.stderr
    assert f"`{ran.stdout.strip()}`" in (DOCS / "simulation.md").read_text("utf-8")


@pytest.mark.parametrize(("page", "name"), PRINTED.items(), ids=lambda word: word.partition(".")[0])
def test_a_program_of_a_page_prints_what_the_page_says(
    page: str, name: str, tmp_path: Path
) -> None:
    assert name in written_out(page, tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run(
        [sys.executable, name], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    text = (DOCS / page).read_text("utf-8")
    (wanted,) = re.findall(r"prints\n\n```text\n(.*?)```", text, re.DOTALL)
    assert ran.stdout == wanted, ran.stderr


def test_the_sealed_sessions_of_the_manual_need_no_more_than_keys(tmp_path: Path) -> None:
    assert "sealed.py" in written_out("sessions.md", tmp_path)
    with program("memory://", "sealed.py", folder=tmp_path) as running:
        said, _ = running.communicate(timeout=60)
    assert said == "sealed by 2026-11\n"


def test_the_search_of_the_manual_prints_what_it_says(tmp_path: Path) -> None:
    assert written_out("search.md", tmp_path) == ["orders.py", "find.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run(
        [sys.executable, "find.py"], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    page = (DOCS / "search.md").read_text("utf-8")
    (wanted,) = re.findall(r"It prints\n\n```text\n(.*?)```", page, re.DOTALL)
    assert ran.stdout == wanted, ran.stderr


def test_the_retention_of_the_manual_is_what_it_says(tmp_path: Path) -> None:
    assert written_out("retention.md", tmp_path) == ["signups.py", "test_signups.py"]
    options = ("-o", "outlive_app=signups:app", "-o", "asyncio_mode=auto")
    counts, said = pytest_on(tmp_path, tmp_path, *options)
    assert counts == {"passed": 1}, said
    archived = {path.parent.name for path in (tmp_path / "archive").rglob("*.gz")}
    assert archived == {"sign_up", "ping"}


PRINTS = {"breakers.md": "payments.py", "caches.md": "prices.py", "ratelimits.md": "api.py"}


@pytest.mark.parametrize("page", PRINTS)
def test_the_program_of_a_page_prints_what_it_says(page: str, tmp_path: Path) -> None:
    assert written_out(page, tmp_path) == [PRINTS[page]]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run(
        [sys.executable, PRINTS[page]], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    text = (DOCS / page).read_text("utf-8")
    (wanted,) = re.findall(r"prints\n\n```text\n(.*?)```", text, re.DOTALL)
    assert ran.stdout == wanted, ran.stderr


def test_the_service_of_the_rate_limits_refuses_what_is_over_the_limit(tmp_path: Path) -> None:
    written_out("ratelimits.md", tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", TRY_LIMITED_SERVICE], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    policy = '"burst";q=3;w=1, "daily";q=1000;w=86400'
    assert ran.stdout == f"[200, 200, 200, 429] {policy}\n", ran.stderr


def test_each_program_of_the_adapters_prints_what_the_page_says(tmp_path: Path) -> None:
    names = written_out("adapters.md", tmp_path)
    text = (DOCS / "adapters.md").read_text("utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    for name in names:
        ran = subprocess.run(
            [sys.executable, name], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        (wanted,) = re.findall(rf"`python {name}` prints\n\n```text\n(.*?)```", text, re.DOTALL)
        assert ran.stdout == wanted, ran.stderr
    assert len(names) == 3


def test_the_limited_program_of_the_manual_prints_what_it_says(tmp_path: Path) -> None:
    assert "limited.py" in written_out("synchronous.md", tmp_path)
    with program("memory://", "limited.py", folder=tmp_path) as running:
        said, _ = running.communicate(timeout=60)
    assert said == "[True, True, False]\n3 SENT\n"
    text = (DOCS / "synchronous.md").read_text("utf-8")
    assert "It prints `[True, True, False]` and `3 SENT`" in text


def test_the_dashboard_of_the_manual_lets_in_whom_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert written_out("dashboard.md", tmp_path) == ["seen.py"]
    monkeypatch.chdir(tmp_path)
    for name in ("WALL", "ANN", "BOB"):
        monkeypatch.setenv(f"{name}_TOKEN", f"{name}-0123456789abcdef")
    asked = "from seen import app; print(app.access, app.access.login.__name__)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run(
        [sys.executable, "-c", asked], env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.stdout == "Access(login) who\n", ran.stderr
