"""Hints between nodes: who commits says so, who waits hears it, and a polled truth stands behind.

    commit ──> told ──(at most one in `AT_ONCE_SECONDS` or `SOON_SECONDS`)──> NOTIFY ──> who listens
                                                                                           │
    changed() <── the count goes up <── something is new <── poll the truth <──────────────┘

A hint is sent by a transaction of its own, on a reading link: NOTIFY holds a lock of the whole
database while its transaction commits, so it never rides in one that writes. It is sent at once
when none was sent lately: a commit that hands work over (a cell that is due) waits for less to have
passed than another (somebody may follow a journal). While nobody else listens, none is sent: a
listener holds a shared advisory lock, and the holders are counted now and then.

The truth is polled every `POLL_HEARING_SECONDS` while hints are heard, every `POLL_SECONDS` while
they are not: before the session is made, until all others must know of it, after it broke, and
behind a pooler without `direct=`, where no session can be kept. A lost hint costs that long, and
nothing else.

Not promised: that a hint comes, comes once, or means anything to who hears it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import asyncpg

from outlive import ids
from outlive.clock import MICROS, Clock
from outlive.errors import OutliveError
from outlive.model import Batch, Committed
from outlive.stores.postgres_links import CUT, Connection, Links
from outlive.stores.postgres_session import Session

_FAILURES = (*CUT, asyncpg.PostgresError, OutliveError)
AT_ONCE_SECONDS = 0.01
"""Hints of a node lie at least this far apart."""
SOON_SECONDS = 0.05
"""The same for commits that hand no work over."""
POLL_SECONDS = 0.05
POLL_HEARING_SECONDS = 0.4
POLL_AGAIN_SECONDS = 1.0
COUNTED_SECONDS = 0.5
"""How long the number of listeners is believed."""
_LISTENS = " listens"


class Hints:
    """The hints of one store in `schema`: sent by `told`, waited for by `changed`.

    They are sent, and the truth is polled, on `links`; they are heard on `session`.
    """

    def __init__(
        self, links: Links, session: Session, sql: dict[str, str], schema: str, clock: Clock
    ) -> None:
        self._links = links
        self._session = session
        self._sql = sql
        self._name = ids.token(60)
        self._clock = clock
        digest = blake2b(f"outlive hints {schema}".encode(), digest_size=8).digest()
        self._lock = int.from_bytes(digest, "big", signed=True)
        self.channel = f"outlive_{digest.hex()}"
        self._ear: Connection | None = None
        self._ear_since = 0.0
        self._listeners, self._counted_at = 0, -COUNTED_SECONDS
        self._sent_at = -SOON_SECONDS
        self._sends: asyncio.Handle | None = None
        self._sends_at = 0.0
        self._sending: asyncio.Task[None] | None = None
        self._once_more = False
        self._generation = 0
        self._news = asyncio.Event()
        self._waiting = 0
        self._poller: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._seen: tuple[int, ...] = ()
        self._closed = False
        self.sent = 0
        """Hints sent so far."""
        session.restores.append(self._listen)

    @property
    def is_hearing(self) -> bool:
        """Whether hints of others come in right now."""
        return self._ear is not None and not self._ear.is_closed()

    # --- waiting ----------------------------------------------------------------------------------

    async def changed(self, seen: int, timeout_seconds: float) -> int:
        """See `CellStore.changed`."""
        if seen == self._generation and not self._closed:
            self._waiting += 1
            if not self.is_hearing:
                self._session.keep()
            if self._poller is None or self._poller.done():
                self._poller = asyncio.get_running_loop().create_task(self._poll())
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._news.wait()
            except TimeoutError:
                pass
            finally:
                self._waiting -= 1
        return self._generation

    def _bump(self) -> None:
        self._generation += 1
        self._news.set()
        self._news = asyncio.Event()

    async def _poll(self) -> None:
        """Look for other nodes' commits until nobody waits any more."""
        while self._waiting and not self._closed:
            self._look.clear()
            known = self._clock.boot() - self._ear_since > COUNTED_SECONDS
            wait = POLL_HEARING_SECONDS if self.is_hearing and known else POLL_SECONDS
            try:
                row = tuple((await self._read("changes"))[0])
            except _FAILURES:
                wait = POLL_AGAIN_SECONDS
            else:
                if row != self._seen:
                    self._seen = row
                    self._bump()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._look.wait()

    # --- hearing ----------------------------------------------------------------------------------

    async def _listen(self, link: Connection) -> None:
        """Hear the hints of others on a new session, and let them know that somebody does."""
        await link.add_listener(self.channel, self._heard)
        await link.fetch(self._sql["hints_lock"], self._lock)
        self._ear, self._ear_since = link, self._clock.boot()
        await link.fetch(self._sql["hint"], self.channel, f"{self._name}{_LISTENS}")
        self._look.set()

    def _heard(self, _link: Any, _pid: int, _channel: str, said: str) -> None:
        if said.endswith(_LISTENS):
            self._counted_at = -COUNTED_SECONDS
        if said.removesuffix(_LISTENS) != self._name:
            self._look.set()

    # --- sending ----------------------------------------------------------------------------------

    def told(self, *, at_once: bool = False) -> None:
        """We committed something: whoever waits goes on, and the others hear of it."""
        self._bump()
        now = self._clock.boot()
        if self._closed or (self._is_counted(now) and not self._others):
            return
        sends_at = max(now, self._sent_at + (AT_ONCE_SECONDS if at_once else SOON_SECONDS))
        if self._sends is not None:
            if self._sends_at <= sends_at:
                return
            self._sends.cancel()
        loop = asyncio.get_running_loop()
        self._sends, self._sends_at = loop.call_later(sends_at - now, self._send_now), sends_at

    @property
    def _others(self) -> int:
        return self._listeners - self.is_hearing

    def _is_counted(self, now: float) -> bool:
        return now - self._counted_at < COUNTED_SECONDS

    def _send_now(self) -> None:
        self._sends, self._sent_at = None, self._clock.boot()
        self._once_more = self._sending is not None and not self._sending.done()
        if not self._once_more and not self._closed:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        while True:
            self._once_more = False
            try:
                if not self._is_counted(self._sent_at):
                    ((self._listeners,),) = await self._read("hints_heard", self._lock)
                    self._counted_at = self._sent_at
                if self._others:
                    await self._read("hint", self.channel, self._name)
                    self.sent += 1
            except _FAILURES:
                self._counted_at = -COUNTED_SECONDS
            if not self._once_more:
                return

    async def _read(self, name: str, *values: Any) -> list[Any]:
        async with self._links.borrow() as link:
            return await self._links.fetch(link, self._sql[name], *values)

    # --- the end ----------------------------------------------------------------------------------

    async def close(self) -> None:
        """Wake who waits, let what is being sent go out, and send nothing any more."""
        if self._sends is not None:
            self._sends.cancel()
            self._send_now()
        self._closed = True
        self._bump()
        self._look.set()
        ending = [task for task in (self._poller, self._sending) if task is not None]
        if ending:
            await asyncio.wait(ending)

    def forget(self) -> None:
        """In a forked child: nobody of it waits or listens."""
        self._closed = True


def hands_over(batch: Batch, result: Committed | OutliveError) -> bool:
    """Whether `batch` made a cell that is due: another node may be the one to claim it."""
    if not isinstance(result, Committed):
        return False
    latest = result.time + round(AT_ONCE_SECONDS * MICROS)
    return any(put.due is not None and put.due <= latest for put in batch.put)
