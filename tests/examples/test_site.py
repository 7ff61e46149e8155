"""The manual as a whole: pages have their place, links lead somewhere, blocks are accounted for.

`make docs` builds the site and is strict about links too; this needs no generator. A fenced block
is run by some test (`RUN` says which), or its commands are given to the parser, or it stands in
`NOT_RUN` with the reason.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import CycloptsError
from tests.doors.manual import DOCS

from outlive.commands import command_line

ROOT = DOCS.parent
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "ARCHITECTURE.md"])
FENCE = re.compile(r"^( *)(```+)(\w*)\n(.*?)^\1\2 *$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(<?([^)\s>]+)>?\)")

RUN = {
    "adapters.md": "examples/test_pages.py",
    "breakers.md": "examples/test_pages.py",
    "caches.md": "examples/test_pages.py",
    "callbacks.md": "http/test_manual.py",
    "children.md": "doors/test_publishing.py",
    "control.md": "doors/test_controlling.py",
    "dashboard.md": "examples/test_pages.py",
    "events.md": "doors/test_publishing.py",
    "from-celery.md": "examples/test_pages.py",
    "from-dbos.md": "examples/test_pages.py",
    "from-temporal.md": "examples/test_pages.py",
    "limits.md": "doors/test_lines.py",
    "payloads.md": "stores/test_vault.py",
    "processes.md": "examples/test_pages.py",
    "ratelimits.md": "examples/test_pages.py",
    "requests.md": "examples/test_pages.py",
    "retention.md": "examples/test_pages.py",
    "search.md": "examples/test_pages.py",
    "sessions.md": "examples/test_pages.py",
    "simulation.md": "examples/test_pages.py",
    "synchronous.md": "doors/test_blocking.py",
    "telemetry.md": "test_logs.py",
    "testing.md": "testing/test_plugin.py",
    "transactions.md": "doors/test_within.py",
    "tutorial.md": "examples/test_tutorial.py",
    "updates.md": "http/test_manual.py",
    "versions.md": "testing/test_journals.py",
    "webhooks.md": "http/test_manual.py",
}
"""Pages whose Python programs are all run, and what runs them."""

NOT_RUN: dict[tuple[str, str], str] = {
    ("README.md", "from outlive import Outlive, Retry, Run, step"): (
        "the shape of examples/signup/app.py, which tests/examples runs; it must compile"
    ),
}
"""Blocks that nothing runs or parses: the page, the first words of the block, and why."""


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    for _, _, language, text in FENCE.findall(page.read_text("utf-8")):
        yield language, text


def commands(text: str) -> Iterator[str]:
    """The commands of `outlive` in a block, without what a shell does around them."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s\|\s|\s&&\s", re.sub(r"\s#\s.*", "", line).strip()):
            told = re.sub(r"^(\$ )?(\w+=\S+ )*(\.venv/bin/)?", "", part.strip())
            if told.startswith("outlive ") and not told.startswith("outlive ready"):
                yield re.sub(r"\s+[<>]\s*\S+$", "", told.removeprefix("outlive "))


def is_usage(command: str) -> bool:
    """Whether it describes a command (`[--limit 50]`, `ID … | FILE`) and is none itself."""
    return bool(re.search(r"[\[\]…]|\s\||\b[A-Z]{4,}\b|\s{3,}", command))


ALL = [(page.relative_to(ROOT).as_posix(), *block) for page in PAGES for block in blocks(page)]


def test_every_program_of_a_page_is_run_by_a_test() -> None:
    for page, language, text in ALL:
        name = Path(page).name
        if language != "python":
            continue
        compile(text, page, "exec")
        if (name, text.split("\n")[0]) in NOT_RUN:
            continue
        assert name in RUN, f"{page} has a program that nothing runs: {text[:60]!r}"
        assert re.match(r"# \S+\.py\n", text), f"a program of {page} has no name: {text[:60]!r}"
        test = ROOT / "tests" / RUN[name]
        assert name in test.read_text("utf-8"), f"{test} does not run {name}"


def test_a_reason_is_given_only_for_blocks_that_are_there() -> None:
    there = {(Path(page).name, text.split("\n")[0]) for page, _, text in ALL}
    assert set(NOT_RUN) <= there and all(NOT_RUN.values())


COMMANDS = sorted(
    {
        (page, command)
        for page, language, text in ALL
        if language in ("", "console", "sh", "bash", "text")
        for command in commands(text)
        if "reference/" not in page and not is_usage(command)
    }
)


@pytest.mark.parametrize("page", sorted({page for page, _ in COMMANDS}))
def test_the_commands_of_a_page_are_ones_that_the_parser_takes(page: str) -> None:
    line = command_line()
    for _, command in (one for one in COMMANDS if one[0] == page):
        words = shlex.split(re.sub(r"\$\(.*?\)|\$\w+", "x", command))
        try:
            line.parse_args(words, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            pytest.fail(f"{page}: outlive {command}: {error}")


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page make."""
    text = FENCE.sub("", page.read_text("utf-8"))
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.add(re.sub(r"[^\w\s-]", "", plain).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{link}: there is no {target}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: no heading of {target.name} is {anchor}"


def test_every_page_has_its_place_in_the_site() -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    placed = re.findall(r"[\w./-]+\.md", text.partition("\nnav:")[2])
    there = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(placed) == sorted(there), "nav of mkdocs.yml: each page of docs/ once"


def test_every_picture_is_shown_somewhere() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    for picture in (DOCS / "images").iterdir():
        assert f"images/{picture.name}" in text, picture.name
