"""The command line as a whole: how it ends when it is misused."""

import subprocess
import sys

import pytest

from outlive.commands import main


def test_an_unknown_command_is_misuse_and_names_the_nearest(capsys):
    assert main(["srve"]) == 2
    assert '"serve"' in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["serve"], ["explain", "a", "b"], ["version", "-o", "xml"]])
def test_misuse_is_one_line_and_2(arguments, capsys):
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("outlive: ")


def test_help_is_not_an_error(capsys):
    assert main(["--help"]) == 0
    assert "serve" in capsys.readouterr().out


def test_a_reader_that_leaves_early_is_no_traceback():
    command = f"{sys.executable} -m outlive.commands explain | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("OL0000")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_was_given_closed_is_no_traceback(closed):
    command = f"{sys.executable} -m outlive.commands explain {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_a_word_too_many_is_misuse_and_says_where_to_look(capsys):
    assert main(["doctor", "shop:app"]) == 2
    said = capsys.readouterr().err
    assert "shop:app: more than the command takes; nothing was done (--help says" in said
