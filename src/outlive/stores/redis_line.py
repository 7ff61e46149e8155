"""One connection to Redis: what is asked in one turn of the event loop goes in one trip.

    ask ──> waiting ──(no trip under way)──> one pipeline ──> answers, in order
               ▲                                  │
               └── what comes meanwhile waits <───┘

Commits of a turn become one script call, under a number that only rises. When the answer of a trip
is lost, a question that changes nothing is simply not answered. A commit is looked up under its
number on a new connection; the same look-up uses the number up, so the lost call, should it arrive
later still, does nothing. Only if that look-up fails too is its outcome unknown.

The driver never repeats anything by itself: what it would repeat might have been done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError

from outlive import ids
from outlive.clock import MICROS, Clock
from outlive.errors import (
    BadAddress,
    OutcomeUnknown,
    OutliveError,
    StoreFull,
    StoreUnavailable,
)
from outlive.model import Batch
from outlive.stores.lua import script

log = logging.getLogger("outlive.stores")

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 5.0
RESOLVE_SECONDS = 5.0
"""How long a lost commit is looked for before its outcome is called unknown."""
RESOLVE_PAUSE_SECONDS = 0.1
TRIP_BATCHES_MAX = 2048
SCRIPTS = (
    "claim", "clock", "commit", "next_due", "read", "release", "resolve", "scan", "select",
)  # fmt: skip
LOST = (RedisError, OSError, TimeoutError)
Results = tuple[int, list[list[int]]]
_read_results = msgspec.msgpack.Decoder(Results).decode
_pack = msgspec.msgpack.Encoder().encode


class _Waits(Struct, gc=False):
    """Somebody who waits for an answer."""

    future: asyncio.Future[Any]

    def fail(self, error: OutliveError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # whoever waits gets it; nobody waiting is no fault


class Asked(_Waits, gc=False):
    """One call of a script, and who waits for its answer."""

    name: str
    arguments: tuple[Any, ...] = ()
    changes: bool = False
    """Whether it writes, so that a lost answer leaves its outcome unknown."""
    plain: bool = False
    """A command of the server's, not a script of ours."""


class Offered(_Waits, gc=False):
    """Batches to be committed, as commit.lua wants them, and who waits for their receipts."""

    batches: Sequence[msgspec.Raw] = ()
    values: Sequence[bytes] = ()


