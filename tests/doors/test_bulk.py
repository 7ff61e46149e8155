"""Many processes at once: what is done is what was shown, once, whoever dies in between."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.test_control import waiter
from tests.service import Dying, Place, has_status
from tests.testing.conftest import Shop

from outlive import Outlive, Run
from outlive.doors import bulk
from outlive.errors import InvalidInput, PreviewExpired
from outlive.testing.trial import Trial


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PART", 3)


async def some(trial: Trial, body: Any, count: int) -> list[str]:
    found = []
    for _ in range(count):
        await trial.advance(seconds=1)
        found.append((await trial.start(body)).id)
    await trial.run_until_idle()
    return found


async def statuses(trial: Trial, ids: list[str]) -> set[str]:
    return {(await trial.app.view(id)).status for id in ids}


async def test_what_is_done_is_what_was_shown(shop: Shop, trial: Trial) -> None:
    body = waiter(shop)
    ids = await some(trial, body, 12)
    preview = await trial.app.bulk("pause", status="waiting", type="waits")
    assert (preview.count, preview.ids, preview.more) == (12, tuple(ids[:1:-1]), False)
    assert await statuses(trial, ids) == {"waiting"}, "nothing is done yet"
    later = await some(trial, body, 2)
    seen: list[int] = []
    report = await trial.app.carry_out(
        preview.token, who="ann", why="look", progress=lambda report: seen.append(report.asked)
    )
    assert (report.asked, report.refused, report.finished) == (12, 0, True)
    assert seen == [3, 6, 9, 12]
    await trial.run_until_idle()
    assert await statuses(trial, ids) == {"paused"}
    assert await statuses(trial, later) == {"waiting"}, "what came later was not shown"
    assert (await trial.app.view(ids[0])).history[-1].why == "paused by ann: look"
    before = [await trial.app.seq(id) for id in ids]
    assert await trial.app.carry_out(preview.token) == report, "once"
    await trial.run_until_idle()
    assert [await trial.app.seq(id) for id in ids] == before


async def test_what_was_refused_is_said_with_its_reason(shop: Shop, trial: Trial) -> None:
    ids = await some(trial, waiter(shop), 4)
    preview = await trial.app.bulk("cancel", type="waits")
    await trial.handle(ids[1]).cancel()
    await trial.run_until_idle()
    report = await trial.app.carry_out(preview.token)
    assert (report.asked, report.refused) == (3, 1)
    (refusal,) = report.refusals
    assert (refusal.id, refusal.code) == (ids[1], "OL2003") and "has ended" in refusal.why
    await trial.run_until_idle()
    assert await statuses(trial, ids) <= {"cancelled", "failed"}


async def test_the_filters_narrow_and_the_limit_is_said(shop: Shop, trial: Trial) -> None:
    body = waiter(shop)
    old = await some(trial, body, 3)
    await trial.advance(hours=1)
    new = await some(trial, body, 3)
    app = trial.app
    assert (await app.bulk("pause", type="waits", older_than=1800)).ids == tuple(old[::-1])
    assert (await app.bulk("pause", status="waiting", older_than=1800)).count == 3
    limited = await app.bulk("pause", status="waiting", limit=2)
    assert (limited.count, limited.more, limited.ids) == (2, True, tuple(new[:0:-1]))
    assert (await app.bulk("pause", type="waits", version=2)).count == 0
    assert (await app.bulk("pause", status="stuck")).count == 0


async def test_many_are_chosen_by_their_tags_and_times_alone(trial: Trial) -> None:
    async def tagged(run: Run, customer: str) -> None:
        await run.wait("go")

    made = trial.app.process("/tagged", version=1, tags={"customer": lambda it: it})(tagged)
    ids = {}
    for customer in ("ada", "bob", "ada"):
        await trial.advance(hours=1)
        ids.setdefault(customer, []).append((await trial.start(made, customer)).id)
    await trial.run_until_idle()
    preview = await trial.app.bulk("pause", tags={"customer": "ada"})
    assert preview.ids == tuple(ids["ada"][::-1])
    started = (await trial.app.view(ids["ada"][1])).started
    since = datetime.fromtimestamp(started / 1e6, UTC)
    later = await trial.app.bulk("pause", tags={"customer": "ada"}, started_since=since)
    assert later.ids == (ids["ada"][1],)
    assert (await trial.app.bulk("pause", type="tagged", started_until=since)).count == 2
    none = await trial.app.bulk(
        "pause", tags={"customer": "ada"}, started_since=since, older_than=1800
    )
    assert none.count == 0, "both times hold"
    await trial.app.carry_out(preview.token)
    await trial.run_until_idle()
    assert await statuses(trial, ids["ada"]) == {"paused"}
    assert await statuses(trial, ids["bob"]) == {"waiting"}


async def test_some_parts_are_asked_and_the_same_token_goes_on(shop: Shop, trial: Trial) -> None:
    await some(trial, waiter(shop), 8)
    token = (await trial.app.bulk("pause", type="waits")).token
    first = await trial.app.carry_out(token, parts=2, who="ann", why="a look")
    assert (first.looked_at, first.asked, first.finished) == (6, 6, False)
    rest = await trial.app.carry_out(token, parts=2)
    assert (rest.looked_at, rest.finished) == (8, True)
    assert await trial.app.carry_out(token, parts=1) == rest


@pytest.mark.parametrize(
    "asked",
    [
        {"verb": "delete", "status": "stuck"},
        {"verb": "cancel"},
        {"verb": "cancel", "status": "happy"},
        {"verb": "cancel", "status": "stuck", "limit": 0},
        {"verb": "cancel", "status": "stuck", "limit": bulk.BULK_MAX + 1},
        {"verb": "deadline", "status": "stuck", "seconds": 0},
    ],
)
async def test_what_cannot_be_asked_of_many_is_refused(trial: Trial, asked: Any) -> None:
    await trial.open()
    with pytest.raises(InvalidInput):
        await trial.app.bulk(**asked)


async def test_a_preview_expires_and_is_taken_out(shop: Shop, trial: Trial) -> None:
    await some(trial, waiter(shop), 1)
    preview = await trial.app.bulk("deadline", type="waits", seconds=60)
    with pytest.raises(PreviewExpired):
        await trial.app.carry_out("nothing")
    await trial.advance(hours=2)
    with pytest.raises(PreviewExpired):
        await trial.app.carry_out(preview.token)
    await trial.app.bulk("pause", type="waits")
    assert len(await trial.app.store.scan(bulk.BULK)) == 1


@pytest.mark.parametrize("verb", ["retry", "resume"])
async def test_every_verb_goes_to_many(shop: Shop, trial: Trial, verb: str) -> None:
    ids = await some(trial, waiter(shop), 2)
    for id in ids:
        await trial.app.pause(id)
    report = await trial.app.carry_out((await trial.app.bulk(verb, status="paused")).token)
    assert report.asked == 2
    await trial.run_until_idle()
    assert "paused" not in await statuses(trial, ids)


# --- who dies in between --------------------------------------------------------------------------


async def body(run: Run) -> Any:
    await run.wait("go")


def declare(app: Outlive) -> None:
    app.process("/things", version=1, name="thing")(body)


class DyingClient(Dying):
    """A client's store, whose commits come one by one."""

    async def commit(self, batch: Any) -> Any:
        return await self._dies(lambda: self._inner.commit(batch))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_whoever_dies_in_between_is_gone_on_from(tmp_path: Path, when: str) -> None:
    place = Place(tmp_path)
    app = await place.open(declare)
    ids = [(await app.start(body)).id for _ in range(7)]
    for id in ids:
        await has_status(app, id, "waiting")
    preview = await app.bulk("pause", status="waiting")
    for part in (1, 2, 3):
        store = DyingClient(place.store(), 1, when)
        dying = place.new(declare, store=store)
        await dying.open_client()
        work = asyncio.ensure_future(dying.carry_out(preview.token, who=f"ann {part}"))
        await asyncio.wait(
            (work, asyncio.ensure_future(store.died.wait())), return_when="FIRST_COMPLETED"
        )
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    report = await app.carry_out(preview.token, who="bob")
    assert (report.asked, report.refused) == (7, 0)
    for id in ids:
        await has_status(app, id, "paused")
        kinds = [entry.kind for entry in await app.journal(id)]
        assert kinds.count("paused") == 1
    by = "ann 1" if when == "after" else "bob"
    assert (await app.view(ids[-1])).history[-1].why == f"paused by {by}"
    await place.close()
