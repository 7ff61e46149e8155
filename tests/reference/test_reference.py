"""The pages of docs/reference are as they would be written now."""

from __future__ import annotations

import pytest
from tests.reference.pages import FOLDER, PAGES


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_of_reference_is_up_to_date(name: str) -> None:
    written = (FOLDER / name).read_text("utf-8")
    assert PAGES[name]() == written, "write it anew: python -m tests.reference"


def test_every_page_of_reference_is_written_by_something() -> None:
    assert {path.name for path in FOLDER.glob("*.md")} == set(PAGES)


def test_the_pages_say_what_is_there() -> None:
    said = {name: (FOLDER / name).read_text("utf-8") for name in PAGES}
    assert "### outlive process cancel" in said["cli.md"] and "`--reason" in said["cli.md"]
    assert "## OL2004 past-pivot" in said["errors.md"] and "OL4001" in said["errors.md"]
    assert "outlive_processes_started" in said["metrics.md"]
    assert "POST /registrations/{id}/cancel" in said["http-api.md"]
    assert "::: outlive.app.Outlive\n" in said["api.md"]
