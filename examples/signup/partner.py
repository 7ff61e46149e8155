"""The partner: somebody else's service, with a mind and a ledger of its own.

The sign-up calls it to open a customer and to send a mail. It knows nothing of outlive. It is what
a good outside service is: it takes an `Idempotency-Key`, does one effect per key, gives every
repetition the same answer, and keeps all of that in a ledger on disk (SQLite, WAL,
synchronous=FULL), so that killing it loses nothing it has answered.

    POST   /customers               opens a customer        201, the same for the same key
    DELETE /customers/by-key/{key}  closes it again         204; a later POST under the key gets 410
    POST   /mails                   sends a mail            202, the same for the same key
    GET    /ledger                  every key: calls received, effects done, undone
    GET    /behaviour · PUT /behaviour

A partner worth testing against misbehaves on demand (`Behaviour`): it is slow, down, down at times,
says no, or does the work and hangs up before it answers. Its behaviour is forgotten when it ends;
its ledger is not.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, ClassVar, Literal

import apsw
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.auto import AutoHTTPProtocol

BODY_BYTES_MAX = 64 * 1024
KEY_CHARACTERS_MAX = 255
FAILURES = r"^(none|always|next:\d{1,6}|rate:(0(\.\d+)?|1(\.0+)?))$"

TABLES = """
CREATE TABLE IF NOT EXISTS keys (
    kind TEXT NOT NULL, key TEXT NOT NULL, id TEXT, asked BLOB,
    calls INTEGER NOT NULL, undone INTEGER NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS effects (
    n INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, what TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS effects_of_key ON effects (kind, key);
"""
CALLED = """
INSERT INTO keys VALUES (?, ?, NULL, NULL, 1, 0) ON CONFLICT DO UPDATE SET calls = calls + 1
RETURNING id, asked, undone
"""
EFFECT = "INSERT INTO effects (kind, key, what) VALUES (?, ?, ?)"
ANSWERED = "UPDATE keys SET id = ?, asked = ? WHERE kind = ? AND key = ?"
UNDONE = "INSERT INTO keys VALUES (?, ?, NULL, NULL, 0, 1) ON CONFLICT DO UPDATE SET undone = 1"
LEDGER = """
SELECT key, kind, calls, undone,
    (SELECT count(*) FROM effects e WHERE e.kind = k.kind AND e.key = k.key) AS effects,
    (SELECT min(n) FROM effects e WHERE e.kind = k.kind AND e.key = k.key) AS first
FROM keys k ORDER BY first IS NULL, first, kind, key
"""


class Behaviour(msgspec.Struct, forbid_unknown_fields=True):
    """How the partner treats the calls named in `on`."""

    delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    """Half of it passes before the effect, half of it between the effect and the answer."""
    fail: Annotated[str, msgspec.Meta(pattern=FAILURES)] = "none"
    """503 without an effect: never, always, for the next N calls, or at this rate."""
    answer: Literal["normal", "after_commit_drop", "refuse"] = "normal"
    """`after_commit_drop` does the effect and hangs up; `refuse` is 422: no retry changes it."""
    on: tuple[Literal["customers", "mails", "undo"], ...] = ("customers", "mails")

    def fails(self) -> bool:
        """Whether the call at hand is to fail; counts `next:N` down."""
        how, _, amount = self.fail.partition(":")
        if how == "next":
            self.fail = f"next:{int(amount) - 1}" if int(amount) > 1 else "none"
            return int(amount) > 0
        return how == "always" or (how == "rate" and random.random() < float(amount))


class Gone(Exception):
    """The key was undone: nothing will ever be made under it."""


class OtherRequest(Exception):
    """The key was used for another request."""


class Ledger:
    """What was asked and what was done, on disk: each method one transaction, all in one thread."""

    def __init__(self, path: str) -> None:
        Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._db = self._thread.submit(self._open, path).result()

    @staticmethod
    def _open(path: str) -> apsw.Connection:
        db = apsw.Connection(path)
        db.set_busy_timeout(5000)
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", TABLES):
            db.execute(statement).fetchall()
        return db

    async def _run(self, work: Callable[[], Any]) -> Any:
        def transaction() -> Any:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = work()
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            return result

        return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)

    async def make(self, kind: str, key: str, body: bytes) -> str:
        """Do the effect of `key` unless it was done; gives the id made.

        Raises `Gone` when the key was undone, `OtherRequest` when its body was another.
        """
        asked = blake2b(body, digest_size=16).digest()

        def work() -> Any:
            made, before, undone = self._db.execute(CALLED, (kind, key)).fetchall()[0]
            if undone:
                return Gone()
            if made is not None:
                return made if before == asked else OtherRequest()
            self._db.execute(EFFECT, (kind, key, body.decode()))
            made = f"{kind}-{self._db.last_insert_rowid()}"
            self._db.execute(ANSWERED, (made, asked, kind, key))
            return made

        answer = await self._run(work)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    async def undo(self, kind: str, key: str) -> None:
        """Take the effect of `key` back and make a later one impossible; harmless without one."""
        await self._run(lambda: self._db.execute(UNDONE, (kind, key)).fetchall())

    async def lines(self) -> list[dict[str, Any]]:
        """Every key that was ever used or undone, in the order of the effects."""
        rows = await self._run(lambda: self._db.execute(LEDGER).fetchall())
        names = ("key", "kind", "calls", "undone", "effects")
        return [{**dict(zip(names, row, strict=False)), "undone": bool(row[3])} for row in rows]

    def close(self) -> None:
        self._thread.submit(self._db.close).result()


class Connection(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """A connection that can be found by its peer's address, so that it can be cut."""

    alive: ClassVar[dict[tuple[str, int], asyncio.Transport]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.alive[transport.get_extra_info("peername")[:2]] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive.pop(self.transport.get_extra_info("peername")[:2], None)
        super().connection_lost(exc)


def answer(status: int, document: Any = None) -> Response:
    body = b"" if document is None else msgspec.json.encode(document)
    return Response(body, status, media_type="application/json" if body else None)


class Refusal(Exception):
    """The answer is no, and this is why."""

    def __init__(self, status: int, error: str, message: str) -> None:
        self.status = status
        self.document = {"error": error, "message": message}


async def refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return answer(refusal.status, refusal.document)


async def no_such_thing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return answer(error.status_code, {"error": "no-such-thing", "message": message})


class Partner:
    """The HTTP face of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.behaviour = Behaviour()

    def asgi(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/customers", self.open_customer, methods=["POST"]),
                Route("/customers/by-key/{key}", self.close_customer, methods=["DELETE"]),
                Route("/mails", self.send_mail, methods=["POST"]),
                Route("/ledger", self.show_ledger),
                Route("/behaviour", self.show_behaviour, methods=["GET"]),
                Route("/behaviour", self.change_behaviour, methods=["PUT"]),
            ],
            exception_handlers={Refusal: refused, HTTPException: no_such_thing},
        )

    async def open_customer(self, request: Request) -> Response:
        return await self._make(request, "customers", "customer", 201)

    async def send_mail(self, request: Request) -> Response:
        return await self._make(request, "mails", "mail", 202)

    async def _make(self, request: Request, on: str, kind: str, status: int) -> Response:
        key = request.headers.get("idempotency-key", "").strip().strip('"')
        if not 0 < len(key) <= KEY_CHARACTERS_MAX:
            message = f"send an Idempotency-Key of 1 to {KEY_CHARACTERS_MAX} characters"
            raise Refusal(400, "key-missing", message)
        body = await json_object(request)

        async def effect() -> Response:
            try:
                made = await self.ledger.make(kind, key, body)
            except Gone:
                message = f"the {kind} of this key was undone; use a new key"
                raise Refusal(410, "key-undone", message) from None
            except OtherRequest:
                message = "this key was used with another body"
                raise Refusal(422, "key-reused", message) from None
            return answer(status, {"id": made})

        return await self._behave(request, on, effect)

    async def close_customer(self, request: Request) -> Response:
        async def effect() -> Response:
            await self.ledger.undo("customer", request.path_params["key"])
            return answer(204)

        return await self._behave(request, "undo", effect)

    async def _behave(
        self, request: Request, on: str, effect: Callable[[], Awaitable[Response]]
    ) -> Response:
        how = self.behaviour
        if on not in how.on:
            return await effect()
        await asyncio.sleep(how.delay_seconds / 2)
        if how.fails():
            raise Refusal(503, "unavailable", "the partner is down; nothing was done")
        if how.answer == "refuse":
            raise Refusal(422, "refused", "the partner does not want this customer")
        given = await effect()
        await asyncio.sleep(how.delay_seconds / 2)
        if how.answer == "after_commit_drop" and request.client:
            Connection.alive[request.client.host, request.client.port].abort()
            while (await request.receive())["type"] != "http.disconnect":
                pass
        return given

    async def show_ledger(self, request: Request) -> Response:
        return answer(200, await self.ledger.lines())

    async def show_behaviour(self, request: Request) -> Response:
        return answer(200, self.behaviour)

    async def change_behaviour(self, request: Request) -> Response:
        try:
            self.behaviour = msgspec.json.decode(await request.body(), type=Behaviour)
        except msgspec.MsgspecError as error:
            raise Refusal(400, "bad-behaviour", str(error)) from None
        return answer(200, self.behaviour)


async def json_object(request: Request) -> bytes:
    """The body in one spelling, if it is a JSON object of a sane size."""
    body = await request.body()
    if len(body) > BODY_BYTES_MAX:
        raise Refusal(413, "too-large", f"a body has at most {BODY_BYTES_MAX} bytes")
    try:
        return msgspec.json.encode(msgspec.json.decode(body, type=dict[str, Any]), order="sorted")
    except msgspec.MsgspecError as error:
        raise Refusal(400, "bad-body", f"the body is not a JSON object: {error}") from None


class Announced(uvicorn.Server):
    """A server that says where it listens once it does, and ends in order when asked to."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = sockets[0].getsockname()[:2] if sockets else ("", 0)
        print(f"partner ready on http://{host}:{port}", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description="The outside service of the sign-up example.")
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=8900, help="0: any free one")
    options.add_argument("--ledger", default=".outlive/partner.db", help="path of the ledger")
    given = options.parse_args()
    try:
        listener = socket.create_server((given.host, given.port))
    except OSError as error:
        raise SystemExit(
            f"partner: cannot listen on {given.host}:{given.port}: {error.strerror}"
        ) from None
    ledger = Ledger(given.ledger)
    config = uvicorn.Config(
        Partner(ledger).asgi(),
        http=Connection,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    Announced(config).run(sockets=[listener])
    ledger.close()


if __name__ == "__main__":
    main()
