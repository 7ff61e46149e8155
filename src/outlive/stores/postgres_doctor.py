"""What a PostgreSQL store finds when it examines itself, for `outlive doctor`.

Every check reads, on the reading links, and none waits for a writer. A check that itself fails is
a finding too: the others still speak. What is not looked at: the meaning of the events, blobs,
backups, and whether the server's disk tells the truth about a flush.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Literal

from outlive.clock import MICROS, Clock
from outlive.errors import OutliveError, StoreUnavailable
from outlive.model import Event
from outlive.store import Finding
from outlive.stores import sql
from outlive.stores.chain import GENESIS, verify
from outlive.stores.migrate import pending

if TYPE_CHECKING:
    from outlive.stores.postgres import PostgresStore

CHAIN_EVENTS = 1000
"""Events at the end of each shard whose chain is verified."""
LOSSES, LOSSES_MAX = "loss", 100
HORIZON_SECONDS_WARN = 300.0
HORIZON_XIDS_WARN = 1_000_000
CLOCK_APART_SECONDS_WARN = 60.0
_RESTORE = "stop the service, restore the last backup, find out who wrote to outlive's schema"

Level = Literal["ok", "warn", "fail"]
Findings = AsyncIterator[Finding]
Check = Callable[["PostgresStore"], Findings]


async def examine(store: PostgresStore) -> list[Finding]:
    """Everything that can be said about the open `store`."""
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += [finding async for finding in check(store)]
        except OutliveError as error:
            name = check.__name__.strip("_").replace("_", " ")
            text = f"could not be looked at: {error.detail}"
            found.append(Finding(name, "warn", text, error.remedy))
    return found


async def _server(store: PostgresStore) -> Findings:
    ((version, _number, in_recovery),) = await store.read_rows("doctor_server")
    if in_recovery:
        text = f"PostgreSQL {version} is a standby: nothing can be written"
        yield Finding("server", "fail", text, "let the address lead to the primary")
    else:
        yield Finding("server", "ok", f"PostgreSQL {version}, the primary")


async def _durability(store: PostgresStore) -> Findings:
    ((commit, flush, pages, standbys),) = await store.read_rows("doctor_durability")
    unsafe = [
        name for name, set_to in (("fsync", flush), ("full_page_writes", pages)) if set_to != "on"
    ]
    if unsafe:
        text = f"{' and '.join(unsafe)} off: a power loss may destroy the whole database"
        remedy = f"set {' = on, '.join(unsafe)} = on in postgresql.conf"
        yield Finding("durability", "fail", text, remedy)
    elif commit in ("off", "local"):
        text = f"synchronous_commit is {commit}: an acknowledged commit may be lost"
        yield Finding("durability", "fail", text, "set synchronous_commit = on for this role")
    elif standbys and commit != "remote_write":
        text = (
            f"durable = flushed here and on a standby before the answer (fsync on, "
            f"synchronous_commit {commit}, synchronous_standby_names {standbys})"
        )
        yield Finding("durability", "ok", text)
    else:
        where = f"not flushed on {standbys}" if standbys else "no synchronous standby"
        text = (
            "durable = flushed to one disk before the answer: survives kill -9 and power loss, not "
            f"the loss of that disk (fsync on, synchronous_commit {commit}, {where}); relaxed = "
            "power loss may take the last 600 ms"
        )
        yield Finding("durability", "ok", text)


async def _losses(store: PostgresStore) -> Findings:
    cells = await store.scan(LOSSES, limit=LOSSES_MAX)
    if not cells:
        yield Finding("losses", "ok", "nobody found acknowledged commits missing")
        return
    who = "1 process" if len(cells) == 1 else f"{len(cells)} processes"
    text = f"acknowledged commits were lost; {who} noticed. {cells[-1].value.decode()}"
    remedy = "set up a synchronous standby; delete the rows of space 'loss' once it is settled"
    yield Finding("losses", "warn", text, remedy)


async def _isolation(store: PostgresStore) -> Findings:
    ((level,),) = await store.read_rows("doctor_isolation")
    if level == "read committed":
        yield Finding("isolation", "ok", level)
    else:
        text = f"default_transaction_isolation is {level}: commits are slow, claims may be refused"
        remedy = "set default_transaction_isolation = 'read committed' for this role"
        yield Finding("isolation", "warn", text, remedy)


async def _session(store: PostgresStore) -> Findings:
    session = store.session
    try:
        await session.run(store.sql["backend"])
    except StoreUnavailable as error:
        if session.is_possible:
            text = f"straight to the server there is no session: {error.detail}"
            yield Finding("session", "warn", text, "mend direct=host:port in the address")
        else:
            text = "a pooler stands between: no hints (work of other nodes is seen after 50 ms), no"
            text += " signs of life (a killed node is noticed when its lease ends)"
            remedy = "add direct=host:port of the server itself to the address"
            yield Finding("session", "warn", text, remedy)
    else:
        yield Finding("session", "ok", "leads straight to the server: hints and signs of life")


async def _schema(store: PostgresStore) -> Findings:
    applied = [tuple(row) for row in await store.read_rows("migrations")]
    try:
        missing = pending(sql.migrations("postgres"), applied)
    except OutliveError as error:
        yield Finding("schema", "fail", error.detail, error.remedy)
        return
    if missing:
        remedy = "restart the service: opening brings the schema up to date"
        yield Finding("schema", "warn", f"{len(missing)} migrations are not applied", remedy)
    else:
        text = f"{store.schema} is at {applied[-1][0]}, as this release ships it"
        yield Finding("schema", "ok", text)
    ((locked,),) = await store.read_rows("doctor_rights", store.schema)
    if locked:
        text = f"{locked} tables of {store.schema} cannot be read and written by this role"
        yield Finding("access", "fail", text, "make the role the owner of the schema's tables")
    else:
        yield Finding("access", "ok", "every table can be written")


async def _horizon(store: PostgresStore) -> Findings:
    ((xids, seconds),) = await store.read_rows("doctor_horizon")
    if xids > HORIZON_XIDS_WARN or seconds > HORIZON_SECONDS_WARN:
        text = f"a transaction of {seconds:.0f} s ({xids} xids) pins dead rows: claims get slow"
        remedy = "find it in pg_stat_activity (a backup, a forgotten session) and end it"
        yield Finding("horizon", "warn", text, remedy)
    else:
        yield Finding("horizon", "ok", f"the oldest transaction is {seconds:.0f} s old")


async def _kept(store: PostgresStore) -> Findings:
    ((events, size, erased, whole),) = await store.read_rows("doctor_kept", store.schema)
    text = (
        f"{events} events with {size / 1e6:.1f} MB of data, {erased} of them erased; all tables "
        f"take {whole / 1e6:.1f} MB"
    )
    yield Finding("kept", "ok", text)


async def _chain(store: PostgresStore) -> Findings:
    broken: list[str] = []
    count = 0
    for shard in await store.owners():
        first = max(0, shard.head - CHAIN_EVENTS)
        before = await store.read_rows("chain_at", shard.id, first) if first else []
        rows = await store.read_rows("tail", shard.id, first, shard.head - first)
        events = [Event(*row) for row in rows]
        count += len(events)
        wrong = verify(events, before[0][0] if before else GENESIS)
        if wrong is not None or len(events) != shard.head - first:
            at = wrong or (events[-1].seq if events else first) + 1
            broken.append(f"shard {shard.id} from event {at} on")
    if broken:
        text = "events were changed or are missing: " + ", ".join(broken)
        yield Finding("chain", "fail", text, _RESTORE)
    else:
        yield Finding("chain", "ok", f"the last {count} events are as they were committed")


async def _owners(store: PostgresStore) -> Findings:
    rows = await store.owners()
    worked_on = [row for row in rows if row.head]
    gone = await store.missed(sorted({row.owner for row in worked_on if row.owner}))
    idle = sum(not row.owner for row in worked_on)
    left = sum(row.owner in gone for row in worked_on)
    owned = sum(bool(row.owner) for row in rows)
    if not idle and not left:
        yield Finding("owners", "ok", f"{owned} of {len(rows)} shards have an owner")
        return
    text = f"{idle} of {len(worked_on)} shards with events have no owner"
    if left:
        text += f", and the owner of {left} is dead"
    yield Finding("owners", "warn", text, "nothing goes on there until a service is started")


async def _clock(store: PostgresStore) -> Findings:
    ((server,),) = await store.read_rows("clock", 0, store.clock.wall)
    ahead = (store.clock.high - server) / MICROS
    apart = abs(server - Clock().wall()) / MICROS if store.clock.wall is None else 0.0
    if ahead > CLOCK_APART_SECONDS_WARN:
        text = f"the store's clock is {ahead:.0f} s ahead of the server's, and stands still"
        remedy = "mend the server's clock (NTP); deadlines wait until it has caught up"
        yield Finding("clock", "warn", text, remedy)
    elif apart > CLOCK_APART_SECONDS_WARN:
        text = f"the clocks of this host and of the server are {apart:.0f} s apart"
        yield Finding("clock", "warn", text, "mend the one that is wrong; the server's counts")
    else:
        yield Finding("clock", "ok", "the server's clock is not behind the store's")


CHECKS: tuple[Check, ...] = (
    _server,
    _durability,
    _losses,
    _isolation,
    _session,
    _schema,
    _horizon,
    _kept,
    _chain,
    _owners,
    _clock,
)
