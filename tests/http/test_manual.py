"""The programs of the pages about telling, run as they are printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.doors.manual import written_out

ROOT = Path(__file__).resolve().parents[2]
SECRETS = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw whsec_b29vb29vb29vb29vb29vb29vb29vb29v"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (
            "updates.md",
            [
                "we do not ship there",
                "Oak Street, NZ True",
                "['ELM STREET, NZ', 'OAK STREET, NZ']",
                "250 g to Oak Street, NZ",
            ],
        ),
        ("callbacks.md", ["taken", "replayed", "clean"]),
        ("webhooks.md", ["hello Ada True", "…"]),
    ],
)
def test_a_page_does_what_it_says(page: str, said: list[str], tmp_path: Path) -> None:
    _, last = written_out(page, tmp_path)
    ran = subprocess.run(
        [sys.executable, last],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "src"),
            "PYTHONUTF8": "1",
            "WEBHOOK_SECRETS": SECRETS,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout.splitlines() == said, ran.stderr
