"""The sample keeps to its own description: checked from outside by schemathesis.

Every check it has: no 5xx, only described statuses, content types, headers and bodies, wrong data
refused, fitting data taken, undescribed methods refused, links followed in sequences.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from tests.crash.service import ROOT, Machine

EXAMPLES = 12
SEED = 20_261_122
LIMIT_SECONDS = 150


@pytest.mark.slow
async def test_the_sample_answers_as_described(machine: Machine) -> None:
    service = await machine.sign_up()
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("schemathesis")), "run"),
        *(f"{service.url}/openapi.json", "--checks", "all", "--no-color"),
        *("--max-examples", str(EXAMPLES), "--seed", str(SEED), "--request-timeout", "20"),
        cwd=machine.folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))),
            "SCHEMATHESIS_HOOKS": "tests.http.contract",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, said.decode()
    assert "Traceback" not in service.said()
    assert await service.end() == 0
