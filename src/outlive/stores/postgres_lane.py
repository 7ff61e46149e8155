"""A writing lane: commits in turn under one writer's mark, and is certain of each outcome.

    mark    a row that says which group of this lane was committed last, and with which versions.
            It is written by the same transaction as the group, only from a lower number to a
            higher one.

    at once ──done──> written              any of them ──cut──> look up ──found──> written
       └─ not as believed ─> surely               │                └─ absent ─> again
                                                  └─ LOOK_UP_TRIES fail ─> unknown

A look-up first locks the mark, so it waits for a lost backend that is still committing, and then
raises it, so that a statement which still lies in some buffer comes too late and writes nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import asyncpg

from outlive import ids
from outlive.clock import MICROS, Clock
from outlive.errors import (
    OutcomeUnknown,
    OutliveError,
    StoreBusy,
    StoreCorrupt,
    StoreUnavailable,
    StoreWentBack,
)
from outlive.model import Committed
from outlive.stores.postgres_beliefs import Beliefs
from outlive.stores.postgres_group import Facts, Group, Plan, Unsure, arguments, facts_of
from outlive.stores.postgres_links import CUT, RACE, Connection, Links, is_cut, mapped
from outlive.stores.postgres_recall import Recall

Results = list[Committed | OutliveError]
LATE_MICROS = 1 * MICROS
"""How far a group's time may lie behind the server's clock; else it is dated again."""
HEARD_SECONDS = 10.0
"""How long the server's clock is told from its last answer, before it is asked again."""
TRIES_MAX = 20
ROUNDS_MAX = 5
LOCK_TRIES = 3
"""How often a group waits for a lock as long as the server lets it."""
RACE_BASE_SECONDS, RACE_CAP_SECONDS = 0.005, 0.25
LOOK_UP_SECONDS = 10.0
LOOK_UP_TRIES = 8
SUPERSEDED = "OL002"
NOT_AS_BELIEVED = "OL004"


class ServerClock:
    """The server's clock as this process knows it: the last answer, and the time since.

    It lies behind the server's by at most one journey, and never goes back. A test's clock takes
    its place; the host's own never does, because nodes would disagree.
    """

    def __init__(self, given: Clock | None) -> None:
        self._given = given if type(given) is not Clock else None
        self._machine = Clock()
        self._heard, self._heard_at = 0, 0.0
        self.high = 0

    @property
    def wall(self) -> int | None:
        """What takes the place of the server's clock in a statement; None: nothing does."""
        return self._given.wall() if self._given is not None else None

    @property
    def is_fresh(self) -> bool:
        if self._given is not None:
            return True
        return self._heard > 0 and self._machine.boot() - self._heard_at < HEARD_SECONDS

    def now(self) -> int:
        if self._given is not None:
            return self.raised(self._given.wall())
        passed = self._machine.boot() - self._heard_at
        return self.raised(self._heard + int(passed * MICROS))

    def heard(self, micros: int) -> None:
        """Take note of what the server said just now."""
        if self._given is None:
            self._heard, self._heard_at = micros, self._machine.boot()
            self.raised(micros)

    def raised(self, micros: int) -> int:
        self.high = max(self.high, micros)
        return self.high


class _Sent:
    """What was sent last that may have been committed, whatever came back."""

    plan: Plan | None = None
    link: Connection | None = None


