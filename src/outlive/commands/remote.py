"""A service elsewhere, asked as if it were an open application: the same methods, over HTTP.

Every method of `doors/operations.py` is one request to `/outlive/operations/{name}`. No redirect is
followed, so a token goes nowhere but where its context says. A request whose answer is lost may
have been carried out: that is said, and asking again does no harm but for a fork without a key.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Raw, Struct

from outlive.commands.contexts import Context
from outlive.commands.exits import FAILED, FORBIDDEN, MISUSED, STORE, CommandFailed, code_of
from outlive.doors.operations import OPERATIONS, Operation

TIMEOUT_SECONDS = 60.0
ANSWER_BYTES_MAX = 256 * 1024 * 1024
PATH = "/outlive/operations/"


class _Problem(Struct):
    title: str = ""
    detail: str = ""
    code: str = ""
    remedy: str = ""


class Remote:
    """The methods of an `Outlive` and its `Desk` that may be asked from afar."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        operation = OPERATIONS.get(name)

        async def call(*args: Any, **named: Any) -> Any:
            if operation is None:
                raise CommandFailed(
                    "this needs the store itself: give --store, not --context", MISUSED
                )
            named.pop("progress", None)  # what is told of it comes at its end
            return self._ask(operation, _arguments(operation, args, named))

        return call

    def _ask(self, operation: Operation, arguments: bytes) -> Any:
        status, body = self._exchange(operation, arguments)
        if status != 200:
            raise self._failed(status, body)
        try:
            if operation.gives is None:
                return None
            return msgspec.json.decode(body, type=operation.gives)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise CommandFailed(
                f"context {self._context.name}: what answers at {self._context.url} is no service "
                "of outlive, or one of another release",
                FAILED,
            ) from None

    def _exchange(self, operation: Operation, arguments: bytes) -> tuple[int, bytes]:
        where, path = urlsplit(self._context.url), PATH + operation.name
        headers = {"Accept": "application/json"}
        if self._context.token:
            headers["Authorization"] = f"Bearer {self._context.token}"
        body: bytes | None = arguments
        if operation.changes:
            headers["Content-Type"] = "application/json"
        else:
            path, body = f"{path}?arguments={quote(arguments)}", None
        host = where.hostname or ""
        connection = (
            http.client.HTTPSConnection(
                host, where.port, timeout=TIMEOUT_SECONDS, context=ssl.create_default_context()
            )
            if where.scheme == "https"
            else http.client.HTTPConnection(host, where.port, timeout=TIMEOUT_SECONDS)
        )
        sent = False
        try:
            connection.connect()
            sent = True
            method = "POST" if operation.changes else "GET"
            connection.request(method, where.path + path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException, ValueError) as error:
            lost = sent and operation.changes
            again = "look first" if operation.name == "fork" else "asking again does no harm"
            said = f"whether it was done is not known; {again}" if lost else ""
            why = str(error) or type(error).__name__
            raise CommandFailed(
                f"{self._context.url} does not answer: {why}" + (f"; {said}" if said else ""),
                STORE,
            ) from None
        finally:
            connection.close()

    def _failed(self, status: int, body: bytes) -> CommandFailed:
        try:
            problem = msgspec.json.decode(body, type=_Problem)
        except (msgspec.DecodeError, UnicodeDecodeError):
            problem = _Problem()
        if not problem.code:
            return CommandFailed(
                f"context {self._context.name}: {self._context.url} answers {status}, and not as "
                "a service of outlive does",
                STORE if status >= 500 else FAILED,
            )
        from outlive.commands.explain import catalogue

        kind = next((one for one in catalogue() if one.code == problem.code), None)
        code = FAILED if kind is None else code_of(kind)
        if code == FAILED:
            code = {401: FORBIDDEN, 403: FORBIDDEN, 422: MISUSED, 503: STORE}.get(status, FAILED)
        said = f"{problem.detail or problem.title} [{problem.code}] {problem.remedy}"
        return CommandFailed(" ".join(said.split()), code)


def _arguments(operation: Operation, args: tuple[Any, ...], named: dict[str, Any]) -> bytes:
    fields = {field.name: field for field in msgspec.structs.fields(operation.asks)}
    given = dict(zip(fields, args, strict=False)) | named
    if unknown := {name for name in given.keys() - fields.keys() if given[name]}:
        raise CommandFailed(
            f"{sorted(unknown)[0]} needs the store itself: give --store, not --context", MISUSED
        )
    for name, value in given.items():
        if name in fields and fields[name].type is Raw:
            try:
                msgspec.json.decode(value)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise CommandFailed(f"the {name} is not JSON: {error}", MISUSED) from None
            given[name] = Raw(value)
    return msgspec.json.encode({name: given[name] for name in given if name in fields})
