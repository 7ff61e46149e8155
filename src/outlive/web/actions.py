"""What the dashboard's forms do: every change is a POST, sealed, and recorded with who and why.

    POST /outlive/processes/{id}/{verb}  signal · pause · resume · retry · skip · deadline · fork
                                         · cancel
    POST /outlive/many                   which processes would be asked: nothing is done yet
    POST /outlive/many/{token}           ask exactly those
    POST /outlive/sign-in  /sign-out     a token for a session, and its end

A form must come from a page of our own origin and carry this browser's seal (access.py). It is
answered by 303 back to a page, so that reloading does not repeat it; a refusal is shown on the page
it came from, under its own status. What cannot be taken back needs a reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from outlive.clock import Clock
from outlive.dashboard.pages.process import input_of, is_masked
from outlive.dashboard.pages.processes import many, not_chosen_by
from outlive.dashboard.rendering import pretty
from outlive.errors import InvalidInput, MalformedInput, NoSuchProcess, OutliveError, ProcessGone
from outlive.web.access import Gate, demand_same_origin
from outlive.web.messages import DEPTH_MAX, Request, Response, depth, read_body
from outlive.web.pages import PageRoutes, form_of, page, see_other, sight_of
from outlive.web.problems import FormUnsealed, NotFound, ReasonNeeded
from outlive.web.searching import narrowed
from outlive.web.signing import SEAL, SESSION, cookie, is_sealed, session_of

if TYPE_CHECKING:
    from outlive.app import Outlive

FORM_BYTES_MAX = 2 * 1024 * 1024
"""A fork's input may have a megabyte, and a form writes some of it as three characters each."""
WHY_CHARACTERS_MAX = 500
PARTS = 5
"""Parts of 100 that one press asks; the page shows how far it is, and goes on."""
_ASKED_OF_MANY = frozenset(("verb", "older_than", "seconds"))
"""What the form for many says beside that by which they are chosen."""
Form = dict[str, str]
Act = Callable[[Request, Form], Awaitable[str | None]]
"""Does what a form asks; gives the process to show then, if it is another one."""


