"""A service of Restate as its documentation says: served by Hypercorn, called by Restate's server.

Run by `bench/over_http.py` in `bench/.venv-restate`. Hypercorn's limits on streams and requests of
a connection are lifted, as the documentation asks for.
"""

from __future__ import annotations

import argparse
import asyncio
import logging

import restate
from hypercorn.asyncio import serve
from hypercorn.config import Config

UNLIMITED = 2**31 - 1
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--steps", type=int, required=True)
given = parser.parse_args()
service = restate.Service("Steps")


async def one(value: int) -> int:
    return value + 1


@service.handler()
async def run(ctx: restate.Context, value: int) -> int:
    for _ in range(given.steps):
        value = await ctx.run_typed("one", one, value=value)
    return value


config = Config()
config.bind = [f"127.0.0.1:{given.port}"]
config.h2_max_concurrent_streams = UNLIMITED
config.keep_alive_max_requests = UNLIMITED
config.keep_alive_timeout = UNLIMITED
logging.disable(logging.WARNING)
asyncio.run(serve(restate.app(services=[service]), config))