class RedisLine:
    """The connection of one store; used from one event loop."""

    def __init__(self, address: str, prefix: str) -> None:
        try:
            self._pool: Any = ConnectionPool.from_url(
                address, retry=Retry(NoBackoff(), 0), retry_on_timeout=False, protocol=2,
                socket_connect_timeout=CONNECT_SECONDS, socket_timeout=ANSWER_SECONDS,
                decode_responses=False, health_check_interval=0,
            )  # fmt: skip
            # connects nothing, and refuses what it does not know
            self._pool.make_connection()  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, RedisError):  # their texts may hold a part of the password
            raise BadAddress(
                "The address of the Redis store is not understood: redis://user:password@host:6379/"
                "0?prefix=outlive, in the query only settings that the driver knows, and / # ? @ "
                "in a password as %2F %23 %3F %40."
            ) from None
        self.prefix = f"{{{prefix}}}:".encode()
        self._link: Any = None
        self._loaded = True
        self._asked: list[Asked] = []
        self._offered: list[Offered] = []
        self._task: asyncio.Task[None] | None = None
        self._writer, self._number = ids.token(80), 0
        self.given = ""
        """The time of a test's clock; empty: the server's own."""
        self.high = 0
        """The latest time that this process has seen: the clock does not go back behind it."""
        self.clock = Clock()
        self.heard, self.heard_at = 0, float("-inf")
        """The last time that the server said, and when that was here."""
        self.trips = 0
        self.incarnation = b""
        """What was drawn when the server was empty: another one after it lost everything."""

    async def ask(self, name: str, *arguments: Any, changes: bool = False) -> Any:
        """What script `name` gives. Raises `StoreUnavailable` (nothing was written), and
        `OutcomeUnknown` for one that writes."""
        return await self._put(Asked(_future(), name, arguments, changes))

    async def command(self, name: str, *arguments: Any) -> Any:
        """What a command of the server gives that changes nothing."""
        return await self._put(Asked(_future(), name, arguments, plain=True))

    async def commit(self, batches: Sequence[Batch]) -> Results:
        """The time, and for each batch its versions or why it was refused; see commit.lua. Raises
        `UnicodeEncodeError` for a name that is no text."""
        values = [put.value for batch in batches for put in batch.put]
        offered = Offered(_future(), [_offer(batch) for batch in batches], values)
        self._offered.append(offered)
        self._wake()
        receipts: Results = await offered.future
        return receipts

    def hear(self, time: int) -> None:
        """The server has said what time it is."""
        self.high = max(self.high, time)
        self.heard, self.heard_at = time, self.clock.boot()

    async def close(self) -> None:
        """Let the trip under way end, and hang up."""
        while self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        await self._hang_up()

    async def _put(self, asked: Asked) -> Any:
        self._asked.append(asked)
        self._wake()
        return await asked.future

    def _wake(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._travel())

    async def _travel(self) -> None:
        try:
            while self._asked or self._offered:
                if self._link is not None and not self._loaded:
                    await self._hang_up()  # a new connection makes the scripts known again
                asked, self._asked = self._asked, []
                offered = self._some_offered()
                try:
                    await self._trip(asked, offered)
                except Exception as error:  # a mistake, ours or the driver's, holds nobody up
                    log.exception("A trip to Redis failed.")
                    _fail(asked, offered, _unknown(error))
                    await self._hang_up()
                except BaseException as error:
                    _fail((*asked, *self._asked), (*offered, *self._offered), _unknown(error))
                    self._asked, self._offered = [], []
                    await self._hang_up()
                    raise
        finally:
            self._task = None

    def _some_offered(self) -> list[Offered]:
        """Whose batches go along: as many as one call may hold, in order."""
        size, most = 0, 0
        for offered in self._offered:
            size += len(offered.batches)
            if most and size > TRIP_BATCHES_MAX:
                break
            most += 1
        some, self._offered = self._offered[:most], self._offered[most:]
        return some

    # --- a trip -----------------------------------------------------------------------------------

    async def _trip(self, asked: list[Asked], offered: list[Offered]) -> None:
        try:
            if self._link is not None and _is_hung_up(self._link):
                await self._hang_up()  # the server ended it while nothing was under way
            if self._link is None:
                await self._connect()
        except LOST as error:
            _fail(asked, offered, _unavailable(error))
            return
        self.trips += 1
        calls = [self._call(one) for one in asked]
        if offered:
            self._number += 1
            calls.append(self._commit_call(offered))
        answered = 0
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._link.send_packed_command(self._link.pack_commands(calls), False)
                for one in asked:
                    self._give(one, await self._answer())
                    answered += 1
                if offered:
                    self._give_receipts(offered, await self._answer())
        except LOST as error:
            await self._hang_up()
            for one in asked[answered:]:
                one.fail(_unknown(error) if one.changes else _unavailable(error))
            if offered:
                await self._resolve(offered)

    def _call(self, one: Asked) -> tuple[Any, ...]:
        if one.plain:
            return (*one.name.split(), *one.arguments)
        return ("EVALSHA", script(one.name)[0], 1, self.prefix, *one.arguments)

    def _commit_call(self, offered: Sequence[Offered]) -> tuple[Any, ...]:
        values = [value for one in offered for value in one.values]
        batches = [batch for one in offered for batch in one.batches]
        asked = (self._writer, self._number, self.given, self.high, batches)
        name = "commit" if values else "release"
        return ("EVALSHA", script(name)[0], 1, self.prefix, _pack(asked), *values)

    async def _answer(self) -> Any:
        """What the server answers; a refusal of its own is an answer too."""
        try:
            return await self._link.read_response()
        except ResponseError as refusal:
            return refusal

    def _give(self, one: Asked, answer: Any) -> None:
        if isinstance(answer, NoScriptError):
            self._loaded = False
            self._asked.insert(0, one)
        elif isinstance(answer, ResponseError):
            one.fail(_refused(answer))
        elif not one.future.done():
            one.future.set_result(answer)

    def _give_receipts(self, offered: Sequence[Offered], answer: Any) -> None:
        if isinstance(answer, NoScriptError):
            self._loaded = False
            self._offered[:0] = offered
            return
        if isinstance(answer, ResponseError):
            _fail((), offered, _refused(answer))
            return
        if answer is None:
            raise RuntimeError("a number was used up before its commit")
        time, results = _read_results(answer)
        self.hear(time)
        at = 0
        for one in offered:
            found = results[at : at + len(one.batches)]
            at += len(one.batches)
            if not one.future.done():
                one.future.set_result((time, found))

    async def _resolve(self, offered: Sequence[Offered]) -> None:
        """Make the outcome of the last commit a fact, or call it unknown."""
        call = ("EVALSHA", script("resolve")[0], 1, self.prefix, self._writer, self._number)
        answer: Any = None
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                while True:
                    try:
                        await self._connect()
                        await self._link.send_packed_command(self._link.pack_command(*call), False)
                        answer = await self._link.read_response()
                        break
                    except LOST:
                        await self._hang_up()
                        await asyncio.sleep(RESOLVE_PAUSE_SECONDS)
        except TimeoutError as error:
            _fail((), offered, _unknown(error))
            return
        if answer is None:
            text = "The connection to Redis was lost; nothing was written, and nothing will be."
            _fail((), offered, StoreUnavailable(text))
        else:
            self._give_receipts(offered, answer)

    # --- the connection ---------------------------------------------------------------------------

    async def _connect(self) -> None:
        """A new connection on which every script is known."""
        link = self._pool.make_connection()
        try:
            await link.connect()
            await self._load(link)
            await self._recognise(link)
        except BaseException:
            with suppress(*LOST):
                await link.disconnect()
            raise
        self._link = link

    async def _load(self, link: Any) -> None:
        async with asyncio.timeout(ANSWER_SECONDS):
            calls = [("SCRIPT", "LOAD", script(name)[1]) for name in SCRIPTS]
            await link.send_packed_command(link.pack_commands(calls), False)
            for _ in SCRIPTS:
                await link.read_response()
        self._loaded = True

    async def _recognise(self, link: Any) -> None:
        """See whether the server still has what it had; write down when it does not."""
        state, drawn = self.prefix + b"s", ids.token(80)
        async with asyncio.timeout(ANSWER_SECONDS):
            calls = [("HSETNX", state, "made", drawn), ("HGET", state, "made"), ("TIME",)]
            await link.send_packed_command(link.pack_commands(calls), False)
            said = []
            for _ in calls:
                try:
                    said.append(await link.read_response())
                except ResponseError as refusal:  # it is full, or a replica: it is not empty then
                    said.append(refusal)
            _, made, time = said
            if isinstance(made, ResponseError | None) or isinstance(time, ResponseError):
                return
            if self.incarnation and made != self.incarnation:
                log.error(
                    "The Redis store at %s came back empty: what was in it is lost.",
                    self.prefix.decode(),
                )
                micros = int(time[0]) * MICROS + int(time[1])
                note = ("HSET", state, "emptied", self.given or str(micros))
                await link.send_packed_command(link.pack_command(*note), False)
                await link.read_response()
            self.incarnation = made

    async def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with suppress(*LOST):
                await link.disconnect()


