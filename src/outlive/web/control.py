"""What operators ask over HTTP: of one process, and of many.

    POST {path}/{id}/pause       202   {"who": "ann", "why": "the bank is down"}, or no body
    POST {path}/{id}/resume      202
    POST {path}/{id}/retry       202   {"now": true, "step": "charge"}: the next attempt at once
    POST {path}/{id}/skip        202   {"step": "charge", "value": …} or {"error": "…"}
    POST {path}/{id}/deadline    202   {"seconds": 3600}; null lifts it
    POST {path}/{id}/fork        202   {"at": "charge", "input": …, "version": 2, "cancel": true}
    POST /outlive/bulk           200   a preview: {"verb": "cancel", "status": "stuck", …}
    POST /outlive/bulk/{token}   200   carries it out

All of them change the work of others, so they are served to this machine only, as `retry` is
(access.py). Each is durable before its answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from outlive.clock import rfc3339
from outlive.codec import Shape
from outlive.errors import InvalidInput
from outlive.kinds.processes.definition import input_error
from outlive.web.access import ANYBODY, demand_declared
from outlive.web.messages import (
    JSON,
    Handler,
    Request,
    Response,
    demand_json,
    idempotency_key,
    read_json,
)
from outlive.web.processes import Processes, declared, item_url, links

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.kinds.processes.bulk import Preview, Report

CONTROL_BYTES_MAX = 1024 * 1024
WHO_CHARACTERS_MAX, WHY_CHARACTERS_MAX = 200, 500
SECONDS_MAX = 100 * 366 * 86_400
T = TypeVar("T")


_Who = Annotated[str, Meta(max_length=WHO_CHARACTERS_MAX)]
_Why = Annotated[str, Meta(max_length=WHY_CHARACTERS_MAX)]
_Moment = Annotated[datetime, Meta(tz=True)]
_Seconds = Annotated[float, Meta(gt=0, le=SECONDS_MAX)]
_Version = Annotated[float, Meta(ge=1, lt=2**31)]  # JSON may write a whole number as 1.0


class _By(Struct, rename="camel"):
    who: _Who = "http"
    why: _Why = ""


class _Retry(_By):
    now: bool = False
    step: str = ""


class _Skip(_By):
    step: str = ""
    value: Any = None
    error: str | None = None
    with_undo: bool = True


class _Deadline(_By, kw_only=True):
    seconds: _Seconds | None


class _Fork(_By, kw_only=True):
    at: str
    input: Any = UNSET
    version: _Version | None = None
    cancel: bool = False


class _Bulk(Struct, rename="camel", kw_only=True):
    verb: str
    status: str | None = None
    type: str | None = None
    version: _Version | None = None
    tags: dict[str, str] = {}
    started_since: _Moment | None = None
    started_until: _Moment | None = None
    changed_since: _Moment | None = None
    changed_until: _Moment | None = None
    older_than: Annotated[float, Meta(ge=0, le=SECONDS_MAX)] | None = None
    limit: int | UnsetType = UNSET
    seconds: _Seconds | None = None


_shapes: dict[Any, Shape] = {
    kind: Shape(kind) for kind in (_By, _Retry, _Skip, _Deadline, _Fork, _Bulk)
}


class Control:
    """The handlers of what operators ask."""

    def __init__(self, app: Outlive, processes: Processes) -> None:
        self._app = app
        self._processes = processes

    def verbs(self) -> dict[str, Handler]:
        """The handlers of what is asked of one process, by the last part of their paths."""
        return {
            "pause": self.pause,
            "resume": self.resume,
            "retry": self.retry,
            "skip": self.skip,
            "deadline": self.deadline,
            "fork": self.fork,
        }

    async def pause(self, request: Request) -> Response:
        """`POST {path}/{id}/pause`."""
        asked = await _asked(request, _By)
        return await self._told(
            request, lambda: self._app.pause(request.id, who=asked.who, why=asked.why)
        )

    async def resume(self, request: Request) -> Response:
        """`POST {path}/{id}/resume`."""
        asked = await _asked(request, _By)
        return await self._told(
            request, lambda: self._app.resume(request.id, who=asked.who, why=asked.why)
        )

    async def retry(self, request: Request) -> Response:
        """`POST {path}/{id}/retry`."""
        asked = await _asked(request, _Retry)
        return await self._told(
            request,
            lambda: self._app.retry(
                request.id, now=asked.now, step=asked.step, who=asked.who, why=asked.why
            ),
        )

    async def skip(self, request: Request) -> Response:
        """`POST {path}/{id}/skip`."""
        asked = await _asked(request, _Skip)
        return await self._told(
            request,
            lambda: self._app.skip(
                request.id,
                asked.step,
                value=asked.value,
                error=asked.error,
                with_undo=asked.with_undo,
                who=asked.who,
                why=asked.why,
            ),
        )

    async def deadline(self, request: Request) -> Response:
        """`POST {path}/{id}/deadline`."""
        asked = await _asked(request, _Deadline)
        return await self._told(
            request,
            lambda: self._app.deadline(request.id, asked.seconds, who=asked.who, why=asked.why),
        )

    async def fork(self, request: Request) -> Response:
        """`POST {path}/{id}/fork`."""
        asked, key = await _asked(request, _Fork), idempotency_key(request)
        definition = declared(request)
        await self._processes.own(request.id, definition)
        given = {} if asked.input is UNSET else {"input": asked.input}
        handle = await self._app.fork(
            request.id,
            asked.at,
            version=_whole(asked.version),
            cancel=asked.cancel,
            key=key,
            who=asked.who,
            why=asked.why,
            **given,
        )
        url = item_url(request, definition, handle.id)
        body = {
            "id": handle.id, "type": definition.name, "forkedFrom": request.id,
            "links": links(url),
        }  # fmt: skip
        return Response(202, msgspec.json.encode(body), [JSON, (b"location", url.encode())])

    async def preview(self, request: Request) -> Response:
        """`POST /outlive/bulk`."""
        asked = await _asked(request, _Bulk)
        more = {} if asked.limit is UNSET else {"limit": asked.limit}
        preview = await self._app.bulk(
            asked.verb,
            status=asked.status,
            type=asked.type,
            version=_whole(asked.version),
            tags=asked.tags,
            started_since=asked.started_since,
            started_until=asked.started_until,
            changed_since=asked.changed_since,
            changed_until=asked.changed_until,
            older_than=asked.older_than,
            seconds=asked.seconds,
            **more,
        )
        return Response(200, msgspec.json.encode(preview_body(preview)), [JSON])

    async def carry_out(self, request: Request) -> Response:
        """`POST /outlive/bulk/{token}`."""
        asked = await _asked(request, _By)
        report = await self._app.carry_out(request.id, who=asked.who, why=asked.why)
        return Response(200, msgspec.json.encode(report_body(report)), [JSON])

    async def _told(self, request: Request, tell: Callable[[], Awaitable[None]]) -> Response:
        definition = declared(request)
        await self._processes.own(request.id, definition)
        await tell()
        return self._processes.accepted(request, definition)


async def _asked(request: Request, kind: type[T]) -> T:
    """The body as it is meant; an empty one asks for nothing in particular. Who brings a token of
    their own is recorded by its name, whatever the body says."""
    demand_json(request)
    body = await read_json(request, CONTROL_BYTES_MAX)
    demand_declared(request, body)
    body = body or b"{}"
    try:
        found: T = _shapes[kind].read(body)
    except ValueError as error:
        raise input_error(body, error) from None
    visitor = request.visitor
    if isinstance(found, _By) and visitor is not None and visitor is not ANYBODY:
        return msgspec.structs.replace(found, who=visitor.name)
    return found


def _whole(version: float | None) -> int | None:
    if version is not None and not version.is_integer():
        raise InvalidInput(f"version is {version}; it must be a whole number.")
    return None if version is None else int(version)


def preview_body(preview: Preview) -> dict[str, Any]:
    """A preview as it is sent; of a deadline with its `seconds`, null where it is lifted."""
    seconds = {"seconds": preview.seconds} if preview.verb == "deadline" else {}
    return {
        "token": preview.token,
        "verb": preview.verb,
        "count": preview.count,
        "ids": preview.ids,
        "more": preview.more,
        "expiresAt": rfc3339(preview.expires),
        **seconds,
    }


def report_body(report: Report) -> dict[str, Any]:
    """What came of a bulk call, as it is sent."""
    return {
        "token": report.token,
        "verb": report.verb,
        "count": report.count,
        "asked": report.asked,
        "refused": report.refused,
        "refusals": report.refusals,
        "finished": report.finished,
    }


_TEXT = {"type": "string"}
_BY = {"who": {**_TEXT, "maxLength": 200}, "why": {**_TEXT, "maxLength": 500}}


def _body(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**fields, **_BY}}


_ANY: dict[str, Any] = {}
_FLAG = {"type": "boolean"}
_NUMBER = {"type": "integer", "minimum": 1, "exclusiveMaximum": 2**31}
_SECONDS = {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": SECONDS_MAX}
DESCRIBED: dict[str, tuple[str, dict[str, Any], bool]] = {
    "pause": ("Stop at the next durable point.", _body(), False),
    "resume": ("Go on where it was paused.", _body(), False),
    "retry": (
        "Go on with a stuck or paused process; with `now`, make the next attempt at once.",
        _body(now=_FLAG, step=_TEXT),
        False,
    ),
    "skip": (
        "Declare a step that fails as done with a value, or as failed; an undo, as done.",
        _body(step=_TEXT, value=_ANY, error=_TEXT, withUndo=_FLAG),
        False,
    ),
    "deadline": (
        "Say anew when it must have ended.",
        _body(("seconds",), seconds=_SECONDS),
        True,
    ),
    "fork": (
        "Start another that begins with what this one recorded before the step `at`.",
        _body(
            ("at",),
            at=_TEXT,
            input=_ANY,
            version=_NUMBER,
            cancel=_FLAG,
        ),
        True,
    ),
}
"""What the description of the API says of each: a sentence, its body, whether that is needed."""
