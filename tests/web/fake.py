"""An application with the surface of `Outlive` and nothing behind it.

`Fake.evolve` is a commit: the view changes, an entry is added, and whoever waits is told.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from outlive import Access, errors
from outlive.ids import public_id
from outlive.kinds.processes import (
    FINAL,
    STATUSES,
    Begun,
    Definition,
    Entry,
    Node,
    PastState,
    Stats,
    Summary,
    View,
)
from outlive.kinds.processes.census import BROKEN, TROUBLED, Census, Count, failing_of, standing_of
from outlive.kinds.processes.limits import Backlog
from outlive.model import Hold, Shard

START = 1_790_000_000_000_000
SECOND = 1_000_000
EMPTY = Raw(b"{}")


class Form(Struct):
    email: str
    age: int = 0


class Account(Struct):
    number: int


def declare(
    name: str,
    path: str,
    *,
    status_code: int = 202,
    prefix: str = "reg",
    input_type: Any = Form,
    output_type: Any = Account,
    signals: Mapping[str, Any] | None = None,
) -> Definition:
    """What `@app.process` would make of a function with these types."""

    async def body(run: Any, form: Any) -> Any:
        return form

    body.__annotations__ = {"form": input_type, "return": output_type}
    return Definition(body, path, 1, name, prefix, status_code, signals, ())


REGISTER = declare("register", "/registrations", status_code=201, signals={"confirmed": Form})
ORDER = declare("order", "/v1/orders", prefix="ord", input_type=Any, output_type=Any)


class Fake:
    def __init__(self, *definitions: Definition) -> None:
        self.definitions = {found.name: found for found in definitions or (REGISTER, ORDER)}
        self.phase = "ready"
        self.webhooks = None
        self.dependencies: dict[str, Any] = {}
        self.caches: dict[str, Any] = {}
        self.access: Access | None = None
        self.store = self
        self.lost: errors.StoreWentBack | None = None
        self.cut_off = False
        self.node = "host-7-abcdefgh"
        self.store_address = "memory://"
        self.views: dict[str, View] = {}
        self.entries: dict[str, list[Entry]] = {}
        self.keys: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.raises: Exception | None = None
        self.finishes = False
        self.lives_here = False
        self.waiters = 0
        self._changed = asyncio.Condition()
        self._now = START

    # --- life ---

    async def open(self) -> None:
        self.calls.append(("open",))
        self._fail()
        self.phase = "ready"

    async def drain(self, grace_seconds: float = 20.0) -> None:
        self.calls.append(("drain",))
        self.phase = "draining"
        await self._tell()

    async def close(self) -> None:
        self.calls.append(("close",))
        self.phase = "stopped"

    def queries_of(self, type: str) -> dict[str, Any]:
        return {}

    def declared(self, kind: str) -> tuple[Any, ...]:
        return ()

    def _fail(self) -> None:
        if self.raises is not None:
            raise self.raises

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # --- processes ---

    async def begin(
        self,
        name: str,
        body: bytes,
        *,
        key: str | None = None,
        scope: str = "",
        notify: str = "",
        caller: str = "",
    ) -> Begun:
        self.calls.append(("begin", name, body, key, scope))
        self._fail()
        if self.phase != "ready":
            raise errors.Draining
        try:
            json.loads(body)
        except ValueError:
            raise errors.MalformedInput from None
        definition = self.definitions[name]
        try:
            definition.input_type.read(body)
        except ValueError as why:
            raise errors.InvalidInput(str(why)) from None
        if key is not None:
            before = self.keys.get((scope, key))
            if before is not None:
                if before[0] != body:
                    raise errors.KeyReused
                return Begun(before[1], self.views[before[1]].seq, True)
        id = public_id(definition.prefix, 1)
        if key is not None:
            self.keys[scope, key] = (body, id)
        self.add(id, name, Raw(body))
        if self.finishes:
            await self.evolve(id, "ended", status="done", result=Raw(b'{"number":1}'))
        return Begun(id, self.views[id].seq, False)

    def add(self, id: str, name: str, data: Raw = EMPTY, **fields: Any) -> View:
        made: dict[str, Any] = {
            "id": id,
            "type": name,
            "version": 1,
            "status": "running",
            "seq": 1,
            "data": data,
            "result": None,
            "failure": None,
            "started": self._now,
            "changed": self._now,
            "ended": None,
            "waits_for": "",
            "due": None,
            "history": (PastState("running", self._now),),
            "steps": (),
            "node": self.node,
            "epoch": 1,
            "takeovers": 0,
            "cancel_requested": False,
        }
        self.views[id] = View(**(made | fields))
        self.entries[id] = [Entry(0, "started", self._now, self.node, f"started as {name}", data)]
        self._now += SECOND
        return self.views[id]

    async def evolve(self, id: str, kind: str, text: str = "", **fields: Any) -> None:
        view = self.views[id]
        status = fields.get("status", view.status)
        if status != view.status:
            fields.setdefault("history", (*view.history, PastState(status, self._now)))
        if status in FINAL:
            fields.setdefault("ended", self._now)
        self.views[id] = msgspec.structs.replace(
            view, seq=view.seq + 1, changed=self._now, **fields
        )
        entry = Entry(view.seq, kind, self._now, self.node, text or kind, Raw(b"{}"))
        self.entries[id].append(entry)
        self._now += SECOND
        await self._tell()

    async def view(self, id: str) -> View:
        self.calls.append(("view", id))
        self._fail()
        if id not in self.views:
            raise errors.NoSuchProcess
        return self.views[id]

    async def seq(self, id: str) -> int:
        self.calls.append(("seq", id))
        if id not in self.views:
            raise errors.NoSuchProcess
        return self.views[id].seq

    async def view_at_end(self, id: str, timeout_seconds: float) -> View | None:
        return await self.view(id) if await self.ended_here(id, timeout_seconds) else None

    async def ended_here(self, id: str, timeout_seconds: float) -> bool:
        if not self.lives_here:
            return False
        self.waiters += 1
        try:
            async with asyncio.timeout(timeout_seconds), self._changed:
                await self._changed.wait_for(
                    lambda: self.views[id].status in FINAL or self.phase != "ready"
                )
            return self.views[id].status in FINAL
        except TimeoutError:
            return False
        finally:
            self.waiters -= 1

    async def changed(self, id: str, seen: int, timeout_seconds: float) -> int:
        self.waiters += 1
        try:
            async with asyncio.timeout(timeout_seconds), self._changed:
                await self._changed.wait_for(
                    lambda: self.views[id].seq > seen or self.phase != "ready"
                )
        except TimeoutError:
            pass
        finally:
            self.waiters -= 1
        return self.views[id].seq

    async def journal(self, id: str, after: int = -1) -> list[Entry]:
        await self.view(id)
        return [entry for entry in self.entries[id] if entry.n > after]

    async def signal(
        self, id: str, name: str, payload: bytes, *, key: str | None = None, who: str = ""
    ) -> None:
        self.calls.append(("signal", id, name, payload, key))
        self._fail()
        view = await self.view(id)
        if view.status in FINAL:
            raise errors.ProcessTerminal
        declared = self.definitions[view.type].signals
        if declared is not None and name not in declared:
            raise errors.SignalNotExpected

    async def cancel(self, id: str, *, reason: str = "", who: str = "") -> None:
        self.calls.append(("cancel", id, reason, who))
        self._fail()
        if (await self.view(id)).status in FINAL:
            raise errors.ProcessTerminal

    async def retry(
        self, id: str, *, now: bool = False, step: str = "", who: str = "", why: str = ""
    ) -> None:
        self.calls.append(("retry", id, who, *((step, why) if now else ())))
        if (await self.view(id)).status not in ("stuck", "paused"):
            raise errors.NotStuck

    async def processes(
        self,
        status: str | None = None,
        type: str | None = None,
        limit: int = 50,
        cursor: str = "",
    ) -> tuple[list[Summary], str]:
        found = [
            Summary(v.id, v.type, v.version, v.status, v.started, v.changed, v.waits_for, v.due)
            for v in reversed(self.views.values())
            if status in (None, v.status) and type in (None, v.type)
        ]
        first = int(cursor or "0")
        more = str(first + limit) if len(found) > first + limit else ""
        return found[first : first + limit], more

    async def census(self) -> Census:
        lines = (await self.processes(limit=1000))[0]
        counts = {status: Count(sum(one.status == status for one in lines)) for status in STATUSES}
        going = [one for one in lines if one.status not in FINAL]
        broken = [one for one in lines if one.status in BROKEN]
        troubled = tuple(one for one in lines if one.status in TROUBLED)
        oldest = tuple(sorted(going, key=lambda one: one.started))
        return Census(self._now, counts, oldest, standing_of(going), failing_of(broken), troubled)

    async def throughput(self, hours: int = 24) -> dict[int, Any]:
        return {}

    async def nodes(self) -> list[Node]:
        runs = ("register v1",)
        return [Node(self.node, "host", 7, START, START + 10 * SECOND, "ready", 2, runs)]

    async def shards(self) -> list[Shard]:
        return [Shard(0, self.node, 1, 4), Shard(1, "host-6-gone", 3, 9), Shard(2, "", 1, 0)]

    async def holds(self, limit: int = 100) -> list[Hold]:
        return [Hold(0, 1, self.node, 4, START, "host-6-gone")]

    def stats(self) -> Stats:
        return Stats(
            started=3, ended={"done": 2, "failed": 1}, commits=9, commit_seconds=0.25,
            commit_latency=(0, 4, 3, *[0] * 9, 2), steps=7, starts_refused={"memory": 2},
        )  # fmt: skip

    async def backlog(self) -> dict[str, Backlog]:
        return {"registration": Backlog(17, 2.5)}

    def count(self, call: str) -> int:
        return sum(made[0] == call for made in self.calls)
