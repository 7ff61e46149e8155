"""How long a leaving instance gets, what it is called, and what is filled into a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from outlive.commands.exits import FORBIDDEN, CommandFailed
from outlive.commands.generating.facts import grace_of, name_of
from outlive.commands.generating.files import rendered, write
from outlive.commands.generating.grafana import dashboard
from outlive.commands.generating.watching import ALERTS, PANELS, for_job
from outlive.commands.worker import DRAIN_SHARE
from outlive.doors.declared import Declared, DeclaredStep, DeclaredType


def declared(*steps: DeclaredStep) -> Declared:
    return Declared((DeclaredType("order", (1,), "/orders", steps, ()),), {})


@pytest.mark.parametrize("timeout", [0.1, 17, 30, 100.5, 2000])
def test_the_longest_step_fits_into_the_part_of_the_grace_time_that_steps_get(timeout) -> None:
    grace, why = grace_of(declared(DeclaredStep("a", 0.05), DeclaredStep("print", timeout)))
    assert 20 <= grace <= 3600 and grace * DRAIN_SHARE >= timeout
    assert f"{timeout:g} s (print)" in why and "Without a limit" not in why


def test_a_step_longer_than_any_grace_time_and_one_without_a_limit_are_named() -> None:
    grace, why = grace_of(declared(DeclaredStep("film", 7200), DeclaredStep("cut")))
    assert grace == 3600 and "cut off, and run again" in why and "Without a limit: cut." in why
    many = declared(*(DeclaredStep(f"s{number}") for number in range(9)))
    grace, why = grace_of(many)
    assert grace == 20 and why.startswith("No step has a time limit") and "and 4 more" in why


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("shop:app", "shop"),
        ("shop.web:service", "shop"),
        ("My_Shop.main:app", "my-shop"),
        ("app:app", "app"),
        ("_9lives:app", "lives"),
        ("v2:app", "v2"),
        ("a.b.c_d:x", "c-d"),
    ],
)
def test_a_service_is_named_by_the_telling_part_of_its_module(target, name) -> None:
    assert name_of(target) == name


def test_a_fact_that_is_missing_is_an_error_and_not_a_gap() -> None:
    with pytest.raises(UndefinedError):
        rendered("deploy/compose.yaml.jinja", {"target": "shop:app"})


def test_nothing_is_written_when_one_of_them_is_there(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(CommandFailed) as refused:
        list(write(tmp_path, {"a": "1", "b": "2"}, force=False))
    assert refused.value.code == FORBIDDEN and not (tmp_path / "a").exists()
    assert len(list(write(tmp_path, {"a": "1", "b": "2"}, force=True))) == 2
    with pytest.raises(CommandFailed, match="cannot be written"):
        list(write(tmp_path / "b", {"c": "1"}, force=True))


def test_what_is_there_stays_whole_when_the_new_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text = Path.write_text

    def full(path: Path, text: str, encoding: str) -> None:
        write_text(path, text[:1], encoding)
        if text == "new b":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in "ab":
        (tmp_path / name).write_text(f"mine {name}")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CommandFailed, match=r"b cannot be written: No space left"):
        list(write(tmp_path, {"a": "new a", "b": "new b"}, force=True))
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"a": "mine a", "b": "mine b"}


def test_a_file_that_is_written_over_keeps_its_rights_and_a_link_its_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    (tmp_path / "a").chmod(0o600)
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").mkdir()
    with pytest.raises(CommandFailed, match="c cannot be written: Is a directory"):
        list(write(tmp_path, {"b": "2", "c": "3"}, force=True))
    assert list(write(tmp_path, {"b": "2"}, force=True)) == [str(tmp_path / "b")]
    assert (tmp_path / "b").is_symlink() and (tmp_path / "a").read_text() == "2"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}


def test_panels_do_not_lie_upon_each_other_and_are_numbered() -> None:
    panels = dashboard("shop")["panels"]
    assert len(panels) == len(PANELS)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels) == len({panel["id"] for panel in panels})


def test_every_expression_is_of_one_job() -> None:
    for expr in (*(alert.expr for alert in ALERTS), *(e for p in PANELS for _, e in p.lines)):
        assert "$job" in expr and "$job" not in for_job(expr, "shop")


def test_a_link_that_leads_nowhere_yet_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CommandFailed, match="nothing was written"):
        list(write(tmp_path, {"a": "1"}, force=False))
    assert not (tmp_path / "elsewhere").exists()
