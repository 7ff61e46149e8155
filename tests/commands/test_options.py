"""Whatever is typed: one line that begins with `outlive:`, a code of 2 to 5, and no traceback.

Each verb is given too little, too much, unknown options, values of the wrong kind, huge ones, and
text that no encoding likes. A store that is not there stands behind, so what is typed well ends
with 5.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from outlive.commands import command_line, main

APART = {("serve",), ("dev",), ("demo",), ("openapi",)}
"""They run a program; what is wrong with its name is tried in their own tests."""
HUGE = "9" * 5000
STRANGE = ("", "-", "--bogus", "é" * 3000, HUGE, "[" * 2000, "a\nb\x1b[2J\u202e")
VALUES = (HUGE,)


def verbs(app: App, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that does something, by the words that name it."""
    for name in app:
        if name.startswith("-"):
            continue
        child = app[name]
        inner = [word for word in child if not word.startswith("-")]
        if inner:
            yield from verbs(child, (*before, name))
        elif (*before, name) not in APART:
            yield (*before, name)


VERBS = sorted(verbs(command_line()))


@pytest.fixture(autouse=True)
def nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.setenv("OUTLIVE_STORE", f"sqlite:///{tmp_path}/none.db")
    monkeypatch.setenv("OUTLIVE_CONTEXTS", str(tmp_path / "none.toml"))


def options(words: tuple[str, ...]) -> list[str]:
    app = command_line()
    for word in words:
        app = app[word]
    found = app.assemble_argument_collection(parse_docstring=False)
    return sorted({name for one in found for name in one.names if name.startswith("--")})


def typed(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for strange in STRANGE:
        yield (*words, strange)
    for strange in STRANGE[2:5]:
        yield (*words, "x", strange)
    yield words
    yield (*words, *["x"] * 40)
    for option in options(words):
        yield (*words, option)
        for value in VALUES:
            yield (*words, "x", option, value)


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_nothing_that_is_typed_shows_a_traceback(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for line in typed(words):
        try:
            code = main(list(line))
        except BaseException as error:
            pytest.fail(f"{line!r:.200} raised {error!r:.200}")
        told = capsys.readouterr()
        assert code in range(6), line
        assert "Traceback" not in told.err, line
        if code:
            (said,) = told.err.splitlines()
            assert said.startswith("outlive: "), line
            assert len(said) < 2000 and said.isprintable(), line


def test_every_noun_is_tried() -> None:
    assert {words[0] for words in VERBS} >= {"process", "node", "session", "db", "doctor"}
    assert len(VERBS) > 40


def test_bytes_that_are_no_text_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["process", "import", "\udcff"]) == 2
    assert (
        capsys.readouterr().err == "outlive: an argument is not text in UTF-8; nothing was done\n"
    )
