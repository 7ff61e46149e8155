"""A store is looked at, and never made by looking."""

import asyncio
import sys

import pytest

from outlive import Outlive
from outlive.commands import main
from outlive.commands.client import Where, address_of, ask
from outlive.commands.exits import CommandFailed


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTLIVE_STORE", "")  # as it was, also when a command has set it


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


def test_a_file_is_found_however_its_address_is_written(tmp_path):
    (tmp_path / "my store.db").touch()
    assert address_of("sqlite:///my%20store.db")
    with pytest.raises(CommandFailed, match=r"no store at nothing\.db"):
        address_of("SQLITE:///nothing.db")


def test_an_address_that_is_no_url_is_left_to_who_opens_it(capsys):
    assert main(["process", "list", "--store", "postgresql://[::1/db"]) == 5
    assert "no URL" in capsys.readouterr().err


@pytest.fixture
def app_with_a_store_of_its_own(tmp_path):
    """`MODULE:APP` of an app on `own.db`; beside it there is a store `other.db`."""
    for name in ("own", "other"):
        asyncio.run(made(f"sqlite:///{name}.db"))
    (tmp_path / "an_own_store.py").write_text(
        "from outlive import Outlive\n\napp = Outlive('sqlite:///own.db')\n"
    )
    yield "an_own_store:app"
    sys.modules.pop("an_own_store", None)
    sys.path.remove(str(tmp_path))


async def made(address):
    async with Outlive(address):
        pass


async def place(app):
    return app.store_address


def test_an_app_that_names_its_store_is_asked_there(app_with_a_store_of_its_own):
    assert ask(None, place, app_with_a_store_of_its_own) == "sqlite:///own.db"


def test_an_app_that_names_its_store_is_not_asked_in_the_place_of_another(
    app_with_a_store_of_its_own, tmp_path
):
    with pytest.raises(CommandFailed, match="names a store of its own") as failure:
        ask(Where("sqlite:///other.db"), place, app_with_a_store_of_its_own)
    assert failure.value.code == 2
    same = Where(f"sqlite:///{tmp_path}/own.db")
    assert ask(same, place, app_with_a_store_of_its_own) == "sqlite:///own.db"
