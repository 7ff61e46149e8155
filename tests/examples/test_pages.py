"""What the pages print is what their programs say."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.doors.manual import written_out
from tests.doors.programs import program

SAID = {
    ("from-celery.md", "albums.py"): "Ada: 2 images, key True",
    ("from-dbos.md", "checkout.py"): "tea for 3",
    ("from-temporal.md", "onboarding.py"): "account of Ada, signed A.",
    ("processes.md", "accounts.py"): "Ada {",
    ("processes.md", "trips.py"): "2 tickets, vegetarian: False ['bus', 'guide', 'museum', "
    "'seat beside 13', 'train']",
}


@pytest.mark.parametrize(("page", "name"), SAID, ids=lambda word: word.partition(".")[0])
def test_a_program_of_a_page_says_what_it_should(page: str, name: str, tmp_path: Path) -> None:
    assert name in written_out(page, tmp_path)
    with program("memory://", name, folder=tmp_path) as running:
        said, _ = running.communicate(timeout=120)
    assert running.returncode == 0 and said.startswith(SAID[page, name]), said
