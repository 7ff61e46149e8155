"""Sign-ups that wait on SQLite end on PostgreSQL, also when service and move were killed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import apsw
import httpx
import pytest
from tests.crash.service import ROOT, Machine, until
from tests.stores.servers import session_at

from outlive import ids
from outlive.stores.moving import check, place_at

SIGN_UPS = 6


async def sign_up(http: httpx.AsyncClient, number: int) -> str:
    form = {"firstName": "Ada", "lastName": f"N{number}", "email": f"n{number}@example.org"}
    answer = await http.post("/registrations", json=form)
    assert answer.status_code in (201, 202), answer.text
    return str(answer.json()["id"])


async def reaches(http: httpx.AsyncClient, id: str, status: str) -> None:
    async def look() -> bool:
        answer = await http.get(f"/registrations/{id}")
        return answer.status_code == 200 and answer.json()["status"] == status

    await until(look, f"{id} is {status}")


async def moves(old: str, new: str, *, killed_at: str = "") -> int:
    """`outlive db move`; killed with -9 once it says `killed_at`. Gives how it ended."""
    moving = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "outlive.commands", "db", "move", old, new,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert moving.stderr is not None
    said = ""
    while line := (await moving.stderr.readline()).decode():
        said += line
        if killed_at and killed_at in line:
            moving.kill()
    code = await moving.wait()
    assert code == (-9 if killed_at else 0), said
    return code


async def carry_own_table(file: Path, postgres: str) -> None:
    """What is not the store's is carried by whoever made it."""
    with apsw.Connection(str(file)) as db:
        rows = list(db.execute("SELECT id, email, state FROM users"))
    db.close()
    async with session_at(postgres) as session:
        await session.execute("DROP TABLE IF EXISTS users")
        await session.execute("CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT, state TEXT)")
        await session.executemany("INSERT INTO users VALUES ($1, $2, $3)", rows)


@pytest.mark.crash
@pytest.mark.slow
async def test_sign_ups_that_wait_on_sqlite_end_on_postgres(
    machine: Machine, postgres: str
) -> None:
    old, new = f"sqlite:///{machine.store}", f"{postgres}?schema=store_{ids.token(40)}"
    service = await machine.sign_up()
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:
        waiting = [await sign_up(http, number) for number in range(SIGN_UPS)]
        for id in waiting:
            await reaches(http, id, "waiting")
    service.kill_all()
    await moves(old, new, killed_at="copying events")
    await moves(old, new)
    await carry_own_table(machine.store, postgres)
    assert machine.partner is not None
    environment = {"OUTLIVE_STORE": new, "PARTNER_URL": machine.partner.url}
    ported = await machine.serve("tests.crash.ported:app", **environment)
    async with httpx.AsyncClient(base_url=ported.url, timeout=60) as http:
        for id in waiting:
            await reaches(http, id, "waiting")
            answer = await http.post(f"/registrations/{id}/signals/confirmed", json={})
            assert answer.status_code == 202, answer.text
        for id in waiting:
            await reaches(http, id, "done")
        late = await sign_up(http, SIGN_UPS)
        await reaches(http, late, "waiting")
    for kind in ("customer", "mail"):
        effects = await machine.partner.effects(kind)
        assert len(effects) == SIGN_UPS + 1
        assert all((effect.count, effect.undone) == (1, False) for effect in effects), effects
    async with session_at(postgres) as session:
        states = dict(await session.fetch("SELECT id, state FROM users"))
    assert states == {**dict.fromkeys(waiting, "active"), late: "pending"}
    assert await ported.end() == 0
    async with place_at(new) as place:
        assert (await check(place, lambda *_: None)).faults == ()
