"""What leaves with a commit: done at once where it lives here, found by the next owner if not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.service import Place, has_status, until

from outlive import Outlive, Run
from outlive.kinds.processes import Command
from outlive.kinds.processes.cells import inbox_of
from outlive.model import Batch
from outlive.runtime.mail import NEAR_SECONDS, Mail


async def waits(run: Run) -> Any:
    return await run.wait("go")


async def parent(run: Run) -> Any:
    return await run.call(waits)


def declare(app: Outlive) -> None:
    app.process("/waits", version=1)(waits)
    app.process("/parents", version=1)(parent)


async def letters(app: Outlive) -> list[Any]:
    store = app.store
    return [cell for shard in range(store.shards) for cell in await store.scan(inbox_of(shard))]


def mail_of(app: Outlive, due: int = 1) -> Mail:
    assert app._runtime is not None
    return Mail(app._runtime.activations, due)


async def test_what_is_near_is_done_without_a_look_at_the_inbox(place: Place) -> None:
    app = await place.open(declare)
    assert app._runtime is not None
    handle = await app.start(waits)
    await app._runtime.stand_still()  # nobody claims anything
    mail = mail_of(app)
    mail.send(Command("signal", handle.id, "go"))
    await mail.post(Batch(put=tuple(mail.puts)))
    await handle.result(within=10)
    assert await letters(app) == []


async def test_a_parent_and_its_child_on_one_node_need_no_pump(place: Place) -> None:
    app = await place.open(declare)
    assert app._runtime is not None
    looking = app._runtime.activations.recovery._looking

    async def looked() -> bool:
        return not looking

    await until(looked, "the shards are taken up")  # or the child is begun by that
    await app._runtime.stand_still()
    handle = await app.start(parent)

    async def child() -> str:
        views = (await handle.view()).children
        return views[0].id if views else ""

    id = await until(child, "it has a child")
    await has_status(app, id, "waiting")
    await app.signal(id, "go", b"7")
    assert await handle.result(within=10) == 7
    assert await letters(app) == []


async def test_what_its_node_died_over_is_found_by_the_next(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.runtime.mail.NEAR_SECONDS", 0.2)
    app = await place.open(declare)
    assert app._runtime is not None and NEAR_SECONDS == 2.0
    handle = await app.start(waits)
    await has_status(app, handle.id, "waiting")
    app._runtime.activations.draining = True  # what comes back from the commit does nothing more
    mail = mail_of(app)
    mail._node.draining = False
    mail.send(Command("signal", handle.id, "go"))
    mail._node.draining = True
    await mail.post(Batch(put=tuple(mail.puts)))
    assert len(await letters(app)) == 1
    app = await place.again(app, declare)
    await app.result(handle.id, within=10)


async def test_who_waits_for_the_commit_may_be_cancelled(place: Place) -> None:
    app = await place.open(declare)
    assert app._runtime is not None
    handle = await app.start(waits)
    await app._runtime.stand_still()
    mail = mail_of(app)
    mail.send(Command("signal", handle.id, "go"))
    task = asyncio.ensure_future(mail.post(Batch(put=tuple(mail.puts))))
    await asyncio.sleep(0)
    task.cancel()
    await handle.result(within=10)


async def test_an_event_for_a_process_that_ended_on_the_way_is_kept(place: Place) -> None:
    app = await place.open(declare)
    handle = await app.start(waits)
    await app.signal(handle.id, "go", b"")
    await handle.result(within=10)
    near, far = mail_of(app), mail_of(app)
    far._node = _Elsewhere(near._node)  # type: ignore[assignment]
    for mail, name in ((near, "near"), (far, "far")):
        mail.send(Command("signal", handle.id, "go", key=f"evt_1/{name}", event="evt_1"))
        await app.store.commit(Batch(put=tuple(mail.puts))) if mail is far else None
    await near.post(Batch(put=tuple(near.puts)))

    async def both() -> Any:
        kept = await app.undelivered()
        return len(kept) == 2 and kept

    kept = await until(both, "both are kept")
    assert {found.subscriber for found in kept} == {"near", "far"}
    assert {found.process for found in kept} == {handle.id} and await letters(app) == []


class _Elsewhere:
    """A node that owns no shard."""

    def __init__(self, node: Any) -> None:
        self.store, self.clock, self.leases = node.store, node.clock, {}
