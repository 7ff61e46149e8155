"""Where services elsewhere are written down, and what is refused before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from outlive.commands import main
from outlive.commands.contexts import context_of, place
from outlive.commands.exits import CommandFailed

TOKEN = "a-token-of-sixteen"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def written(text: str, mode: int = 0o600) -> Path:
        path = tmp_path / "contexts.toml"
        path.write_text(text)
        path.chmod(mode)
        monkeypatch.setenv("OUTLIVE_CONTEXTS", str(path))
        return path

    return written


def test_a_token_is_read_from_a_file_beside_or_the_environment_and_is_not_shown(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        '[a]\nurl = "https://a.example/shop/"\ntoken_file = "a.token"\n[b]\n'
        'url = "http://localhost:8000"\ntoken_env = "B_TOKEN"\n[c]\nurl = "http://[::1]:8000"\n'
    )
    (tmp_path / "a.token").write_text(f"{TOKEN}\n")
    (tmp_path / "a.token").chmod(0o600)
    monkeypatch.setenv("B_TOKEN", TOKEN)
    found = context_of("a")
    assert (found.url, found.token) == ("https://a.example/shop", TOKEN)
    assert TOKEN not in repr(found)
    assert context_of("b").token == TOKEN and context_of("c").token == ""


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o666])
def test_a_file_that_others_can_read_is_not_used(
    mode: int, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write('[a]\nurl = "http://127.0.0.1:1"\n', mode)
    assert main(["node", "list", "--context", "a"]) == 4
    assert "chmod 600" in capsys.readouterr().err


def test_a_file_of_a_token_that_others_can_read_is_not_used(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    write('[a]\nurl = "https://a.example"\ntoken_file = "a.token"\n')
    (tmp_path / "a.token").write_text(TOKEN)
    (tmp_path / "a.token").chmod(0o644)
    with pytest.raises(CommandFailed, match="chmod 600"):
        context_of("a")


WRONG = {
    "another machine by http": ('url = "http://shop.example"', "must be https"),
    "a name that begins like this machine": ('url = "http://127.0.0.1.example"', "must be https"),
    "a token in the address": ('url = "https://ann:secret@shop.example"', "more than a host"),
    "no address": ('token = "x"', "must be https://HOST"),
    "no host": ('url = "https://"', "must be https://HOST"),
    "a port that is none": ('url = "https://h:99999999"', "must be https://HOST"),
    "another scheme": ('url = "file:///etc/passwd"', "must be https://HOST"),
    "an unknown member": ('url = "https://h"\npassword = "x"', "'password' is not known"),
    "a number": ("url = 3", "must be a text"),
    "two tokens": ('url = "https://h"\ntoken = "a"\ntoken_env = "B"', "not more"),
    "a token of two lines": ('url = "https://h"\ntoken = "a\\nHost: x"', "one word of ASCII"),
    "a variable that is not set": ('url = "https://h"\ntoken_env = "NOT_SET_AT_ALL"', "is not set"),
    "a file that is not there": ('url = "https://h"\ntoken_file = "gone"', "is not at"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_what_is_wrong_with_a_context_is_one_line(
    name: str, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text, said = WRONG[name]
    write(f"[it]\n{text}\n")
    assert main(["node", "list", "--context", "it"]) in (2, 3, 4)
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("outlive: ") and said in line and "secret" not in line
    assert main(["context", "list"]) == 0  # one that is wrong hides no other
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[a", "a = 3", "\x00"])
def test_a_file_that_is_no_list_of_contexts_is_misuse(
    text: str, write: Callable[..., Path]
) -> None:
    write(text)
    assert main(["context", "list"]) == 2


def test_a_file_or_a_context_that_is_not_there_says_where_it_was_looked_for(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write('[a]\nurl = "https://a.example"\n')
    assert main(["node", "list", "--context", "b"]) == 3
    assert "there are: a" in capsys.readouterr().err
    path.unlink()
    assert main(["node", "list", "--context", "a"]) == 3
    monkeypatch.delenv("OUTLIVE_CONTEXTS")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")
    assert place() == Path("/nowhere/outlive/contexts.toml")


def test_a_store_and_a_context_are_not_both_taken(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write('[a]\nurl = "http://127.0.0.1:1"\n')
    assert main(["node", "list", "--context", "a", "--store", "sqlite:///x.db"]) == 2
    monkeypatch.setenv("OUTLIVE_CONTEXT", "a")
    monkeypatch.setenv("OUTLIVE_STORE", "sqlite:///x.db")
    assert main(["node", "list"]) == 2
    assert "both set" in capsys.readouterr().err
    monkeypatch.delenv("OUTLIVE_STORE")
    assert main(["node", "list"]) == 5  # nobody listens there
    assert "does not answer" in capsys.readouterr().err


def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    monkeypatch.setenv("OUTLIVE_CONTEXTS", str(tmp_path / "pipe"))
    assert main(["context", "list"]) == 2
