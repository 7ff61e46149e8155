"""The tutorial, typed as it is printed, in a fresh clone of the repository.

Every `console` block of docs/tutorial.md is typed, line by line, into one shell; what starts a
service gets a terminal of its own. What is printed is compared: `…` stands for anything within a
line, a line of `…` for any lines. The program of the page is saved under the name it has there.

Two things differ from what a reader does. Ports: 8000, 8001 and 8002 are free ones here, in what is
typed and in what is compared, and `make` is told the first by PORT. And the environment: building
one takes a minute and the network, so `.venv` is made here of the packages of the environment that
runs the tests, with the clone's own `src` before them, and marked as ready; `make` takes it as it
takes one that it has made. With OUTLIVE_TUTORIAL=whole `make` builds it, as a reader's does; where
that takes longer than a test may, add `-o faulthandler_timeout=1200`.

The clone is of the last commit: what is not committed is not tried.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(
    r"^```console\n(.*?)^```|^```python\n# (\S+)\n(.*?)^```", re.DOTALL | re.MULTILINE
)
SERVICES = ("make run", ".venv/bin/outlive serve")
DEADLINE_SECONDS = 120.0
WHOLE_SECONDS = 1000.0
END = "--- typed ---"


def pattern(lines: list[str]) -> re.Pattern[str]:
    """What is printed, as an expression."""
    parts = [
        r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", r".*") + r"[ \t]*\n"
        for line in lines
    ]
    return re.compile("".join(parts))


class Terminal:
    """A shell in the folder of the clone."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"], cwd=folder, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def type(self, command: str) -> str:
        """Run one line; gives what it has printed."""
        assert self.shell.stdin and self.shell.stdout
        self.shell.stdin.write(f"{command}\nprintf '\\n%s\\n' '{END}'\n".encode())
        self.shell.stdin.flush()
        said, end = b"", time.monotonic() + DEADLINE_SECONDS
        while f"\n{END}\n".encode() not in said:
            ready, _, _ = select.select([self.shell.stdout], [], [], end - time.monotonic())
            assert ready, f"{command}: no end within {DEADLINE_SECONDS:g} s, after {said!r}"
            part = os.read(self.shell.stdout.fileno(), 65_536)
            assert part, f"{command}: the shell has ended, after {said!r}"
            said += part
        printed = said.decode().replace("\r", "").partition(f"\n{END}\n")[0]
        return printed.rstrip("\n") + "\n" if printed else ""

    def end(self) -> None:
        assert self.shell.stdin
        self.shell.stdin.close()
        self.shell.wait(DEADLINE_SECONDS)
        if self.shell.stdout:
            self.shell.stdout.close()


class Service:
    """What is typed into a terminal of its own and goes on."""

    def __init__(self, folder: Path, command: str, environment: dict[str, str]) -> None:
        self.said = folder / f"terminal-{len(list(folder.glob('terminal-*')))}"
        with self.said.open("w") as out:
            self.process = subprocess.Popen(
                ["bash", "--norc", "--noprofile", "-c", f"exec {command}"], cwd=folder,
                env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def prints(self, wanted: re.Pattern[str], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not wanted.match(self.said.read_text()):
            said = self.said.read_text()
            assert self.process.poll() is None, f"it ended: {said}"
            assert time.monotonic() < end, f"{wanted.pattern!r} was not printed; but {said}"
            time.sleep(0.05)

    def end(self) -> None:
        """Ctrl-C, as the tutorial says: to everything that was started in this terminal."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(DEADLINE_SECONDS)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tutorial") / "outlive"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, folder], check=True, timeout=120)
    if os.environ.get("OUTLIVE_TUTORIAL") != "whole":
        borrow(folder / ".venv", folder / "src")
    return folder


def borrow(venv: Path, source: Path) -> None:
    """An environment at `venv` with the packages of the running one, and `source` before them."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(venv)]
    subprocess.run(command, check=True, timeout=120)
    packages = next(venv.glob("lib/python3.*/site-packages"))
    shared = sysconfig.get_path("purelib")
    (packages / "0.pth").write_text(f"{source}\nimport site; site.addsitedir({shared!r})\n")
    script = venv / "bin" / "outlive"
    said = "import sys\nfrom outlive.commands import main\nsys.exit(main())\n"
    script.write_text(f"#!{venv}/bin/python\n{said}")
    script.chmod(0o755)
    (venv / ".ready").touch()


def typed() -> Iterator[tuple[str, str, list[str]]]:
    """What is typed, with the lines that are printed; a program with its name and its text."""
    for block, name, program in BLOCK.findall(PAGE.read_text("utf-8")):
        if name:
            yield "save", name, [program]
            continue
        command, printed = "", list[str]()
        for line in block.splitlines():
            if line.startswith("$ "):
                if command:
                    yield "type", command, printed
                command, printed = line[2:], []
            else:
                assert command, f"a block of the tutorial begins with what is printed: {line}"
                printed.append(line)
        yield "type", command, printed


@pytest.mark.slow
@pytest.mark.crash
def test_the_tutorial_prints_what_it_says(clone: Path) -> None:
    ports = {"8000": free_port(), "8001": free_port(), "8002": free_port()}
    kept = {"HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHON", "TMPDIR"}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in kept or name.startswith("PIP_") or name.lower().endswith("_proxy")
    }
    environment |= {"PORT": str(ports["8000"]), "PYTHON": sys.executable}

    def here(text: str) -> str:
        return re.sub(r"\b800[012]\b", lambda found: str(ports[found[0]]), text)

    whole = os.environ.get("OUTLIVE_TUTORIAL") == "whole"
    terminal, services = Terminal(clone, environment), list[Service]()
    try:
        for what, text, printed in typed():
            if what == "save":
                (clone / text).write_text(printed[0])
                continue
            wanted = pattern([here(line) for line in printed])
            if text.startswith(SERVICES):
                services.append(Service(clone, here(text), environment))
                services[-1].prints(wanted, WHOLE_SECONDS if whole else DEADLINE_SECONDS)
                continue
            said = terminal.type(here(text))
            assert wanted.fullmatch(said), f"$ {text}\nprinted\n{said}\nand not\n" + "\n".join(
                printed
            )
    finally:
        terminal.end()
        for service in services:
            service.end()
    assert [service.process.returncode for service in services][1:] == [0], "Ctrl-C ends in order"
    shutil.rmtree(clone)


def test_there_is_a_service_a_kill_and_a_program_to_try() -> None:
    commands = [text for what, text, _ in typed() if what == "type"]
    assert sum(text.startswith(SERVICES) for text in commands) == 2
    assert sum(text.startswith("kill -9 ") for text in commands) == 2
    assert [text for what, text, _ in typed() if what == "save"] == ["hello.py"]
