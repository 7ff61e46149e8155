"""The examples' own tests, run as their reader runs them."""

from pathlib import Path

from tests.testing.projects import pytest_on

ROOT = Path(__file__).resolve().parents[2]


def test_the_tests_of_the_sign_up_pass(tmp_path):
    options = ("-o", "asyncio_mode=auto", "--basetemp", str(tmp_path / "files"))
    counts, said = pytest_on(ROOT, ROOT / "examples" / "signup", *options)
    assert counts == {"passed": 3}, said


def test_the_tests_of_the_orders_pass(tmp_path):
    options = ("-o", "asyncio_mode=auto", "--basetemp", str(tmp_path / "files"))
    counts, said = pytest_on(ROOT, ROOT / "examples" / "orders", *options)
    assert counts == {"passed": 5}, said


def test_the_tests_of_the_shop_pass(tmp_path):
    options = ("-o", "asyncio_mode=auto", "--basetemp", str(tmp_path / "files"))
    counts, said = pytest_on(ROOT, ROOT / "examples" / "shop", *options)
    assert counts == {"passed": 6}, said
