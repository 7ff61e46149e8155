"""A store is looked at, and never made by looking."""

import pytest

from outlive.commands.client import address_of
from outlive.commands.exits import CommandFailed


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OUTLIVE_STORE", raising=False)


def test_the_address_is_the_option_then_the_environment_then_the_usual_place(tmp_path, monkeypatch):
    for name in ("a.db", "b.db", ".outlive/store.db"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert address_of(None) == "sqlite:///.outlive/store.db"
    monkeypatch.setenv("OUTLIVE_STORE", "sqlite:///b.db")
    assert address_of(None) == "sqlite:///b.db"
    assert address_of("sqlite:///a.db") == "sqlite:///a.db"


def test_a_store_that_does_not_exist_is_an_error_and_is_not_made(tmp_path):
    with pytest.raises(CommandFailed, match=r"no store at \.outlive/store\.db") as failure:
        address_of(None)
    assert failure.value.code == 5
    assert list(tmp_path.iterdir()) == []


def test_a_store_in_memory_cannot_be_looked_at_from_outside():
    with pytest.raises(CommandFailed, match="its own process only"):
        address_of("memory://")
