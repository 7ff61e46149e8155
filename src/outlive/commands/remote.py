"""A service elsewhere, asked as if it were an open application: the same methods, over HTTP.

Every method of `doors/operations.py` is one request to `/outlive/operations/{name}`; whole journals
go to and come from `/outlive/journals`. No redirect is
followed, so a token goes nowhere but where its context says. A request whose answer is lost may
have been carried out: that is said, and asking again does no harm but for a fork without a key.
"""

from __future__ import annotations

import http.client
import math
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Raw, Struct

from outlive.commands.contexts import Context
from outlive.commands.exits import (
    FAILED,
    FORBIDDEN,
    MISUSED,
    NOT_FOUND,
    STORE,
    CommandFailed,
    code_of,
)
from outlive.doors.operations import OPERATIONS, Operation, answer_in
from outlive.errors import TooLarge

if TYPE_CHECKING:
    from outlive.kinds.processes.transfer import Redact

T = TypeVar("T")
TIMEOUT_SECONDS = 60.0
ANSWER_BYTES_MAX = 256 * 1024 * 1024
PATH = "/outlive/operations/"
JOURNALS = "/outlive/journals"
CODES = {401: FORBIDDEN, 403: FORBIDDEN, 404: NOT_FOUND, 413: MISUSED, 422: MISUSED, 503: STORE}
"""How a command ends after a problem that says nothing closer."""
ENDED = re.compile(rb'\n\{"end":[0-9]+,"sum":"[0-9a-f]+"\}\n\Z')
"""How an exported journal ends, when it is whole."""


class _Imported(Struct):
    id: str


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

    async def export_journal(self, id: str, *, redact: Redact | None = None) -> str:
        """The journal of a process, whole, as the service shows it."""
        path = f"{JOURNALS}/{quote(id, safe='')}"
        body = self._given(*self._exchange("GET", path))
        if not ENDED.search(body):
            raise CommandFailed(
                f"the journal of {id} is not whole; export it again, or on its store", FAILED
            )
        if redact is not None:
            from outlive.kinds.processes.transfer import redacted_file

            body = redacted_file(body, redact)
        return body.decode()

    async def import_journal(
        self, text: str | bytes, *, within: float = 30.0, who: str = "", why: str = ""
    ) -> str:
        """Send a journal; gives the id of the process. Raises `TimeoutError` when it is kept."""
        from outlive.doors.transfers import IMPORT_BYTES_MAX

        body = text.encode() if isinstance(text, str) else text
        if len(body) > IMPORT_BYTES_MAX:
            raise TooLarge(f"The journal has {len(body)} bytes; at most {IMPORT_BYTES_MAX}.")
        query = urlencode({"reason": why, "within": f"{within:g}", "who": who})
        status, answer = self._exchange(
            "POST",
            f"{JOURNALS}?{query}",
            body,
            "application/x-ndjson",
            lost="whether it was imported is not known; asking again does no harm",
        )
        told = self._given(status, answer)
        id = self._read(lambda: msgspec.json.decode(told, type=_Imported)).id
        if status == 202:
            raise TimeoutError(f"no node has taken {id} in after {within:g} s")
        return id

    def _ask(self, operation: Operation, arguments: bytes) -> Any:
        path = PATH + operation.name
        if operation.changes:
            again = "look first" if operation.name == "fork" else "asking again does no harm"
            lost = f"whether it was done is not known; {again}"
            body = self._given(
                *self._exchange("POST", path, arguments, "application/json", lost=lost)
            )
        else:
            body = self._given(*self._exchange("GET", f"{path}?arguments={quote(arguments)}"))
        return self._read(lambda: answer_in(operation, body))

    def _given(self, status: int, body: bytes) -> bytes:
        """The body of an answer that is none of a refusal. Raises `CommandFailed`."""
        if status not in (200, 201, 202):
            raise self._failed(status, body)
        return body

    def _read(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise CommandFailed(
                f"context {self._context.name}: what answers at {self._context.url} is no service "
                "of outlive, or one of another release",
                FAILED,
            ) from None

    def _exchange(
        self, method: str, path: str, body: bytes | None = None, kind: str = "", *, lost: str = ""
    ) -> tuple[int, bytes]:
        """One request; `lost` says what it means when it was sent and no answer came."""
        where = urlsplit(self._context.url)
        headers = {"Accept": "application/json"}
        if self._context.token:
            headers["Authorization"] = f"Bearer {self._context.token}"
        if kind:
            headers["Content-Type"] = kind
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
            connection.request(method, where.path + path, body, headers)
            answer = connection.getresponse()
            found = answer.read(ANSWER_BYTES_MAX + 1)
            if len(found) > ANSWER_BYTES_MAX:
                raise CommandFailed(
                    f"what {self._context.url} answers has more than {ANSWER_BYTES_MAX} bytes",
                    FAILED,
                )
            return answer.status, found
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = f"; {lost}" if sent and lost else ""
            why = str(error) or type(error).__name__
            raise CommandFailed(
                f"{self._context.url} does not answer: {why}{said}", STORE
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
            code = CODES.get(status, FAILED)
        said = f"{problem.detail or problem.title} [{problem.code}] {problem.remedy}"
        return CommandFailed(" ".join(said.split()), code, kind)


def _arguments(operation: Operation, args: tuple[Any, ...], named: dict[str, Any]) -> bytes:
    fields = {field.name: field for field in msgspec.structs.fields(operation.asks)}
    given = dict(zip(fields, args, strict=False)) | named
    if unknown := {name for name in given.keys() - fields.keys() if given[name]}:
        raise CommandFailed(
            f"{sorted(unknown)[0]} needs the store itself: give --store, not --context", MISUSED
        )
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):  # JSON would say null for it
            raise CommandFailed(f"{name} is {value}; it must be a number", MISUSED)
        if name in fields and fields[name].type is Raw:
            try:
                msgspec.json.decode(value)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise CommandFailed(f"the {name} is not JSON: {error}", MISUSED) from None
            given[name] = Raw(value)
    return msgspec.json.encode({name: given[name] for name in given if name in fields})