class Lane:
    """Commits under the writer's mark `name`.

    `beliefs` and `recall` are shared by the lanes of a store.
    """

    def __init__(
        self,
        name: str,
        links: Links,
        sql: dict[str, str],
        clock: ServerClock,
        beliefs: Beliefs,
        recall: Recall,
    ) -> None:
        self._recall = recall
        self.name = name
        self._links = links
        self._sql = sql
        self._clock = clock
        self._beliefs = beliefs
        self._turn = asyncio.Lock()
        self._numbers = itertools.count(1)

    async def commit(self, group: Group) -> Results:
        """Commit all of `group` in one transaction; gives a receipt or refusal for each batch.

        Raises `StoreUnavailable` (nothing was written) or `OutcomeUnknown`.
        """
        if not group.open:
            return in_order(group, {})
        async with self._turn:
            believed, locked = True, 0
            for attempt in range(1, TRIES_MAX + 1):
                number, sent = next(self._numbers), _Sent()
                try:
                    async with self._links.borrow() as link:
                        link.doubtful, sent.link = False, link
                        told = await self._at_once(link, group, number, sent) if believed else None
                        if told is None:
                            told = await self._surely(link, group, number, sent)
                        self.acknowledge(link, number, group, sent.plan)
                    return in_order(group, told)
                except RACE as error:
                    if sent.plan is not None:
                        self._beliefs.doubt(sent.plan)
                    if believed and isinstance(error, asyncpg.UniqueViolationError):
                        believed = False
                        continue
                    believed = False
                    locked += isinstance(error, asyncpg.LockNotAvailableError)
                    if locked >= LOCK_TRIES:
                        raise StoreBusy(
                            f"Somebody held a lock all of {locked} times that it was waited for; "
                            "nothing was written."
                        ) from error
                    wait = ids.full_jitter(RACE_BASE_SECONDS, RACE_CAP_SECONDS, attempt)
                    await asyncio.sleep(wait)
                except OutliveError:
                    raise
                except Exception as error:
                    state = getattr(error, "sqlstate", None)
                    if state == NOT_AS_BELIEVED and sent.plan is not None:
                        self._beliefs.doubt(sent.plan)
                        believed = False
                    elif state == SUPERSEDED:
                        await self.register()
                    elif not is_cut(error):
                        raise mapped(error) from error
                    elif sent.plan is not None:
                        base = await self.look_up(number, error)
                        if base is not None:
                            self._beliefs.learn(sent.plan, base)
                            self._recall.told(self.name, number, group, sent.plan)
                            return in_order(group, sent.plan.results(base))
        raise StoreBusy(
            f"Tried {TRIES_MAX} times, and others were faster or the connection was cut; nothing "
            "was written."
        )

    async def _at_once(
        self, link: Connection, group: Group, number: int, sent: _Sent
    ) -> dict[int, Committed | OutliveError] | None:
        if not self._clock.is_fresh:
            return None
        try:
            plan = group.plan(self._clock.now(), self._beliefs.chains)
        except Unsure:
            return None
        late = LATE_MICROS if self._clock.wall is None else None
        sent.plan = plan
        call = self._beliefs.call(plan, late, group.relaxed)
        if call is None:
            row = await self._call(link, group, number, plan, arguments(plan), late)
            base = row["base"] if row["done"] else None
        else:
            statement, given = self._sql[call[0]], call[1]
            (row,) = await self._links.fetch(link, statement, self.name, number, *given)
            moment, base = row[0]
            self._clock.heard(moment)
        if base is None:
            sent.plan = None
            self._beliefs.doubt(plan)
            return None
        self._beliefs.learn(plan, base)
        return plan.results(base)

    async def _surely(
        self, link: Connection, group: Group, number: int, sent: _Sent
    ) -> dict[int, Committed | OutliveError]:
        await self._links.begin(link)
        plan, base = await self.settle(link, group, number)
        if base is None:
            await link.execute("ROLLBACK")
            return plan.results(0)
        sent.plan = plan
        await link.execute("COMMIT")
        self._beliefs.learn(plan, base)
        return plan.results(base)

    async def settle(self, link: Connection, group: Group, number: int) -> tuple[Plan, int | None]:
        """Write `group` inside the transaction that is open on `link`.

        Gives the plan that was carried out and the first of its versions, or None for a plan that
        refuses all and wrote nothing. Valid once the transaction is committed.
        """
        for _ in range(ROUNDS_MAX):
            question = group.question(self._clock.now())
            asked = arguments(question)
            row = await self._call(link, group, number, question, asked, None, probe=True)
            facts = facts_of(question, row)
            self._clock.heard(facts.clock)
            self._demand_journal(group, facts)
            now = max(self._clock.now(), *(shard.time for shard in facts.shards.values()), 0)
            plan = group.plan(now, {}, facts)
            if not plan.receipts:
                return plan, None
            row = await self._call(link, group, number, plan, arguments(plan), None)
            if row["done"]:
                self._clock.raised(now)
                return plan, row["base"]
        raise StoreBusy("Others changed the same cells all the time; nothing was written.")

    async def _call(
        self,
        link: Connection,
        group: Group,
        number: int,
        plan: Plan,
        given: list[Any],
        late: int | None,
        *,
        probe: bool = False,
    ) -> Any:
        statement = self._sql["commit_group"]
        values = (self.name, number, plan.now, late, group.relaxed, probe, *given)
        if link.is_in_transaction():
            row = await link.fetchrow(statement, *values)
        else:
            (row,) = await self._links.fetch(link, statement, *values)
        self._clock.heard(row["clock"])
        return row

    def _demand_journal(self, group: Group, facts: Facts) -> None:
        """A shard that is still ours must have every event that was acknowledged."""
        for lease in {batch.lease for batch in group.batches if batch.lease is not None}:
            row, known = facts.shards.get(lease.shard), self._beliefs.chains.get(lease.shard)
            ours = row is not None and (row.owner, row.epoch) == (lease.owner, lease.epoch)
            if ours and known is not None and row is not None and row.head < known[0]:
                raise self._recall.went_back(
                    f"shard {lease.shard} ends at event {row.head}, and had {known[0]} events"
                )

    def acknowledge(self, link: Connection, number: int, group: Group, plan: Plan | None) -> None:
        """Group `number` is about to be told done; `plan` is None when it was refused whole.

        Raises `OutcomeUnknown` if the server gave up waiting for its standby on `link`.
        """
        self._demand_certain(link, group)
        if plan is not None:
            self._recall.told(self.name, number, group, plan)

    def _demand_certain(self, link: Connection, group: Group) -> None:
        if link.doubtful and not group.relaxed:
            raise OutcomeUnknown(
                "The commit is on this server, but its wait for the standby was cancelled; a "
                "fail-over may lose it."
            )

    # --- after a cut ------------------------------------------------------------------------------

    def next_number(self) -> int:
        return next(self._numbers)

    async def register(self) -> None:
        """Make the writer's mark again, after it was forgotten.

        It may be missing because another store lies there now, restored while this connection was
        open: then nothing may be written to it. Raises `StoreCorrupt` or `StoreWentBack`, or
        `StoreUnavailable`.
        """
        make, values = self._sql["writer_make"], ([self.name], self._clock.now())
        try:
            async with self._links.borrow() as link:
                if self._links.check is not None:
                    await self._links.check(link)
                await self._links.fetch(link, make, *values)
        except (*CUT, asyncpg.PostgresError) as error:
            raise mapped(error) from error

    def learn(self, plan: Plan, base: int) -> None:
        """`plan` was committed, with versions from `base` on."""
        self._beliefs.learn(plan, base)

    async def look_up(self, number: int, cause: BaseException) -> int | None:
        """The first version of group `number` if it was committed, None if it never will be.

        Raises `OutcomeUnknown` when the server cannot be asked, `LOOK_UP_TRIES` times.
        """
        error: BaseException = cause
        for attempt in itertools.count(1):
            try:
                async with asyncio.timeout(LOOK_UP_SECONDS), self._links.borrow() as link:
                    return await self._look(link, number)
            except (StoreCorrupt, StoreWentBack):
                raise
            except (*CUT, asyncpg.PostgresError, OutliveError) as e:
                error = e  # also of who is not let in: that is no word about the commit
            if attempt >= LOOK_UP_TRIES:
                break
            await asyncio.sleep(ids.full_jitter(0.1, 2.0, attempt))
        raise OutcomeUnknown(
            f"The connection was lost while committing ({cause}), and looking the commit up failed "
            f"too ({error}); whether it was written is not known."
        ) from cause

    async def _look(self, link: Connection, number: int) -> int | None:
        await self._links.begin(link)
        row = await link.fetchrow(self._sql["writer_lock"], self.name)
        if row is not None and row["last"] == number:
            # On a server that lost its standbys what is seen may not have reached any. A commit of
            # our own comes behind it, and waits for a standby too, before it is believed.
            await link.execute(self._sql["writer_burn"], self.name, number)
            link.doubtful = False
            await link.execute("COMMIT")
            if link.doubtful:
                raise StoreUnavailable("The wait for a standby was cancelled.")
            base: int = row["base"]
            return base
        if row is not None and row["last"] < number:
            await link.execute(self._sql["writer_burn"], self.name, self.next_number())
        await link.execute("COMMIT")
        return None


def in_order(group: Group, told: dict[int, Committed | OutliveError]) -> Results:
    """What each batch of `group` is told, in the order of the batches."""
    results: Sequence[Committed | OutliveError] = [
        group.flaws[at] if at in group.flaws else told[at] for at in range(len(group.batches))
    ]
    return list(results)
