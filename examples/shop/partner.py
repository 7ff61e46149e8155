"""The payment partner of the shop: somebody else's service, which may be slow, down, or say no.

    POST /payments     charges; 201, and the same again for the same Idempotency-Key
    GET  /methods      the ways to pay
    GET  /ledger       every payment with its calls and effects, and how often /methods was asked
    PUT  /mood         {"down": true} · {"refuses": true} · {"seconds": 0.2}; {} mends it

Its ledger is that of the sign-up's partner: on disk, one effect for each key.
"""

from __future__ import annotations

import argparse
import asyncio
import socket

import msgspec
import uvicorn
from examples.signup.partner import Announced, Ledger, Refusal, answer, json_object, refused
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Mood(msgspec.Struct, forbid_unknown_fields=True):
    """How the partner is today: it answers 503, refuses payments (422), or takes its time."""

    down: bool = False
    refuses: bool = False
    seconds: float = 0.0


class Payments:
    """The HTTP face of the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.mood, self.asked = ledger, Mood(), 0

    def asgi(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/payments", self.pay, methods=["POST"]),
                Route("/methods", self.methods),
                Route("/ledger", self.show),
                Route("/mood", self.change, methods=["PUT"]),
            ],
            exception_handlers={Refusal: refused},
        )

    async def pay(self, request: Request) -> Response:
        await self._behave()
        if self.mood.refuses:
            raise Refusal(422, "refused", "this payment is refused")
        key = request.headers.get("idempotency-key", "")
        if not key:
            raise Refusal(400, "key-missing", "send an Idempotency-Key")
        made = await self.ledger.make("payment", key, await json_object(request))
        return answer(201, {"id": made})

    async def methods(self, request: Request) -> Response:
        self.asked += 1
        await self._behave()
        return answer(200, ["card", "invoice"])

    async def _behave(self) -> None:
        await asyncio.sleep(self.mood.seconds)
        if self.mood.down:
            raise Refusal(503, "unavailable", "the partner is down; nothing was done")

    async def show(self, request: Request) -> Response:
        return answer(200, {"payments": await self.ledger.lines(), "asked": self.asked})

    async def change(self, request: Request) -> Response:
        try:
            self.mood = msgspec.json.decode(await request.body(), type=Mood)
        except msgspec.MsgspecError as error:
            raise Refusal(400, "bad-mood", str(error)) from None
        return answer(200, self.mood)


def main() -> None:
    options = argparse.ArgumentParser(description="The payment partner of the shop.")
    options.add_argument("--port", type=int, default=8901, help="0: any free one")
    options.add_argument("--ledger", default=".outlive/payments.db", help="path of the ledger")
    given = options.parse_args()
    try:
        listener = socket.create_server(("127.0.0.1", given.port))
    except OSError as error:
        raise SystemExit(f"partner: cannot listen on {given.port}: {error.strerror}") from None
    ledger = Ledger(given.ledger)
    config = uvicorn.Config(
        Payments(ledger).asgi(), log_level="warning", access_log=False, timeout_graceful_shutdown=1
    )
    Announced(config).run(sockets=[listener])
    ledger.close()


if __name__ == "__main__":
    main()
