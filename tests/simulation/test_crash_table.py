"""The crash table: what the next instance must see after a death at any point, on both databases.

    death                                  found as                          the row of the test
    before the start's commit              nothing; the client's retry starts it once     1-before
    after it, before the answer            the process; the retry gets the same one        1-after
    before or during a step's call,        the step runs again with the same key: one      step,
      or after its effect                  effect at an outside that deduplicates            before
    after the step's commit                its result; it is not run again           step, after
    while it waits                         nothing in memory was needed              wait, after
    during an undo                         it runs again with the same key;         undone, before
                                           finished ones do not                      undone, after
    after the final commit, before         its end                                    ended, after
      the answer

Every commit there is, before and after it; on SQLite, where it is quick, also at every commit of
the recovery. One row needs a real process, and stands in tests/crash: an owner that is frozen and
wakes after a take-over.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from outlive import NonRetryable, Outlive, Retry, Run, Unknown, attempt, step
from outlive.testing.killing import KillEverywhere, Outcome

asked: Counter[str] = Counter()
"""How often the outside was asked with a key."""
effects: dict[str, str] = {}
"""What it did, once for each key."""


def do(what: str) -> str:
    asked[attempt().key] += 1
    effects.setdefault(attempt().key, what)
    return what


@step(undo="close")
async def open_account(name: str) -> str:
    return do(f"open {name}")


async def close(name: str, made: str | Unknown) -> None:
    do(f"close {name}")


@step(retry=Retry(attempts=3, base_seconds=1.0), undo="unsend")
async def send(name: str) -> str:
    """Its first attempt fails behind its effect."""
    do(f"send {name}")
    if attempt().number == 1:
        raise ConnectionError("the answer was lost")
    return name


async def unsend(name: str, made: str | Unknown) -> None:
    do(f"unsend {name}")


@step
async def activate(name: str) -> str:
    if name == "refused":
        raise NonRetryable("no")
    return do(f"activate {name}")


async def sign_up(run: Run, name: str) -> str:
    await run(open_account, name)
    await run(send, name)
    await run.sleep(60)
    await run.wait("confirmed", within=600)
    return await run(activate, name)


async def confirm(outlive: Any, handle: Any) -> None:
    await outlive.run_until_idle()
    await outlive.advance(seconds=61)
    await handle.signal("confirmed")


def forget() -> None:
    asked.clear()
    effects.clear()


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
@pytest.mark.parametrize("name", ["ann", "refused"])
def test_every_row_of_the_crash_table(
    database: str, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    address = "sqlite://" if database == "sqlite" else request.getfixturevalue("postgres")
    app = Outlive()
    app.process("/sign-ups", version=1)(sign_up)
    kinds: list[str] = []

    def check(outcome: Outcome) -> None:
        if not outcome.deaths:
            kinds.extend(entry.kind for entry in outcome.journal)
        done = sorted(effects.values())
        if name == "ann":
            assert outcome.status == "done" and outcome.result == "activate ann"
            assert done == ["activate ann", "open ann", "send ann"]
        else:
            assert outcome.status == "rolled_back"
            assert done == ["close refused", "open refused", "send refused", "unsend refused"]
        deaths = len([death for death in outcome.deaths.split("/") if death])
        assert max(asked.values()) <= 2 + deaths, "only what was not recorded is asked for again"

    murder = KillEverywhere(app, address, tmp_path)
    nested = (database, name) == ("sqlite", "refused")
    where = murder(sign_up, name, client=confirm, check=check, reset=forget, nested=nested)
    murder.close()
    wanted = {"started", "step", "attempt", "sleep", "woke", "wait", "signal", "ended"}
    assert wanted | ({"undone"} if name == "refused" else set()) <= set(kinds)
    commits = max(int(death.partition("-")[0]) for death in where)
    first = {death for death in where if "/" not in death}
    assert first == {f"{at}-{when}" for at in range(1, commits + 1) for when in ("before", "after")}
    assert commits >= len({*kinds}), "each of them was a commit, or part of one"
    print(f"\n{database} {name}: {commits} commits, {len(where)} deaths")
