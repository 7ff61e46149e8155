"""A service with a step that takes memory until the kernel ends its process, once.

    /jobs      swallow (a line in a ledger outside, and all memory while the file GREED is there)
               → note (a row)

`EFFECTS` is the file of the outside world; `GREED` is removed by who is greedy. Out of a group with
a limit it takes no more than `BYTES_MAX`, and says so.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from msgspec import Struct

from outlive import NonRetryable, Outlive, Run, attempt, step

PIECE_BYTES = 4 << 20
BYTES_MAX = 1 << 30

app = Outlive(os.environ["OUTLIVE_STORE"])


class Job(Struct):
    name: str
    seconds: float = 0.0
    greedy: bool = False


@app.schema
def tables(db: Any) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS notes (name TEXT)")


@step
async def swallow(form: Job) -> str:
    with open(os.environ["EFFECTS"], "ab", buffering=0) as effects:  # noqa: ASYNC230
        effects.write(f"{attempt().key} {form.name} {os.getpid()}\n".encode())
    if form.greedy and os.path.exists(os.environ["GREED"]):
        os.unlink(os.environ["GREED"])
        pieces = []
        for _ in range(BYTES_MAX // PIECE_BYTES):
            pieces.append(b"g" * PIECE_BYTES)
            await asyncio.sleep(0)  # what others do goes on meanwhile, and dies with it
        raise NonRetryable(f"{len(pieces) * PIECE_BYTES} bytes were had, and nobody minded")
    await asyncio.sleep(form.seconds)
    return form.name


def note(db: Any, form: Job) -> str:
    db.execute("INSERT INTO notes VALUES (?)", (form.name,))
    return form.name


@app.process("/jobs", version=1, status_code=201, prefix="job")
async def job(run: Run, form: Job) -> str:
    await run(swallow, form)
    return await run.transact(note, form)


service = app.asgi()
