"""The pages of sessions, requests, limits, breakers and caches: what is read, what is changed.

    GET  /outlive/sessions    ?subject=ada          where ada is signed in; else the first of all
    POST /outlive/sessions/…                        revoke · revoke-all
    GET  /outlive/requests    ?principal= &tenant=  the keys of one; else the first of all
    POST /outlive/requests/…                        resolve · expire
    GET  /outlive/limits                            the fullest keys of what is declared
    POST /outlive/limits/reset
    GET  /outlive/breakers                          how every dependency stands
    POST /outlive/breakers/control
    GET  /outlive/caches                            what this instance keeps
    POST /outlive/caches/invalidate

Every change is a form of ours (`sealed_form`), by an operator, with a reason. It is noted in the
activity log and then done; what cannot be done is refused before that where it is seen.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import msgspec

from outlive import codec
from outlive.dashboard.pages import states
from outlive.dashboard.pages.states import Shown
from outlive.errors import InvalidInput, NotResolvable, OutcomeUnknown, OutliveError
from outlive.kinds.requests.decisions import Answer
from outlive.web.actions import Form, json_of, number_of, sealed_form, who, why
from outlive.web.messages import Handler, Request, Response
from outlive.web.pages import PageRoutes, form_of, page, see_other, sight_of
from outlive.web.problems import InvalidQuery, NotFound

if TYPE_CHECKING:
    from outlive.app import Outlive

SUBJECT_CHARACTERS_MAX = 1000
_CURSOR = re.compile(r"[0-9a-f]{16,64}")
Act = Callable[[Request, Form], Awaitable[dict[str, str]]]
"""Does what a form asks; gives the query of the page that is shown then."""


class States:
    """The handlers of these pages."""

    def __init__(self, app: Outlive, pages: PageRoutes) -> None:
        self._app = app
        self._pages = pages
        self._shows = {
            "sessions": self._sessions,
            "requests": self._requests,
            "limits": self._limits,
            "breakers": self._breakers,
            "caches": self._caches,
        }
        self._acts: dict[str, Act] = {
            "sessions/revoke": self._revoke,
            "sessions/revoke-all": self._revoke_all,
            "requests/resolve": self._resolve,
            "requests/expire": self._expire,
            "limits/reset": self._reset,
            "breakers/control": self._control,
            "caches/invalidate": self._invalidate,
        }

    def handlers(self) -> dict[str, tuple[Handler, Handler]]:
        """For each kind the handler of its page, and the one of its forms."""
        return {kind: (self._reader(kind), self._actor(kind)) for kind in self._shows}

    def _reader(self, kind: str) -> Handler:
        async def show(request: Request) -> Response:
            asked = form_of(request.query)
            shown = Shown(done=asked.pop("done", ""))
            return page(request, await self._shows[kind](request, asked, shown))

        return show

    def _actor(self, kind: str) -> Handler:
        async def act(request: Request) -> Response:
            found = self._acts.get(f"{kind}/{request.id}")
            if found is None:
                raise NotFound
            form = await sealed_form(request)
            try:
                query = await found(request, form)
            except OutliveError as error:
                asked = {name: form[name] for name in _KEPT if form.get(name)}
                text = await self._shows[kind](request, asked, Shown(refusal=error))
                return page(request, text, error.status)
            query = {"done": request.id, **{n: value for n, value in query.items() if value}}
            return see_other(f"{quote(request.root)}/outlive/{kind}?{urlencode(query)}")

        return act

    async def _note(self, request: Request, form: Form, verb: str, what: str) -> str:
        """Keep who asks and why, before it is done; gives the reason. Raises `ReasonNeeded`."""
        said = why(form, needed=True)
        kind = request.path.split("/")[2]
        await self._app.note(who(request), verb, kind=kind, what=what, why=said)
        return said

    def _one(self, kind: str, form: Form) -> Any:
        """The limiter, or what else of `kind`, that a form is about."""
        doors = self._app.declared(kind)
        place = number_of(form, "of", whole=True) or 0
        if place >= len(doors):
            raise InvalidInput("There is no such declaration here. Nothing was done.")
        return doors[int(place)]

    # --- sessions ---------------------------------------------------------------------------------

    async def _sessions(self, request: Request, asked: Form, shown: Shown) -> str:
        from outlive.doors import excerpts

        doors = self._app.declared("sessions")
        subject = asked.get("subject", "").strip()[:SUBJECT_CHARACTERS_MAX]
        after, of = cursor_of(asked), number_of(asked, "of", whole=True)
        kept = [place for place, door in enumerate(doors) if hasattr(door, "devices")]
        place = int(of) if of in kept else next(iter(kept), -1)
        lines: list[Any] = []
        more = ""
        try:
            if place >= 0 and subject:
                lines = await excerpts.sessions_of(doors[place], subject)
            elif place >= 0:
                lines, more = await excerpts.sessions_listed(doors[place], after)
        except OutliveError as error:
            shown = msgspec.structs.replace(shown, missing=error.detail)
        asked_for = {"subject": subject, "of": str(place) if len(kept) > 1 else ""}
        return states.sessions(
            self._pages.desk, sight_of(request), shown, doors, lines, asked_for, more, not after,
            kept, place,
        )  # fmt: skip

    async def _revoke(self, request: Request, form: Form) -> dict[str, str]:
        from outlive.doors import excerpts

        door, named = self._one("sessions", form), form.get("named", "")
        why(form, needed=True)
        if not _CURSOR.fullmatch(named) or not hasattr(door, "revoke"):
            raise InvalidInput("Choose a session. Nothing was done.")
        key = await excerpts.session_key(door, named)
        if not key:
            raise InvalidInput("That session is not there any more. Nothing was done.")
        subject = form.get("subject", "")
        await self._note(request, form, "sign out", f"{named[:8]} {subject}".strip())
        await door.revoke(key)
        return {"subject": subject, "of": form.get("of", "")}

    async def _revoke_all(self, request: Request, form: Form) -> dict[str, str]:
        subject = form.get("subject", "").strip()[:SUBJECT_CHARACTERS_MAX]
        if not subject:
            raise InvalidInput("Name the subject. Nothing was done.")
        await self._note(request, form, "sign out everywhere", subject)
        doors = sorted(self._app.declared("sessions"), key=lambda it: not hasattr(it, "devices"))
        for door in doors:  # the listed ones first: a new epoch is written over the list
            if getattr(door, "callable_back", True):
                await door.revoke_all(subject)
        return {"subject": subject}

    # --- requests ---------------------------------------------------------------------------------

    async def _requests(self, request: Request, asked: Form, shown: Shown) -> str:
        from outlive.doors import excerpts

        doors = self._app.declared("requests")
        unknown: list[Any] = []
        lines: list[Any] = []
        more, after = "", cursor_of(asked)
        principal, tenant = asked.get("principal", ""), asked.get("tenant", "")
        try:
            if doors:  # all of them have their keys in one space
                unknown = await excerpts.requests_unknown(doors[0])
                if principal or tenant:
                    lines = await excerpts.requests_of(doors[0], principal, tenant)
                else:
                    lines, more = await excerpts.requests_listed(doors[0], after)
        except OutliveError as error:
            shown = msgspec.structs.replace(shown, missing=error.detail)
        given = {"principal": principal, "tenant": tenant, "after": after}
        return states.requests(
            self._pages.desk, sight_of(request), shown, doors, unknown, lines, given, more
        )

    async def _resolve(self, request: Request, form: Form) -> dict[str, str]:
        door, name = self._key(form)
        outcome, answer = form.get("outcome", ""), None
        if outcome == "happened":
            answer = answer_of(form)
        elif outcome != "free":
            raise InvalidInput("Say whether it happened. Nothing was done.")
        verb = "resolve as happened" if answer else "resolve as not happened"
        said = await self._checked(request, form, verb, door, name)
        await door.resolve(name, answer, by=who(request), why=said)
        return {"done": outcome}

    async def _expire(self, request: Request, form: Form) -> dict[str, str]:
        door, name = self._key(form)
        said = await self._checked(request, form, "forget", door, name)
        await door.expire(name, by=who(request), why=said)
        return {}

    def _key(self, form: Form) -> tuple[Any, str]:
        name = form.get("named", "")
        if not _CURSOR.fullmatch(name):
            raise InvalidInput("Choose a key. Nothing was done.")
        return self._one("requests", form), name

    async def _checked(
        self, request: Request, form: Form, verb: str, door: Any, name: str
    ) -> str:  # fmt: skip
        """Note it, once it is known that there is such a key, and that nobody is carrying it out.
        Raises `NoSuchRequest`, `NotResolvable`."""
        why(form, needed=True)
        record = await door.look(name)
        if record.state == "running" and record.mode != "recovery":
            raise NotResolvable("It is being carried out right now; nothing was changed.")
        if record.state == "done" and verb != "forget":
            raise NotResolvable("What came of it is known; nothing was changed.")
        place = record.place
        route = f"{place.method} {place.route} ".lstrip()
        return await self._note(request, form, verb, f"{route}{place.key}")

    # --- limits -----------------------------------------------------------------------------------

    async def _limits(self, request: Request, asked: Form, shown: Shown) -> str:
        from outlive.doors import excerpts

        pairs: dict[str, list[Any]] = {"limits": [], "slots": []}
        looks: Any = {"limits": excerpts.limit_uses, "slots": excerpts.slot_uses}
        for kind, found in pairs.items():
            for door in self._app.declared(kind):
                lines, missing = [], ""
                try:
                    lines = await looks[kind](door)
                except (OutliveError, TimeoutError) as error:
                    missing = getattr(error, "detail", "") or "The store does not answer."
                found.append((door, lines, missing))
        return states.limits(
            self._pages.desk, sight_of(request), shown, pairs["limits"], pairs["slots"]
        )

    async def _reset(self, request: Request, form: Form) -> dict[str, str]:
        door, key = self._one("limits", form), form.get("key", "").strip()
        why(form, needed=True)
        if key.partition("/")[0] not in {quota.name for quota in door.quotas} or "/" not in key:
            raise InvalidInput("Name a key as it is shown: a quota, / and who. Nothing was done.")
        await self._note(request, form, "reset", key)
        try:
            await door.reset_use(key)
        except TimeoutError:
            raise OutcomeUnknown("The store did not answer; the key may be reset.") from None
        return {}

    # --- breakers ---------------------------------------------------------------------------------

    async def _breakers(self, request: Request, asked: Form, shown: Shown) -> str:
        from outlive.doors import excerpts

        found = await excerpts.breaker_lines(self._app) if self._app.dependencies else {}
        return states.breakers(self._pages.desk, sight_of(request), shown, found)

    async def _control(self, request: Request, form: Form) -> dict[str, str]:
        from outlive.doors import excerpts

        dependency = self._app.dependencies.get(form.get("dependency", ""))
        part, verb = form.get("part", ""), form.get("action", "")
        if dependency is None or verb not in _HOLDS:
            raise InvalidInput("Name a dependency and what to do to it. Nothing was done.")
        why(form, needed=True)
        if not await excerpts.has_part(self._app, dependency, part):
            raise InvalidInput(
                f"Of {dependency.name} no part {part[:64]!r} is known: nobody has called it, or it"
                " is forgotten. Choose one that the page shows. Nothing was done."
            )
        what = f"{dependency.name}/{part}" if part else dependency.name
        said = await self._note(request, form, verb.replace("-", " "), what)
        await getattr(dependency, _HOLDS[verb])(who(request), said, part)
        return {"done": verb}

    # --- caches -----------------------------------------------------------------------------------

    async def _caches(self, request: Request, asked: Form, shown: Shown) -> str:
        return states.caches(self._pages.desk, sight_of(request), shown)

    async def _invalidate(self, request: Request, form: Form) -> dict[str, str]:
        cache = self._app.caches.get(form.get("cache", ""))
        verb = form.get("what", "")
        if cache is None or verb not in ("key", "tag", "all"):
            raise InvalidInput("Name a cache and what of it. Nothing was done.")
        why(form, needed=True)
        if verb == "key":
            key = json_of(form.get("key", ""), "key")
            if not isinstance(key, list) or not all(type(part) in (str, int) for part in key):
                raise InvalidInput(
                    'The key is the list of arguments, text and integers: ["tea", 3]. Nothing was '
                    "done."
                )
            demand_arguments(cache, key)
            await self._note(request, form, "invalidate", f"{cache.name} {form['key'].strip()}")
            await cache.invalidate(*key)
        elif verb == "tag":
            tag = form.get("tag", "").strip()
            if not tag:
                raise InvalidInput("Name the tag. Nothing was done.")
            await self._note(request, form, "invalidate tag", f"{cache.name} {tag}")
            await cache.invalidate_tag(tag)
        else:
            await self._note(request, form, "invalidate all", cache.name)
            await cache.clear()
        return {"done": verb}


_HOLDS = {
    "force-open": "force_open", "force-closed": "force_closed", "release": "release",
    "reset": "reset",
}  # fmt: skip
"""What operators do to a breaker, and the method that does it."""
_KEPT = ("subject", "of", "principal", "tenant")
"""What a page was asked for, where its form was refused."""


def answer_of(form: Form) -> Answer:
    """The answer that an operator gives to a request. Raises `InvalidInput`."""
    status = number_of(form, "status", whole=True)
    if status is None or not 200 <= status <= 599:
        raise InvalidInput("The status of the answer is 200 to 599. Nothing was done.")
    text = form.get("body", "").strip()
    if not text:
        return Answer(int(status))
    body = codec.encode(json_of(text, "body"))
    return Answer(int(status), (("content-type", "application/json"),), body)


def demand_arguments(cache: Any, key: list[Any]) -> None:
    """Raise `InvalidInput` for a key that no call of the cached function has."""
    try:
        inspect.signature(cache).bind(*key)
    except TypeError as error:
        called = states.signature_of(cache)
        raise InvalidInput(f"The key does not fit {called}: {error}. Nothing was done.") from None


def cursor_of(asked: Form) -> str:
    """Where a list goes on. Raises `InvalidQuery` for what no list has given."""
    after = asked.get("after", "")
    if after and not _CURSOR.fullmatch(after):
        raise InvalidQuery("after must be one that a list has given.", parameter="after")
    return after
