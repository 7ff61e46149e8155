"""The dashboard over HTTP, what is read: which page is where, and who gets it.

    GET  /outlive                        is anything lost or stuck?
    GET  /outlive/processes              the list; its filters are its address; ?q= finds one
    GET  /outlive/processes/{id}         one process; …/journal.json its journal
    GET  /outlive/types  …/{name}        types and versions
    GET  /outlive/nodes                  who owns what
    GET  /outlive/activity               who did what, and why
    GET  /outlive/health                 set-up, and the doctor
    GET  /outlive/events                 server-sent: "look again" (live.py)
    GET  /outlive/problems  …/{slug}     what a code means; for everybody
    GET  /outlive/assets/{name}          style and scripts; for everybody

What is changed goes through forms (actions.py). Every page is under a policy that lets nothing
foreign in, and is kept by no cache.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from outlive.clock import Clock, rfc3339
from outlive.dashboard.pages.activity import activity
from outlive.dashboard.pages.health import health
from outlive.dashboard.pages.nodes import nodes
from outlive.dashboard.pages.overview import overview
from outlive.dashboard.pages.problems import problem, problems
from outlive.dashboard.pages.process import process
from outlive.dashboard.pages.processes import Asked, processes
from outlive.dashboard.pages.types import type_page, types
from outlive.dashboard.rendering import ASSETS, POLICY, STATES, Desk, Sight
from outlive.dashboard.samples import sample
from outlive.errors import MalformedInput, NoSuchProcess, OutliveError, ProcessGone
from outlive.kinds.processes import STATUSES
from outlive.web.access import ANYBODY
from outlive.web.messages import JSON, Headers, Request, Response, none_match
from outlive.web.openapi import Types
from outlive.web.problems import CHALLENGE, InvalidQuery, NotFound, SignInNeeded, by_slug
from outlive.web.processes import parse_list
from outlive.web.searching import TAG, narrowed
from outlive.web.signing import SEAL, SESSION, cookie, cookies, seal_of

if TYPE_CHECKING:
    from outlive.app import Outlive

LESSONS_MAX = 3

HTML: Headers = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
_LINE = re.compile(r"[0-9]{16} [0-9a-z]{8}")
_ID = re.compile(r"[A-Za-z0-9_]{1,64}_[0-9a-z]{26}")


class PageRoutes:
    """The handlers of everything under /outlive that is read."""

    def __init__(self, app: Outlive, clock: Clock) -> None:
        self._app = app
        self.desk = Desk(app, clock)

    async def overview(self, request: Request) -> Response:
        """`GET /outlive`."""
        text = await overview(self.desk, sight_of(request), lambda: self._lessons(request))
        return page(request, text)

    async def processes(self, request: Request) -> Response:
        """`GET /outlive/processes`."""
        asked = parse_list(request.query, blanks=False)
        if sought := asked.given.get("q", "").strip():
            place = await self._find(sought)
            if place:
                return see_other(f"{quote(request.root)}/outlive/processes{place}")
        elif tag := asked.given.get("tag", "").strip():
            name, _, value = tag.partition("=")
            if not name.strip() or not value.strip():
                said = "tag must be a name and its whole value, such as customer=c-17."
                raise InvalidQuery(said, parameter="tag")
            rest = {n: v for n, v in asked.given.items() if n != "tag"}
            rest[TAG + name.strip()] = value.strip()
            return see_other(f"{quote(request.root)}/outlive/processes?{urlencode(rest)}")
        return await self.listed(request, sought=sought)

    async def listed(
        self, request: Request, refusal: OutliveError | None = None, sought: str = ""
    ) -> Response:
        """The list as its address asks for it, with what was refused just now."""
        given, asked = {}, None
        if request.method in ("GET", "HEAD"):
            asked = parse_list(request.query, blanks=False)
            given = asked.given
        known = {tag for made in self._app.definitions.values() for tag in made.tags}
        wanted = Asked(
            asked.status if asked else None,
            asked.type if asked else None,
            asked.limit if asked else 50,
            asked.cursor if asked else "",
            {**_none, **given},
            narrowed(given, known),
            sought,
        )
        sight = sight_of(request)
        text = await processes(self.desk, sight, wanted, lambda: self._lessons(request), refusal)
        return page(request, text, 200 if refusal is None else refusal.status)

    async def _find(self, sought: str) -> str:
        """Where what somebody typed is to be found, below the list; empty: nowhere."""
        name, equals, value = sought.partition("=")
        if equals:
            if not name.strip() or not value.strip():
                return ""
            return f"?{urlencode({TAG + name.strip(): value.strip()})}"
        if sought.lower().replace(" ", "_") in STATUSES:
            return f"?status={sought.lower().replace(' ', '_')}"
        if sought in self._app.definitions:
            return f"?{urlencode({'type': sought})}"
        if not _ID.fullmatch(sought):
            return ""
        try:
            await self._app.seq(sought)
        except NoSuchProcess:
            return ""
        except ProcessGone:
            pass
        return f"/{quote(sought)}"

    async def process(self, request: Request) -> Response:
        """`GET /outlive/processes/{id}`."""
        done = form_of(request.query).get("done", "")
        return await self.one(request, done=done)

    async def one(
        self, request: Request, refusal: OutliveError | None = None, done: str = ""
    ) -> Response:
        """The page of a process, with what was refused or done just now."""
        sight = sight_of(request)
        try:
            text = await process(self.desk, sight, request.id, refusal, done)
        except (NoSuchProcess, ProcessGone) as error:
            return self.refused(request, error)
        return page(request, text, 200 if refusal is None else refusal.status)

    async def journal(self, request: Request) -> Response:
        """`GET /outlive/processes/{id}/journal.json`."""
        view = await self._app.view(request.id)
        lines = [
            {"n": e.n, "kind": e.kind, "at": rfc3339(e.at), "text": e.text, "data": e.data}
            for e in await self._app.journal(request.id)
        ]
        body = {"id": view.id, "type": view.type, "version": view.version, "journal": lines}
        name = f'attachment; filename="{view.id}.json"'.encode()
        headers = [JSON, (b"content-disposition", name), (b"cache-control", b"no-store")]
        return Response(200, msgspec.json.format(msgspec.json.encode(body), indent=2), headers)

    async def types(self, request: Request) -> Response:
        """`GET /outlive/types`."""
        return page(request, await types(self.desk, sight_of(request)))

    async def type(self, request: Request) -> Response:
        """`GET /outlive/types/{name}`."""
        version = narrowed(form_of(request.query), ()).get("version")
        text = await type_page(self.desk, sight_of(request), request.id, version)
        if text is None:
            raise NotFound(f"There is no type {request.id[:64]!r}.")
        return page(request, text)

    async def nodes(self, request: Request) -> Response:
        """`GET /outlive/nodes`."""
        return page(request, await nodes(self.desk, sight_of(request)))

    async def activity(self, request: Request) -> Response:
        """`GET /outlive/activity`."""
        cursor = form_of(request.query).get("cursor", "")
        if cursor and not _LINE.fullmatch(cursor):
            raise InvalidQuery("cursor must be one that a list has given.", parameter="cursor")
        return page(request, await activity(self.desk, sight_of(request), cursor))

    async def health(self, request: Request) -> Response:
        """`GET /outlive/health`."""
        examine = form_of(request.query).get("examine") == "1"
        return page(request, await health(self.desk, sight_of(request), examine))

    async def problems(self, request: Request) -> Response:
        """`GET /outlive/problems`."""
        return page(request, problems(self.desk, sight_of(request), by_slug().values()))

    async def problem(self, request: Request) -> Response:
        """`GET /outlive/problems/{slug}`."""
        kind = by_slug().get(request.id)
        if kind is None:
            raise NotFound(f"There is no problem named {request.id!r}.")
        return page(request, problem(self.desk, sight_of(request), kind))

    def refused(self, request: Request, error: OutliveError) -> Response:
        """What went wrong, as a page; who has not signed in is sent to where they can."""
        if isinstance(error, SignInNeeded) and request.method in ("GET", "HEAD"):
            back = quote(request.path + ("?" if request.query else ""), safe="/?")
            back += quote(request.query.decode("latin-1"), safe="")
            return see_other(f"{quote(request.root)}/outlive/sign-in?next={back}")
        text = problem(self.desk, sight_of(request, asked=False), type(error), error.detail)
        return page(request, text, error.status)

    async def asset(self, request: Request) -> Response:
        """`GET /outlive/assets/{name}`."""
        body = self.desk.assets.get(request.id)
        if body is None:
            raise NotFound
        tag = hashlib.blake2b(body, digest_size=8).hexdigest().encode()
        ours = request.query == self.desk.stamp.encode()  # else a page of another release asks
        kept = b"public, max-age=31536000, immutable" if ours else b"no-cache"
        headers: Headers = [
            (b"etag", b'"%b"' % tag),
            (b"cache-control", kept),
            (b"x-content-type-options", b"nosniff"),
        ]
        if tag in none_match(request):
            return Response(304, headers=headers)
        kind = ASSETS[request.id].encode()
        return Response(200, body, [(b"content-type", kind), *headers])

    def _lessons(self, request: Request) -> list[str]:
        """For each declared process a command that starts one."""
        base = f"{base_of(request)}{quote(request.root)}"
        found = []
        declared = [one for one in self._app.definitions.values() if one.path]
        for definition in declared[:LESSONS_MAX]:
            types = Types((definition.input_type,))
            body = json.dumps(sample(types.schema(definition.input_type), types.components))
            found.append(
                f"curl -i {base}{quote(definition.path)} \\\n"
                "  -H 'Content-Type: application/json' \\\n"
                "  -H 'Idempotency-Key: \"try-1\"' \\\n"
                f"  -d {shell(body)}"
            )
        return found


_none = dict.fromkeys(("status", "type", "version", "startedSince", "startedUntil"), "")


def sight_of(request: Request, *, asked: bool = True) -> Sight:
    """Who looks, from where. Nobody in particular, on the pages that are for everybody.

    `asked`: with the query of the address. A refusal is shown without it: it may be what is wrong.
    """
    query = form_of(request.query) if asked else {}
    query.pop("done", None)
    return Sight(
        root=request.root,
        path=request.path.rstrip("/") if request.method in ("GET", "HEAD") else _page(request),
        query=urlencode(query) if request.method in ("GET", "HEAD") else "",
        visitor=request.visitor or msgspec.structs.replace(ANYBODY, name="", role="viewer"),
        seal=seal_of(request)[0],
        base=base_of(request),
        signed_in=SESSION in cookies(request),
    )


def _page(request: Request) -> str:
    """The page a form stands on."""
    kind = request.path.removeprefix("/outlive").strip("/").partition("/")[0]
    if kind in {name for name, _, _ in STATES}:
        return f"/outlive/{kind}"
    return f"/outlive/processes/{request.id}" if request.id else "/outlive/processes"


def base_of(request: Request) -> str:
    """Scheme and host as the client reaches us."""
    host = request.headers.get(b"host", b"127.0.0.1:8000").decode("latin-1")
    return f"{request.scope.get('scheme', 'http')}://{host}"


def page(request: Request, text: str, status: int = 200) -> Response:
    """A page, under the policy that lets nothing foreign in, with what seals its forms."""
    headers = list(HTML)
    if fresh := seal_of(request)[1]:
        headers.append((b"set-cookie", cookie(request, SEAL, fresh)))
    if status == 401:
        headers.append(CHALLENGE)
    return Response(status, text.encode(), headers)


def see_other(place: str, *cookies_set: bytes) -> Response:
    """303: a form leads back to a page, so that reloading does not repeat it."""
    headers: Headers = [(b"location", place.encode()), (b"cache-control", b"no-store")]
    headers += [(b"set-cookie", one) for one in cookies_set]
    return Response(303, b"", headers)


def form_of(body: bytes) -> dict[str, str]:
    """A percent-encoded form or query. Raises `MalformedInput`."""
    try:
        text = body.decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=40))
    except ValueError:
        raise MalformedInput("The form is not percent-encoded UTF-8.") from None


def shell(text: str) -> str:
    """`text` quoted for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"
