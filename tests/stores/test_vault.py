"""Before the store's door: large payloads become blobs, and what is sealed shows nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.doors.manual import written_out
from tests.doors.programs import program
from tests.service import has_status, until
from tests.stores.servers import session_at, store_at

from outlive import Keys, Outlive, Retry, Run, ids, step
from outlive.errors import KeysMissing, NoSuchProcess, ProcessGone, StoreCorrupt, TooLarge
from outlive.model import Append, Batch, Lease, Put, Ref
from outlive.stores.memory import MemoryStore
from outlive.stores.vault import BLOBS, INLINE_BYTES_MAX, Vault

OLD, NEW = Keys.new("old"), Keys.new("new")
SECRET = "4711-0815"
undone: list[int] = []


@step(undo="shred")
async def scan(pages: int) -> str:
    return SECRET + "x" * pages


async def shred(pages: int, made: Any) -> None:
    undone.append(len(made))


@step(retry=Retry(attempts=1))
async def measure(text: str) -> int:
    return len(text)


@step(retry=Retry(attempts=1))
async def refuse(text: str) -> int:
    raise ValueError("no")


async def document(run: Run, pages: int) -> str:
    text = await run(scan, pages)
    run.state = {"card": SECRET, "pages": pages}
    length = await run(measure, text)
    answer = await run.wait("answer", within=600)
    return f"{length} {answer['card']} {text[-1]}"


async def failing(run: Run, pages: int) -> int:
    return await run(refuse, await run(scan, pages))


def app_on(store: Any, *keys: str, **options: Any) -> Outlive:
    if keys:
        options["encryption"] = Keys(*keys)
    app = Outlive(store, **options)
    app.process("/documents", version=1, signals={"answer": dict[str, str]})(document)
    app.process("/failing", version=1)(failing)
    return app


async def blobs_of(app: Outlive) -> list[str]:
    return [cell.key for cell in await app.store.scan(BLOBS)]


# --- large --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [(), (NEW,)], ids=["open", "sealed"])
async def test_a_result_too_large_for_a_row_is_kept_and_read_back(
    tmp_path: Path, keys: tuple[str, ...]
) -> None:
    address, pages = f"sqlite:///{tmp_path}/store.db", 9_000_000
    async with app_on(address, *keys) as app:
        handle = await app.start(document, pages)
        await has_status(app, handle.id, "waiting")
        assert len(await blobs_of(app)) == 1
    async with app_on(address, *keys) as app:
        await app.signal(handle.id, "answer", b'{"card":"ok"}')
        assert await app.result(handle.id, 30) == f"{pages + len(SECRET)} ok x"


async def test_an_undo_gets_the_large_result(tmp_path: Path) -> None:
    undone.clear()
    async with app_on(f"sqlite:///{tmp_path}/store.db") as app:
        handle = await app.start(failing, 500_000)
        await has_status(app, handle.id, "rolled_back")
    assert undone == [500_000 + len(SECRET)]


async def test_a_small_one_makes_no_blob() -> None:
    async with app_on(MemoryStore()) as app:
        await has_status(app, (await app.start(document, 10)).id, "waiting")
        assert await blobs_of(app) == []


async def test_a_blob_that_is_gone_is_said_by_name() -> None:
    async with app_on(MemoryStore()) as app:
        handle = await app.start(document, INLINE_BYTES_MAX)
        await has_status(app, handle.id, "waiting")
        (name,) = await blobs_of(app)
        await app.store.blobs.drop(name)
        with pytest.raises(StoreCorrupt, match=name):
            await app.view(handle.id)


async def test_one_that_no_blob_can_hold_is_refused_alone() -> None:
    store = MemoryStore()
    vault = Vault(store, None)
    await vault.open()
    lease: Lease = await store.take(0, 0, "n")
    store.blobs._bytes_max = 1_000_000  # type: ignore[attr-defined]

    def batch(stream: str, size: int) -> Batch:
        return Batch(lease, append=(Append(stream, 0, "step", b'"' + b"x" * size + b'"'),))

    small, large, last = await vault.commit_group(
        [batch("a", 5), batch("b", 2_000_000), batch("c", 5)]
    )
    assert isinstance(large, TooLarge) and not isinstance(small, TooLarge)
    assert not isinstance(last, TooLarge)
    assert await store.lengths(("a", "b", "c")) == {"a": 1, "c": 1}


# --- sealed -------------------------------------------------------------------------------------


async def test_nothing_of_a_payload_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with app_on(f"sqlite:///{path}", NEW) as app:
        handle = await app.start(document, 400_000)
        await has_status(app, handle.id, "waiting")
        await app.signal(handle.id, "answer", b'{"card":"%s"}' % SECRET.encode())
        assert SECRET in await app.result(handle.id, 20)
        view = await app.view(handle.id)
        assert SECRET in bytes(view.data).decode()
    for file in (path, *path.parent.rglob("*")):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file.name


async def test_a_queued_start_is_sealed_too(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/store.db"
    client = app_on(address, NEW)
    await client.open_client()
    handle = await client.start(document, 5)
    (cell,) = [
        cell
        for shard in range(client.store.shards)
        for cell in await client.store._store.scan(f"process/{shard}")  # type: ignore[attr-defined]
    ]
    assert cell.value.startswith(b"~new:")
    assert (await handle.view()).status == "queued"
    async with app_on(address, NEW) as app:
        await has_status(app, handle.id, "waiting")
    await client.close()


async def test_keys_are_rotated_while_a_process_waits(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/store.db"
    async with app_on(address, OLD) as app:
        handle = await app.start(document, 5)
        await has_status(app, handle.id, "waiting")
    async with app_on(address, OLD, NEW) as app:
        assert (await app.view(handle.id)).status == "waiting"
    async with app_on(address, NEW, OLD) as app:
        await app.signal(handle.id, "answer", b'{"card":"ok"}')
        assert await app.result(handle.id, 20) == f"{5 + len(SECRET)} ok x"


@pytest.mark.parametrize("keys", [(), (NEW,), (Keys.new("old"),)], ids=["none", "other", "wrong"])
async def test_a_store_is_not_opened_without_its_keys(
    tmp_path: Path, keys: tuple[str, ...]
) -> None:
    address = f"sqlite:///{tmp_path}/store.db"
    async with app_on(address, OLD) as app:
        await app.start(document, 5)
    with pytest.raises(KeysMissing, match="old"):
        await app_on(address, *keys).open()
    async with app_on(address, OLD) as app:
        assert len((await app.processes())[0]) == 1


async def test_an_open_store_is_sealed_from_the_day_it_is_asked_for(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/store.db"
    async with app_on(address) as app:
        handle = await app.start(document, 5)
        await has_status(app, handle.id, "waiting")
    async with Outlive(address, encryption=Keys(NEW, seals=False)) as app:
        assert (await app.view(handle.id)).type == "document"
    async with app_on(address, NEW) as app:
        await app.signal(handle.id, "answer", b'{"card":"ok"}')
        assert await app.result(handle.id, 20)


async def test_a_process_from_a_callers_transaction_is_sealed_as_well(postgres: str) -> None:
    schema = f"store_{ids.token(40)}"
    async with store_at(postgres, schema=schema):
        pass
    app = app_on(f"{postgres}?schema={schema}", NEW)
    async with app:
        async with session_at(postgres) as session, session.transaction():
            handle = await app.within(session).start(document, 5, key="k")
            await app.within(session).signal(handle.id, "answer", {"card": SECRET})
            rows = await session.fetch(f"SELECT value FROM {schema}.cell")
            assert sum(bytes(row[0]).startswith(b"~new:") for row in rows) >= 3
        assert SECRET in await handle.result(within=20)


async def test_the_vault_leaves_what_it_does_not_seal_alone() -> None:
    vault = Vault(MemoryStore(), Keys(NEW))
    put = Put(Ref("node", "n1"), b"{}")
    assert vault.sealed_put(put) == put


async def test_the_page_about_payloads_is_true(tmp_path: Path) -> None:
    assert written_out("payloads.md", tmp_path) == ["vaulted.py"]
    env = {"OUTLIVE_KEYS": f"{NEW} {OLD}"}
    with program("memory://", "vaulted.py", env=env, folder=tmp_path) as running:
        said, _ = running.communicate(timeout=60)
    assert said.strip() == "1000000 …"
    assert b"4711-0815" not in (tmp_path / "vaulted.db").read_bytes()


@pytest.mark.parametrize("keys", [(), (NEW,)], ids=["open", "sealed"])
async def test_what_is_erased_takes_its_blobs_along(keys: tuple[str, ...], tmp_path: Path) -> None:
    app = app_on(f"sqlite:///{tmp_path / 'store.db'}", *keys, retention_seconds=0.01)
    async with app:
        handle = await app.start(failing, INLINE_BYTES_MAX)
        kept = await app.start(document, INLINE_BYTES_MAX)
        await until(lambda: gone(app, handle.id), "its retention is over")
        assert await has_status(app, kept.id, "waiting")
        (name,) = await blobs_of(app)
        assert [cell.key for cell in await app.store.scan(BLOBS)] == [name]


async def test_a_large_event_that_is_erased_while_it_is_read_is_no_damage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with app_on(MemoryStore()) as app:
        handle = await app.start(failing, INLINE_BYTES_MAX)
        assert await has_status(app, handle.id, "rolled_back")
        stream, get = (await app._head(handle.id)).stream, app.store.blobs.get

        async def late(name: str) -> bytes:
            await app.store.erase([stream], Batch())
            return await get(name)

        monkeypatch.setattr(app.store.blobs, "get", late)
        with pytest.raises(ProcessGone):
            await app.view(handle.id)


async def gone(app: Outlive, id: str) -> bool:
    try:
        await app.view(id)
    except (ProcessGone, NoSuchProcess):
        return True
    return False
