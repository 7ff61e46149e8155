"""What is wanted is decided once, and OpenTelemetry is not imported for nothing."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, sys
from outlive import Outlive, Run

app = Outlive("memory://")

@app.process("/things", version=1)
async def thing(run: Run) -> int:
    return 1

async def main():
    async with app:
        assert await (await app.start(thing)).result() == 1
        assert app._telemetry is None

asyncio.run(main())
print(any(name.startswith("opentelemetry") for name in sys.modules))
"""


def test_a_program_that_does_not_use_opentelemetry_does_not_load_it() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert ran.stdout == "False\n", ran.stderr
