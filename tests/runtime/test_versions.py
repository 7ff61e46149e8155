"""What lives in which shard is told by type and version, and what has ended is not counted."""

from __future__ import annotations

from tests.service import Place, has_status

from outlive import Outlive, Run
from outlive.model import shard_of
from outlive.runtime.versions import needs_of


def of_both_versions(app: Outlive) -> None:
    @app.process("/waits", version=1, name="wait")
    async def first(run: Run) -> None:
        await run.wait("go")

    @app.process("/waits", version=2, name="wait")
    async def second(run: Run, ends: bool = False) -> None:
        if not ends:
            await run.wait("go")


async def test_what_lives_in_a_shard_is_known_and_what_has_ended_is_not(place: Place) -> None:
    app = await place.open(of_both_versions)
    assert await needs_of(app.store) == {}
    waiting = (await app.begin("wait", b"false")).id
    ended = (await app.begin("wait", b"true")).id
    await has_status(app, waiting, "waiting")
    await app.result(ended, within=60)
    needs = await needs_of(app.store)
    assert needs == {shard_of(waiting, app.store.shards): frozenset({"wait v2"})}
    await app.signal(waiting, "go", b"")
    await app.result(waiting, within=60)
    assert await needs_of(app.store) == {}
