"""Tags that a body sets: durable with the next record, the same on every replay."""

from __future__ import annotations

from typing import Any

import pytest

from outlive import Limit, Outlive, Run, step
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


# --- wherever else a process comes from -----------------------------------------------------------


@app.process("/parts", version=1, tags={"size": lambda size: size}, retention_seconds=60)
async def part(run: Run, size: int) -> int:
    run.tags["size"] = size + 1
    return await run(work, size)


@app.process("/wholes", version=1)
async def whole(run: Run, size: int) -> int:
    return await run.call(part, size)


async def test_a_child_has_the_tags_of_its_input(outlive: Trial) -> None:
    handle = await outlive.start(whole, 3)
    await outlive.run_until_idle()
    (child,) = (await handle.view()).children
    assert await found(outlive, size=4) == [child.id]


@app.process("/lined", version=1, tags={"size": lambda size: size}, limit=Limit(1))
async def lined(run: Run, size: int) -> None:
    await run.wait("go", within=3600)


async def test_one_that_waits_for_its_turn_is_found_meanwhile_and_after(outlive: Trial) -> None:
    first, second = await outlive.start(lined, 1), await outlive.start(lined, 2)
    await outlive.run_until_idle()
    assert (await second.view()).status == "queued" and await found(outlive, size=2) == [second.id]
    await first.signal("go")
    await outlive.run_until_idle()
    assert (await second.view()).status == "waiting"
    assert (await second.view()).tags == {"size": "2"}
    assert await found(outlive, size=2) == [second.id]


async def test_a_fork_has_its_tags_and_with_another_input_those_of_that(outlive: Trial) -> None:
    handle = await outlive.start(order, "c-17", tags={"n": 3})
    await outlive.run_until_idle()
    same = await outlive.app.fork(handle.id, "wait go", cancel=True)
    await outlive.run_until_idle()
    assert (await outlive.app.view(same.id)).tags == {"customer": "c-17", "region": "eu", "n": "8"}
    other = await outlive.app.fork(same.id, "work", input="c-18", cancel=True)
    await outlive.run_until_idle()
    assert (await outlive.app.view(other.id)).tags == {"customer": "c-18", "region": "eu", "n": "8"}
    assert await found(outlive, customer="c-18") == [other.id]


@app.process("/rounds", version=1, tags={"round": None, "by": lambda number: "x"})
async def rounds(run: Run, number: int) -> None:
    run.tags["round"] = number
    if number < 3:
        await run.again(number + 1)
    await run.wait("go", within=3600)


async def test_tags_go_from_era_to_era(outlive: Trial) -> None:
    handle = await outlive.start(rounds, 1)
    await outlive.run_until_idle()
    assert (await handle.view()).tags == {"round": "3", "by": "x"}
    assert await found(outlive, round=3, by="x") == [handle.id]
    assert await found(outlive, round=2) == []
