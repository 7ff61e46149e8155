"""outlive behind HTTP, as its documentation says: its ASGI application in uvicorn, on SQLite."""

from __future__ import annotations

import argparse

import uvicorn

from outlive import Outlive, Run, step

parser = argparse.ArgumentParser()
parser.add_argument("--store", required=True)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--steps", type=int, required=True)
given = parser.parse_args()
app = Outlive(given.store)


@step()
async def one(value: int) -> int:
    return value + 1


@app.process("/steps", version=1)
async def all_steps(run: Run, value: int) -> int:
    for _ in range(given.steps):
        value = await run(one, value)
    return value


uvicorn.run(app.asgi(), host="127.0.0.1", port=given.port, log_level="warning", access_log=False)
