"""The service as one ASGI application: ours, and around it nothing, and behind it yours.

    create(app)                   our paths; everything else is a 404 problem
    create(app, wrapped)          our paths; everything else, and every websocket, goes to `wrapped`

Ours are the paths of the declared processes, /livez /readyz /startupz /metrics /openapi.json, and
all of /outlive. The result can be mounted under any prefix: addresses it gives out carry the
prefix. A mounted application's life span is not run by servers or frameworks, so at the root let us
wrap (`app.asgi(existing_app)`), or open the application yourself.

No request leaves without an answer: an `OutliveError` becomes its problem, any other exception a
500 that says nothing about the inside. A wrapped application's exceptions are its own and pass
through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from outlive.clock import Clock
from outlive.errors import OutcomeUnknown, OutliveError
from outlive.kinds.processes.callbacks import CALLBACKS_PATH
from outlive.web import problems
from outlive.web.access import Gate
from outlive.web.answers import Answers
from outlive.web.control import Control
from outlive.web.health import REASONS, Health
from outlive.web.journals import JOURNALS_PATH, Journals
from outlive.web.lifespan import LifeSpan
from outlive.web.messages import (
    ASGI,
    ClientGone,
    Handler,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    local_path,
    trace_id,
)
from outlive.web.metrics import Metrics
from outlive.web.openapi import OpenAPI
from outlive.web.operations import Operations
from outlive.web.problems import MethodNotAllowed, NotFound, NotServing, SignInNeeded
from outlive.web.processes import START_BYTES_MAX, Processes
from outlive.web.routes import Branch, Route, Routes
from outlive.web.waiting import WAITERS_MAX, Waiting

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.kinds.processes import Definition
    from outlive.web.pages import PageRoutes

OURS = "/outlive"


def create(
    app: Outlive,
    wrapped: ASGI | None = None,
    dashboard: bool = True,
    *,
    open_to_all: bool = False,
    start_bytes_max: int = START_BYTES_MAX,
    waiters_max: int = WAITERS_MAX,
    clock: Clock | None = None,
) -> Face:
    """The ASGI application that serves `app`.

    `wrapped` answers what is not ours. `dashboard=False` leaves the pages under /outlive out (those
    of the problems stay). `open_to_all=True` serves lists, retry and dashboard to every client
    instead of this machine only, or of those whom `Outlive(dashboard=Access(…))` names: only with
    access control of your own in front. A start's body may
    have `start_bytes_max` bytes, and `waiters_max` clients may long-poll or stream at once. Raises
    `ValueError`, when it first serves, if two declarations claim one path. When the process dies,
    answered requests are durable and the others are found by repeating them.
    """
    return Face(
        app, wrapped, dashboard, open_to_all, start_bytes_max, waiters_max, clock or Clock()
    )


class Face:
    """What `create` gives: an ASGI application."""

    def __init__(
        self,
        app: Outlive,
        wrapped: ASGI | None,
        dashboard: bool,
        open_to_all: bool,
        start_bytes_max: int,
        waiters_max: int,
        clock: Clock,
    ) -> None:
        self._app = app
        self._wrapped = wrapped
        self._dashboard = dashboard
        self._gate = Gate(app.access, clock, open_to_all=open_to_all)
        self._clock = clock
        self._waiting = Waiting(app, waiters_max=waiters_max)
        self._metrics = Metrics(app)
        self._health = Health(app, self._waiting)
        self._processes = Processes(app, self._waiting, clock, start_bytes_max)
        self._answers = Answers(app, self._waiting, clock, self._processes)
        self._control = Control(app, self._processes)
        self._pages: PageRoutes | None = None
        self._routes = Routes()
        self._declared = -1

    @property
    def app(self) -> Outlive:
        """The application that is served."""
        return self._app

    @property
    def wrapped(self) -> ASGI | None:
        """The application that answers what is not ours; None: nobody does."""
        return self._wrapped

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            span = LifeSpan(self._app, self._wrapped, self._waiting, self._build)
            await span.run(scope, receive, send)
        elif self._wrapped is not None:
            await self._wrapped(scope, receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = local_path(scope["path"], scope.get("root_path") or "")
        found = self._routes.find(path)
        if found is None and self._declared != len(self._app.definitions):
            self._build()
            found = self._routes.find(path)
        if found is None and self._wrapped is not None and not ours(path):
            await self._wrapped(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            if found is None or "\0" in path or hides_a_slash(scope):  # PostgreSQL reads no NUL
                raise NotFound
            request.route, request.id, request.name = found
            response = await self._answer(request, found[0])
        except ClientGone:
            return
        except OutliveError as error:
            response = self._problem(request, error)
        except Exception as error:
            response = Response(
                *problems.of_exception(
                    error, instance=request.url, root=request.root, trace=trace_id(request)
                )
            )
        self._count(request, 200 if response is None else response.status)
        if response is not None:
            await response.send(send, head=request.method == "HEAD")

    async def _answer(self, request: Request, route: Route) -> Response | None:
        handler = route.handlers.get(request.method)
        if handler is None:
            if request.method == "OPTIONS":
                return route.options()
            raise MethodNotAllowed(f"{request.method} is not a method of this path.")
        if request.method in route.local:
            request.visitor = await self._gate.admit(request)
        if route.definition is not None and self._app.phase not in ("ready", "draining"):
            raise NotServing(REASONS.get(self._app.phase, ""), phase=self._app.phase)
        return await handler(request)

    def _problem(self, request: Request, error: OutliveError) -> Response:
        if self._pages is not None and ours(request.path) and wants_page(request):
            return self._pages.refused(request, error)
        # Repeated under the same key, a request finds out what came of the first: that is safe.
        keyed = isinstance(error, OutcomeUnknown) and b"idempotency-key" in request.headers
        status, body, headers = problems.of_error(
            error,
            instance=request.url,
            root=request.root,
            trace=trace_id(request),
            retryable=True if keyed else None,
        )
        if isinstance(error, MethodNotAllowed) and request.route is not None:
            headers.append((b"allow", error.allow or request.route.allow))
        if isinstance(error, SignInNeeded):
            headers.append(problems.CHALLENGE)
        return Response(status, body, headers)

    def _count(self, request: Request, status: int) -> None:
        route = request.route
        if route is None:
            self._metrics.answered["", "unknown", status] += 1
            return
        name, kind = route.counted.get(request.method) or route.counted["other"]
        self._metrics.answered[name, kind, status] += 1

    def _build(self) -> None:
        """Make the table anew from what is declared now."""
        routes = Routes()
        health = self._health
        routes.add("/livez", Route("/livez", {"GET": health.live}))
        routes.add("/readyz", Route("/readyz", {"GET": health.ready}))
        routes.add("/startupz", Route("/startupz", {"GET": health.started}))
        routes.add("/metrics", Route("/metrics", {"GET": self._metrics.show}))
        openapi = OpenAPI(self._app, self._wrapped)
        routes.add("/openapi.json", Route("/openapi.json", {"GET": openapi.show}))
        callback = Route(f"{CALLBACKS_PATH}{{id}}", {"POST": self._answers.call_back})
        routes.add_branch(CALLBACKS_PATH.rstrip("/"), Branch(callback))
        self._add_pages(routes)
        local, bulk = frozenset(("POST",)), f"{OURS}/bulk"
        routes.add(bulk, Route(bulk, {"POST": self._control.preview}, local=local))
        one = Route(f"{bulk}/{{id}}", {"POST": self._control.carry_out}, local=local)
        routes.add_branch(bulk, Branch(one))
        operations, template = Operations(self._app), f"{OURS}/operations/{{id}}"
        asked: dict[str, Handler] = {"GET": operations.look, "POST": operations.change}
        named = Route(template, asked, local=frozenset(("GET", "HEAD", "POST")))
        routes.add_branch(f"{OURS}/operations", Branch(named))
        journals, place = Journals(self._app), JOURNALS_PATH
        routes.add(place, Route(place, {"POST": journals.take_in}, local=local))
        looked = frozenset(("GET", "HEAD"))
        whole = Route(f"{place}/{{id}}", {"GET": journals.export}, local=looked)
        routes.add_branch(place, Branch(whole))
        for definition in self._app.definitions.values():
            if definition.path:  # else only code starts it
                self._add_process(routes, definition)
        self._routes = routes
        self._declared = len(self._app.definitions)

    def _add_process(self, routes: Routes, definition: Definition) -> None:
        serve, path = self._processes, definition.path
        if ours(path):
            raise ValueError(
                f"{path} lies in our own pages: nothing is served; declare another path"
            )
        item = f"{path}/{{id}}"

        def route(template: str, local: frozenset[str] = frozenset(), **handlers: Handler) -> Route:
            return Route(template, handlers, definition=definition, local=local)

        routes.add(path, route(path, frozenset(("GET", "HEAD")), GET=serve.list, POST=serve.start))
        routes.add_branch(
            path,
            Branch(
                route(item, GET=serve.status),
                {
                    "cancel": route(f"{item}/cancel", POST=serve.cancel),
                    "notice": route(
                        f"{item}/notice", frozenset(("GET", "HEAD")), GET=self._answers.notice
                    ),
                    "notify": route(
                        f"{item}/notify", frozenset(("POST",)), POST=self._answers.notify
                    ),
                    **{
                        verb: route(f"{item}/{verb}", frozenset(("POST",)), POST=handler)
                        for verb, handler in self._control.verbs().items()
                    },
                },
                route(f"{item}/signals/{{name}}", POST=serve.signal),
                {
                    "updates": route(f"{item}/updates/{{name}}", POST=self._answers.ask),
                    "queries": route(f"{item}/queries/{{name}}", GET=self._answers.query),
                },
                {
                    "updates": route(
                        f"{item}/updates/{{name}}/{{key}}", GET=self._answers.standing
                    ),
                },
            ),
        )

    def _add_pages(self, routes: Routes) -> None:
        from outlive.web.pages import PageRoutes  # jinja2 loads when pages are served, not before

        self._pages = pages = PageRoutes(self._app, self._clock)
        routes.add(f"{OURS}/problems", Route(f"{OURS}/problems", {"GET": pages.problems}))
        for name, handler in (("problems", pages.problem), ("assets", pages.asset)):
            template = f"{OURS}/{name}/{{id}}"
            routes.add_branch(f"{OURS}/{name}", Branch(Route(template, {"GET": handler})))
        if self._dashboard:
            self._add_dashboard(routes, pages)

    def _add_dashboard(self, routes: Routes, pages: PageRoutes) -> None:
        from outlive.web.actions import Actions
        from outlive.web.live import Live
        from outlive.web.states import States

        acts = Actions(self._app, pages, self._gate, self._clock)
        local = frozenset(("GET", "HEAD", "POST"))

        def route(template: str, **handlers: Handler) -> Route:
            return Route(f"{OURS}{template}", handlers, local=local)

        read: dict[str, Handler] = {
            "": pages.overview,
            "/": pages.overview,
            "/processes": pages.processes,
            "/types": pages.types,
            "/nodes": pages.nodes,
            "/activity": pages.activity,
            "/health": pages.health,
            "/events": Live(self._app, self._waiting).events,
        }
        for path, handler in read.items():
            routes.add(OURS + path, route(path, GET=handler))
        for kind, (show, act) in States(self._app, pages).handlers().items():
            routes.add(f"{OURS}/{kind}", route(f"/{kind}", GET=show))
            routes.add_branch(f"{OURS}/{kind}", Branch(route(f"/{kind}/{{id}}", POST=act)))
        signing = {"GET": acts.sign_in_page, "POST": acts.sign_in}
        routes.add(f"{OURS}/sign-in", Route(f"{OURS}/sign-in", signing))
        routes.add(f"{OURS}/sign-out", Route(f"{OURS}/sign-out", {"POST": acts.sign_out}))
        routes.add(f"{OURS}/many", route("/many", POST=acts.preview))
        routes.add_branch(f"{OURS}/many", Branch(route("/many/{id}", POST=acts.carry_out)))
        routes.add_branch(f"{OURS}/types", Branch(route("/types/{id}", GET=pages.type)))
        one = "/processes/{id}"
        verbs = {v: route(f"{one}/{v}", POST=handler) for v, handler in acts.verbs().items()}
        verbs["journal.json"] = route(f"{one}/journal.json", GET=pages.journal)
        routes.add_branch(f"{OURS}/processes", Branch(route(one, GET=pages.process), verbs))


def wants_page(request: Request) -> bool:
    """Whether a person asks: their browser names HTML, and programs do not."""
    return b"text/html" in request.headers.get(b"accept", b"")


def hides_a_slash(scope: Scope) -> bool:
    """Whether a slash was sent percent-encoded: what guards us by paths may have read another
    one."""
    sent: bytes = scope.get("raw_path") or b""
    return b"%" in sent and b"%2f" in sent.lower()


def ours(path: str) -> bool:
    """Whether `path` is in the part of the address space that is never the wrapped
    application's."""
    return path == OURS or path.startswith(OURS + "/")