class Actions:
    """The handlers of the dashboard's forms."""

    def __init__(self, app: Outlive, pages: PageRoutes, gate: Gate, clock: Clock) -> None:
        self._app = app
        self._pages = pages
        self._gate = gate
        self._clock = clock

    def verbs(self) -> dict[str, Callable[[Request], Awaitable[Response]]]:
        """The handlers of what is asked of one process, by the last part of their paths."""
        acts: dict[str, Act] = {
            "signal": self._signal,
            "pause": self._pause,
            "resume": self._resume,
            "retry": self._retry,
            "skip": self._skip,
            "deadline": self._deadline,
            "fork": self._fork,
            "cancel": self._cancel,
        }
        return {verb: self._handler(verb, act) for verb, act in acts.items()}

    def _handler(self, verb: str, act: Act) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            form = await sealed_form(request)
            try:
                shown = await act(request, form) or request.id
            except (NoSuchProcess, ProcessGone) as error:
                return self._pages.refused(request, error)
            except OutliveError as error:
                return await self._pages.one(request, refusal=error)
            return see_other(f"{quote(request.root)}/outlive/processes/{quote(shown)}?done={verb}")

        return handle

    # --- one process ------------------------------------------------------------------------------

    async def _signal(self, request: Request, form: Form) -> None:
        name, payload = form.get("name", "").strip(), form.get("payload", "").strip()
        if not name:
            raise MalformedInput("The signal has no name.")
        payload = payload or "null"
        await self._app.signal(request.id, name, payload.encode(), who=who(request))

    async def _pause(self, request: Request, form: Form) -> None:
        await self._app.pause(request.id, who=who(request), why=why(form))

    async def _resume(self, request: Request, form: Form) -> None:
        await self._app.resume(request.id, who=who(request), why=why(form))

    async def _retry(self, request: Request, form: Form) -> None:
        status = (await self._app.view(request.id)).status
        now = status not in ("stuck", "paused")
        step = form.get("step", "").strip() if now else ""
        await self._app.retry(request.id, now=now, step=step, who=who(request), why=why(form))

    async def _skip(self, request: Request, form: Form) -> None:
        said = why(form, needed=True)
        error = form.get("error", "").strip() or None
        step = form.get("step", "").strip()
        given: dict[str, Any] = {"error": error}
        if error is None and not step.startswith("undo "):
            given["value"] = json_of(form.get("value", ""), "value")
        await self._app.skip(
            request.id,
            step,
            with_undo="without_undo" not in form,
            who=who(request),
            why=said,
            **given,
        )

    async def _deadline(self, request: Request, form: Form) -> None:
        said = why(form, needed=True)
        seconds = number_of(form, "seconds")
        try:
            await self._app.deadline(request.id, seconds, who=who(request), why=said)
        except ValueError as error:
            raise InvalidInput(f"The deadline cannot be set: {error}.") from None

    async def _fork(self, request: Request, form: Form) -> str:
        said = why(form, needed=True)
        version = number_of(form, "version", whole=True)
        given: dict[str, Any] = {}
        shown = input_of(await self._app.journal(request.id), await self._app.view(request.id))
        text = form.get("input", "").replace("\r\n", "\n").strip()
        if text != pretty(shown).strip():
            given["input"] = json_of(text, "input")
            if is_masked(msgspec.Raw(msgspec.json.encode(given["input"]))):
                raise InvalidInput(
                    "The input still has a redacted value (…): write every value, or leave it all."
                )
        made = await self._app.fork(
            request.id,
            form.get("at", "").strip(),
            version=None if version is None else int(version),
            cancel="cancel" in form,
            who=who(request),
            why=said,
            **given,
        )
        return made.id

    async def _cancel(self, request: Request, form: Form) -> None:
        said = why(form, needed=True)
        await self._app.cancel(request.id, reason=said, who=who(request))

    # --- many -------------------------------------------------------------------------------------

    async def preview(self, request: Request) -> Response:
        """`POST /outlive/many`."""
        form = await sealed_form(request)
        given = {name: value for name, value in form.items() if value}
        known = {tag for made in self._app.definitions.values() for tag in made.tags}
        try:
            if beside := not_chosen_by(given.keys() - _ASKED_OF_MANY):
                said = f"Many are not chosen by {', '.join(beside)}. Nothing was done."
                raise InvalidInput(said)
            limit = number_of(form, "limit", whole=True)
            found = await self._app.bulk(
                form.get("verb", ""),
                status=given.get("status"),
                type=given.get("type"),
                older_than=number_of(form, "older_than"),
                seconds=number_of(form, "seconds"),
                **narrowed(given, known),
                **({} if limit is None else {"limit": int(limit)}),
            )
        except OutliveError as error:
            return await self._pages.listed(request, refusal=error)
        return page(request, many(self._pages.desk, sight_of(request), found))

    async def carry_out(self, request: Request) -> Response:
        """`POST /outlive/many/{token}`."""
        form = await sealed_form(request)
        token, request.id = request.id, ""
        try:
            said = why(form, needed=True)
            report = await self._app.carry_out(
                token, verb=form.get("verb") or None, who=who(request), why=said, parts=PARTS
            )
        except OutliveError as error:
            return await self._pages.listed(request, refusal=error)
        sight = sight_of(request)
        return page(request, many(self._pages.desk, sight, report=report, why=said))

    # --- signing in and out -----------------------------------------------------------------------

    async def sign_in_page(self, request: Request) -> Response:
        """`GET /outlive/sign-in`."""
        return self._sign_in_page(request, form_of(request.query).get("next", ""))

    def _sign_in_page(self, request: Request, place: str, *, refused: bool = False) -> Response:
        access = self._gate.access
        if access is None:
            raise NotFound("Nobody signs in here: this service names nobody in Access(…).")
        text = self._pages.desk.render(
            "sign_in.html", sight_of(request), next=place, refused=refused,
            tokens=access.has_tokens,
        )  # fmt: skip
        return page(request, text, 401 if refused else 200)

    async def sign_in(self, request: Request) -> Response:
        """`POST /outlive/sign-in`."""
        form = await sealed_form(request)
        access, place = self._gate.access, form.get("next", "")
        visitor = None if access is None else access.holder(form.get("token", "").strip())
        if access is None or visitor is None:
            return self._sign_in_page(request, place, refused=True)
        session = session_of(access, visitor, self._clock.wall())
        kept = cookie(request, SESSION, session, access.session_seconds)
        return see_other(f"{quote(request.root)}{ours_only(place)}", kept)

    async def sign_out(self, request: Request) -> Response:
        """`POST /outlive/sign-out`."""
        await sealed_form(request)
        gone = [cookie(request, name, "", 0) for name in (SESSION, SEAL)]
        return see_other(f"{quote(request.root)}/outlive", *gone)


async def sealed_form(request: Request) -> Form:
    """The form of a request, if a page of ours in this browser has sent it. Raises `ForeignOrigin`,
    `FormUnsealed`."""
    demand_same_origin(request)
    form = form_of(await read_body(request, FORM_BYTES_MAX))
    if not is_sealed(request, form.pop("seal", "")):
        raise FormUnsealed
    return form


def ours_only(place: str) -> str:
    """Where to go after signing in: a page of ours, whatever the form says."""
    fine = place.startswith("/outlive") and place[8:9] in ("", "/", "?") and place.isprintable()
    return quote(place, safe="/?&=%:.+~-_") if fine and "//" not in place else "/outlive"


def who(request: Request) -> str:
    """The name that a change is recorded with."""
    assert request.visitor is not None
    return request.visitor.name


def why(form: Form, *, needed: bool = False) -> str:
    """The reason of a form. Raises `ReasonNeeded` where it must not be empty."""
    said = form.get("why", "").strip()[:WHY_CHARACTERS_MAX]
    if needed and not said:
        raise ReasonNeeded
    return said


def json_of(text: str, name: str) -> Any:
    """The JSON of a field; an empty one is null. Raises `InvalidInput`."""
    given = (text.strip() or "null").encode()
    if depth(given) > DEPTH_MAX:
        raise InvalidInput(f"The {name} may be nested {DEPTH_MAX} levels deep; it is deeper.")
    try:
        return msgspec.json.decode(given)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"The {name} is not valid JSON: {error}.") from None


def number_of(form: Form, name: str, whole: bool = False) -> float | None:
    """The number of a field; None when it is empty. Raises `InvalidInput`."""
    text = form.get(name, "").strip()
    if not text:
        return None
    plain = text.isascii() and len(text) <= 12
    if not plain or not (text if whole else text.replace(".", "", 1)).isdigit():
        kind = "whole number" if whole else "number"
        raise InvalidInput(f"{name.replace('_', ' ')} is {text[:20]!r}; it must be a {kind}.")
    return float(text)
