"""What completes commands, in a shell that is there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from outlive.commands import main

ASK = """
source completion.sh
complete_words() {
    COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
    "$(complete -p outlive | sed 's/.*-F \\([^ ]*\\) .*/\\1/')"
    printf '%s\\n' "${COMPREPLY[@]}"
}
"""


def completed(folder: Path, *words: str) -> list[str]:
    typed = " ".join(f"'{word}'" for word in words)
    script = f"{ASK}complete_words outlive {typed}\n"
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


def test_bash_completes_nouns_verbs_and_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "completion.sh").write_text(capsys.readouterr().out)
    assert completed(tmp_path, "sess") == ["session"]
    assert {"list", "cancel", "fork"} <= set(completed(tmp_path, "process", ""))
    assert "--reason" in completed(tmp_path, "session", "revoke", "--re")
    assert {"table", "json", "ids", "csv"} <= set(completed(tmp_path, "node", "list", "-o", ""))


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_a_script_for_each_shell_is_one_that_the_shell_can_read(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "breaker" in script and "invalidate" in script
    if shutil.which(shell):  # fish and zsh are on few machines; bash is asked above
        (tmp_path / "script").write_text(script)
        done = subprocess.run(
            [shell, "-n", "script"], cwd=tmp_path, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr


def test_another_shell_is_misuse() -> None:
    assert main(["completion", "tcsh"]) == main(["completion"]) == 2
