"""The least that is honest: asyncpg, a pool, one transaction for each step.

This is what a careful service writes by hand: a row for the process, a row for each step, a commit
after each. It has no retries, no recovery and no owner: a yardstick, not a rival.
"""

from __future__ import annotations

import asyncpg
import uvloop

from measure import arguments, engine_of, report, run_all

CONNECTIONS_MAX = 16
SCHEMA = """
CREATE TABLE IF NOT EXISTS process (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, status text, result bigint
);
CREATE TABLE IF NOT EXISTS step (
    process bigint, n integer, result bigint, PRIMARY KEY (process, n)
);
"""
BEGUN = "INSERT INTO process (status) VALUES ('running') RETURNING id"
DONE = "UPDATE process SET status = 'done', result = $1 WHERE id = $2"
given = arguments()


async def one(value: int) -> int:
    return value + 1


async def perform() -> None:
    connections = min(given.concurrency, CONNECTIONS_MAX)
    async with asyncpg.create_pool(given.store, min_size=connections, max_size=connections) as pool:

        async def through(number: int) -> int:
            made = await pool.fetchval(BEGUN)
            value = number
            for n in range(given.steps):
                value = await one(value)
                await pool.execute("INSERT INTO step VALUES ($1, $2, $3)", made, n, value)
            await pool.execute(DONE, value, made)
            return value

        await pool.execute(SCHEMA)
        if given.processes:
            await through(-1 - given.steps)
            meter = await run_all(given, through)
            report("naive asyncpg", engine_of(given.store), given, meter)


uvloop.run(perform())