def _is_hung_up(link: Any) -> bool:
    reader = getattr(link, "_reader", None)
    return reader is not None and bool(reader.at_eof())


def _offer(batch: Batch) -> msgspec.Raw:
    """What commit.lua is told of a batch: packed where it is offered, so that a name that is no
    text is the error of whoever gave it, and of nobody whose batches go along."""
    puts = []
    for put in batch.put:
        due = "" if put.due is None else str(put.due)
        marks = [(escaped(name), escaped(word)) for name, word in set(put.marks)]
        puts.append((escaped(put.ref.space), escaped(put.ref.key), due, marks))
    required = [(escaped(n.ref.space), escaped(n.ref.key), n.version) for n in batch.require]
    dropped = [(escaped(ref.space), escaped(ref.key)) for ref in batch.drop]
    return msgspec.Raw(_pack((required, dropped, puts)))


def named(text: str) -> bytes:
    """`text` as a part of a name. Raises `UnicodeEncodeError` when it is no text, as above."""
    return escaped(text).encode()


def escaped(text: str) -> str:
    """`text` without NUL, which stands between the parts of a name; the order of texts is kept."""
    if "\0" in text or "\1" in text:
        return text.replace("\1", "\1\2").replace("\0", "\1\1")
    return text


def plain(data: bytes) -> str:
    """The text that was `escaped`."""
    text = data.decode()
    return text.replace("\1\1", "\0").replace("\1\2", "\1") if "\1" in text else text


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def _fail(asked: Sequence[Asked], offered: Sequence[Offered], error: OutliveError) -> None:
    for one in (*asked, *offered):
        one.fail(error)


def _unavailable(error: BaseException) -> StoreUnavailable:
    return StoreUnavailable(f"Redis does not answer ({_word(error)}); nothing was written.")


def _unknown(error: BaseException) -> OutcomeUnknown:
    return OutcomeUnknown(f"The answer of Redis was lost ({_word(error)}).")


def _refused(error: Exception) -> StoreUnavailable:
    if isinstance(error, OutOfMemoryError):
        return StoreFull("Redis has used the memory it may use; nothing was written.")
    return StoreUnavailable(f"Redis refused: {error.args[0] if error.args else _word(error)}")


def _word(error: BaseException) -> str:
    return type(error).__name__
