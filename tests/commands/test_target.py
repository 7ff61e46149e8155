"""MODULE:APP finds what a person means, or says in one line why not."""

import sys
from pathlib import Path

import pytest

from outlive.commands.exits import CommandFailed
from outlive.commands.target import behind, face, load


class Service:
    """What looks like an Outlive."""

    store_address = "memory://"
    phase = "new"

    def asgi(self):
        return Face(self)

    async def drain(self, grace_seconds=20.0):
        pass


class Face:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        pass


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_the_current_folder_is_looked_into_first(folder):
    Path("corner_shop_of_a_test.py").write_text("class inside:\n    app = print\n")
    assert load("corner_shop_of_a_test:inside.app") is print
    del sys.modules["corner_shop_of_a_test"]


@pytest.mark.parametrize("code", ["", "0", "3", "'bye'"])
def test_a_module_that_ends_the_program_does_not_load(folder, code):
    Path("script_of_a_test.py").write_text(f"import sys\n\nsys.exit({code})\n")
    with pytest.raises(CommandFailed, match=r"does not load: SystemExit: .*line 3\)") as failure:
        load("script_of_a_test:app")
    assert failure.value.code == 2


@pytest.mark.parametrize("target", ["", "shop", "shop:", ":app"])
def test_half_a_name_is_misuse(target, folder):
    with pytest.raises(CommandFailed, match="write MODULE:APP") as failure:
        load(target)
    assert failure.value.code == 2


def test_a_missing_parent_package_is_a_missing_module(folder):
    with pytest.raises(CommandFailed, match=r"there is no module 'no_such_parent\.shop'"):
        load("no_such_parent.shop:app")


def test_a_service_gives_its_face_and_itself():
    service = Service()
    app, found = face(service)
    assert isinstance(app, Face)
    assert found is service


def test_the_service_is_seen_through_middleware():
    service = Service()
    assert behind(Face(Face(service))) is service
    assert behind(Face(print)) is None
    assert face(print) == (print, None)
