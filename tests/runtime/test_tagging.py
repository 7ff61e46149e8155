"""Tags that a body sets: durable with the next record, the same on every replay."""

from __future__ import annotations

from typing import Any

import pytest

from outlive import Outlive, Run, step
from outlive.errors import ProcessFailed, TagNotDeclared
from outlive.testing import KillEverywhere, Outcome, Trial

app = Outlive("memory://")
seen: list[dict[str, str]] = []


@pytest.fixture
def outlive_app() -> Outlive:
    seen.clear()
    return app


@step
async def work(number: int) -> int:
    return number


@app.process("/orders", version=1, tags={"customer": lambda who: who, "region": None, "n": None})
async def order(run: Run, who: str) -> dict[str, str]:
    seen.append(dict(run.tags))
    run.tags["region"] = "eu"
    await run(work, 1)
    run.tags["n"] = 7
    run.tags["n"] = 8
    await run.wait("go", within=3600)
    del run.tags["region"]
    await run.transact(touch)
    run.tags["n"] = 9
    return dict(run.tags)


def touch(tables: Any) -> None: ...


@app.process("/bad", version=1)
async def bad(run: Run) -> None:
    run.tags["who"] = "a"


async def found(outlive: Trial, **tags: Any) -> list[str]:
    return [line.id for line in (await outlive.app.processes(tags=tags)).items]


async def test_what_the_body_sets_is_searched_with_its_next_record(outlive: Trial) -> None:
    handle = await outlive.start(order, "c-17")
    await outlive.run_until_idle()
    assert await found(outlive, customer="c-17", region="eu", n=8) == [handle.id]
    assert (await handle.view()).tags == {"customer": "c-17", "region": "eu", "n": "8"}
    assert await found(outlive, n=7) == []
    await handle.signal("go")
    assert await handle.result() == {"customer": "c-17", "n": "9"}
    assert await found(outlive, region="eu") == await found(outlive, n=8) == []
    assert await found(outlive, n="9", customer="c-17") == [handle.id]
    said = [entry.text for entry in await outlive.app.journal(handle.id) if entry.kind == "tagged"]
    assert said == [
        "tags set: customer=c-17, region=eu",
        "tags set: customer=c-17, n=8, region=eu",
        "tags set: customer=c-17, n=8",
        "tags set: customer=c-17, n=9",
    ]


@pytest.mark.outlive(always_replay=True)
async def test_a_replay_sees_its_tags_as_the_first_run_did(outlive: Trial) -> None:
    handle = await outlive.start(order, "c-17")
    await outlive.run_until_idle()
    await handle.signal("go")
    assert await handle.result() == {"customer": "c-17", "n": "9"}
    assert len(seen) > 2 and all(tags == {"customer": "c-17"} for tags in seen)


async def go(outlive: Trial, handle: Any) -> None:
    await outlive.run_until_idle()
    await handle.signal("go")


@pytest.mark.outlive(store="sqlite://")
async def test_no_death_loses_a_tag_or_keeps_one(kill_everywhere: KillEverywhere) -> None:
    def check(outcome: Outcome) -> None:
        assert outcome.result == {"customer": "c-17", "n": "9"}
        assert outcome.view.tags == {"customer": "c-17", "n": "9"}

    where = await kill_everywhere(order, "c-17", client=go, check=check)
    assert len(where) > 8


async def test_a_name_that_is_not_declared_is_refused(outlive: Trial) -> None:
    handle = await outlive.start(bad)
    with pytest.raises(ProcessFailed, match="declares no tag 'who'; its tags: none"):
        await handle.result()
    with pytest.raises(TagNotDeclared):
        await outlive.app.start(order, "a", tags={"who": "b"})
    with pytest.raises(TagNotDeclared):
        await outlive.app.processes(tags={"who": "b"})
    with pytest.raises(TagNotDeclared):
        await outlive.app.processes(type="bad", tags={"region": "b"})


async def test_tags_set_no_commit_of_their_own(outlive: Trial) -> None:
    handle = await outlive.start(order, "c-17", key="k")
    await outlive.run_until_idle()
    kinds = [entry.kind for entry in await outlive.app.journal(handle.id)]
    assert kinds == ["started", "tagged", "step", "tagged", "wait"]
