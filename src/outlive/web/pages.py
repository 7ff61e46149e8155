"""The dashboard over HTTP: who gets which page, and what a form does.

    GET  /outlive                           overview and list; ?status= &type= &limit= &cursor=
    GET  /outlive/processes/{id}            one process
    POST /outlive/processes/{id}/{action}   a form: signal, cancel, retry
    GET  /outlive/problems  …/{slug}        what a code means
    GET  /outlive/assets/{name}             style and script

`?fragment=1` asks for the part of a page that changes. An action needs a page of our own origin
(`access.py`) and is answered by 303 back to the page, so that reloading does not repeat it; a
refusal is shown on the page, under its own status.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote

from outlive.clock import Clock
from outlive.dashboard import pages
from outlive.dashboard.samples import sample
from outlive.errors import MalformedInput, NoSuchProcess, OutliveError, ProcessGone
from outlive.kinds.processes.vocabulary import KINDS
from outlive.web.access import demand_same_origin
from outlive.web.messages import Headers, Request, Response, none_match, read_body
from outlive.web.openapi import Types
from outlive.web.problems import NotFound, by_slug
from outlive.web.processes import REASON_CHARACTERS_MAX, parse_list

if TYPE_CHECKING:
    from outlive.app import Outlive

FORM_BYTES_MAX = 128 * 1024
LESSONS_MAX = 3

HTML: Headers = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", pages.POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


class PageRoutes:
    """The handlers of everything under /outlive."""

    def __init__(self, app: Outlive, clock: Clock) -> None:
        self._app = app
        self._pages = pages.Pages(app, clock, KINDS)

    async def overview(self, request: Request) -> Response:
        """`GET /outlive`."""
        asked = parse_list(request.query, blanks=False)
        kind = asked.type if asked.type in self._app.definitions else None
        return html(
            await self._pages.overview(
                request.root,
                pages.Asked(asked.status, kind, asked.limit, asked.cursor),
                lambda: self._lessons(request),
                fragment=form_of(request.query).get("fragment") == "1",
            )
        )

    def _lessons(self, request: Request) -> list[str]:
        """For each declared process a command that starts one."""
        host = request.headers.get(b"host", b"127.0.0.1:8000").decode("latin-1")
        base = f"{request.scope.get('scheme', 'http')}://{host}{quote(request.root)}"
        found = []
        for definition in list(self._app.definitions.values())[:LESSONS_MAX]:
            types = Types((definition.input_type,))
            body = json.dumps(sample(types.schema(definition.input_type), types.components))
            found.append(
                f"curl -i {base}{quote(definition.path)} \\\n"
                "  -H 'Content-Type: application/json' \\\n"
                "  -H 'Idempotency-Key: \"try-1\"' \\\n"
                f"  -d {shell(body)}"
            )
        return found

    async def process(self, request: Request) -> Response:
        """`GET /outlive/processes/{id}`."""
        form = form_of(request.query)
        try:
            text = await self._pages.process(
                request.root,
                request.id,
                fragment=form.get("fragment") == "1",
                done=form.get("done", ""),
            )
        except (NoSuchProcess, ProcessGone) as error:
            return html(self._pages.problem(request.root, type(error)), error.status)
        return html(text)

    async def signal(self, request: Request) -> Response:
        """`POST /outlive/processes/{id}/signal`."""

        async def act(form: dict[str, str]) -> None:
            name, payload = form.get("name", "").strip(), form.get("payload", "").strip()
            if not name:
                raise MalformedInput("The signal has no name.")
            await self._app.signal(request.id, name, (payload or "null").encode())

        return await self._act(request, "signal", act)

    async def cancel(self, request: Request) -> Response:
        """`POST /outlive/processes/{id}/cancel`."""

        async def act(form: dict[str, str]) -> None:
            reason = form.get("reason", "").strip()[:REASON_CHARACTERS_MAX]
            await self._app.cancel(request.id, reason=reason, who="dashboard")

        return await self._act(request, "cancel", act)

    async def retry(self, request: Request) -> Response:
        """`POST /outlive/processes/{id}/retry`."""

        async def act(_: dict[str, str]) -> None:
            await self._app.retry(request.id, who="dashboard")

        return await self._act(request, "retry", act)

    async def _act(
        self, request: Request, verb: str, act: Callable[[dict[str, str]], Awaitable[None]]
    ) -> Response:
        demand_same_origin(request)
        form = form_of(await read_body(request, FORM_BYTES_MAX))
        try:
            await act(form)
        except (NoSuchProcess, ProcessGone) as error:
            return html(self._pages.problem(request.root, type(error)), error.status)
        except OutliveError as error:
            text = await self._pages.process(request.root, request.id, refusal=error)
            return html(text, error.status)
        back = f"{quote(request.root)}/outlive/processes/{quote(request.id)}?done={verb}"
        return Response(303, b"", [(b"location", back.encode()), (b"cache-control", b"no-store")])

    async def problems(self, request: Request) -> Response:
        """`GET /outlive/problems`."""
        return html(self._pages.problems(request.root, by_slug().values()))

    async def problem(self, request: Request) -> Response:
        """`GET /outlive/problems/{slug}`."""
        kind = by_slug().get(request.id)
        if kind is None:
            raise NotFound(f"There is no problem named {request.id!r}.")
        return html(self._pages.problem(request.root, kind))

    async def asset(self, request: Request) -> Response:
        """`GET /outlive/assets/{name}`."""
        body = self._pages.assets.get(request.id)
        if body is None:
            raise NotFound
        tag = hashlib.blake2b(body, digest_size=8).hexdigest().encode()
        headers: Headers = [
            (b"etag", b'"%b"' % tag),
            (b"cache-control", b"no-cache"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if tag in none_match(request):
            return Response(304, headers=headers)
        kind = pages.ASSETS[request.id].encode()
        return Response(200, body, [(b"content-type", kind), *headers])


def html(text: str, status: int = 200) -> Response:
    """A page, under the policy that lets nothing foreign in."""
    return Response(status, text.encode(), list(HTML))


def form_of(body: bytes) -> dict[str, str]:
    """A percent-encoded form or query. Raises `MalformedInput`."""
    try:
        text = body.decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=20))
    except ValueError:
        raise MalformedInput("The form is not percent-encoded UTF-8.") from None


def shell(text: str) -> str:
    """`text` quoted for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"
