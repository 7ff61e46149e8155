"""What `outlive … --context` asks of a service elsewhere, guarded as the dashboard is.

    GET  /outlive/operations/{name}?arguments={…}     what only looks
    POST /outlive/operations/{name}   {…}             what changes something: operators only

The names and what they take stand in `doors/operations.py`. Both are served to this machine only,
or to whom `Outlive(dashboard=Access(…))` gives a token. A POST must say that it is JSON, which a
form of a foreign page cannot say without asking first. Each change is durable before its answer,
and recorded with the name of the token's owner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec
from msgspec import UNSET, Raw

from outlive.errors import InvalidInput, MalformedInput
from outlive.web.access import ANYBODY
from outlive.web.messages import JSON, Request, Response, demand_json, read_json
from outlive.web.problems import InvalidQuery, MethodNotAllowed, NotFound, UnsupportedMediaType

if TYPE_CHECKING:  # the table and the desk are loaded by the first who asks
    from outlive.app import Outlive
    from outlive.doors.operations import Operation

ARGUMENTS_BYTES_MAX = 1024 * 1024
_encode = msgspec.json.Encoder().encode


class Operations:
    """The handlers of `/outlive/operations`."""

    def __init__(self, app: Outlive) -> None:
        self._app = app

    async def look(self, request: Request) -> Response:
        """`GET /outlive/operations/{name}`."""
        operation = _named(request, changes=False)
        try:
            query = parse_qs(request.query.decode("latin-1"), max_num_fields=10)
        except ValueError as error:
            raise InvalidQuery(f"The query cannot be read: {error}.") from None
        return await self._perform(request, operation, query.get("arguments", ["{}"])[-1].encode())

    async def change(self, request: Request) -> Response:
        """`POST /outlive/operations/{name}`."""
        operation = _named(request, changes=True)
        demand_json(request)
        if b"content-type" not in request.headers:
            raise UnsupportedMediaType("The body is not declared; Content-Type: application/json.")
        return await self._perform(
            request, operation, await read_json(request, ARGUMENTS_BYTES_MAX) or b"{}"
        )

    async def _perform(self, request: Request, operation: Operation, body: bytes) -> Response:
        from outlive.doors.desk import Desk
        from outlive.doors.operations import Forked

        try:
            asked = msgspec.json.decode(body, type=operation.asks)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"{operation.name}: {error}. Nothing was done.") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedInput(f"{operation.name}: {error}. Nothing was done.") from None
        usual = {one.name: one.default for one in msgspec.structs.fields(operation.asks)}
        given: dict[str, Any] = {
            name: bytes(value) if isinstance(value, Raw) else value
            for name, value in msgspec.structs.asdict(asked).items()
            if value is not UNSET
            and (name == "who" or isinstance(value, Raw) or value != usual[name])
        }
        visitor = request.visitor
        if "who" in given and visitor is not None and visitor is not ANYBODY:
            given["who"] = visitor.name
        place = Desk(self._app) if operation.at_desk else self._app
        try:
            made = await getattr(place, operation.name)(**given)
        except ValueError as error:
            raise InvalidInput(f"{operation.name}: {error}. Nothing was done.") from None
        if operation.gives is Forked:
            made = Forked(made.id)
        return Response(200, _encode(made), [JSON, (b"cache-control", b"no-store")])


def _named(request: Request, *, changes: bool) -> Operation:
    from outlive.doors.operations import OPERATIONS

    found = OPERATIONS.get(request.id)
    if found is None:
        raise NotFound(f"There is no operation {request.id[:64]}.")
    if found.changes != changes:
        error = MethodNotAllowed(f"{found.name} is asked by {'POST' if found.changes else 'GET'}.")
        error.allow = b"OPTIONS, POST" if found.changes else b"GET, HEAD, OPTIONS"
        raise error
    return found
