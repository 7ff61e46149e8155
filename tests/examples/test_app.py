"""The sign-up's own tests, run as its reader runs them."""

from pathlib import Path

from tests.testing.projects import pytest_on

ROOT = Path(__file__).resolve().parents[2]


def test_the_tests_of_the_sign_up_pass(tmp_path):
    options = ("-o", "asyncio_mode=auto", "--basetemp", str(tmp_path / "files"))
    counts, said = pytest_on(ROOT, ROOT / "examples" / "signup", *options)
    assert counts == {"passed": 3}, said
