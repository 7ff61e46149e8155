"""The service described: OpenAPI 3.1, from what is declared. No store is needed for it.

Each declared process gives up to six operations. The answers they share (problems, headers, the
envelope of a process) are components, named once. A start links to the status of what it started,
so that tools can follow it.

Schemas come from the types themselves: msgspec structs, dataclasses, attrs and typed dictionaries
by msgspec, pydantic models by pydantic. A type neither of them knows, and plain JSON, is `{}`:
anything. When the wrapped application describes itself too (FastAPI does, by `openapi()`), its
paths and components are merged in: one document for one service.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from outlive.kinds.processes import FINAL, STATUSES
from outlive.web import examples, searching
from outlive.web.control import DESCRIBED
from outlive.web.messages import JSON, WAIT_SECONDS_MAX, Request, Response
from outlive.web.problems import PAGES, by_slug
from outlive.web.processes import PAGE_ITEMS, PAGE_ITEMS_MAX

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.codec import Shape
    from outlive.kinds.processes import Definition

Json = dict[str, Any]

_SCHEMAS = "#/components/schemas/"
_TIME = {"type": "string", "format": "date-time"}
_TEXT = {"type": "string"}
_WHOLE = {"type": "integer"}
_TAGS = {"type": "object", "additionalProperties": _TEXT}

PROBLEM_TEXTS = {
    400: "Malformed body, or malformed Idempotency-Key. Nothing was stored and no key was used.",
    401: "Nobody has signed in, where the application names who may.",
    403: "Only served to this machine, or only to operators.",
    404: "There is no such process at this path.",
    409: "The state of the process forbids it.",
    410: "The process ended and its record is past its retention.",
    413: "The body is longer or deeper than its limits.",
    415: "The body is declared as something other than plain JSON.",
    422: "The body, the query or the key contradicts what is declared. Nothing was stored.",
    429: "Too much waits: signals for the process, or processes under this key of a limit.",
    500: "Unexpected, or the outcome is unknown: look before you repeat.",
    503: "Not now: starting, draining, overloaded, or the store is out of reach.",
    507: "The disk under the store is full. Nothing was stored.",
}

STARTS = (400, 413, 415, 422, 429, 500, 503, 507)
READS = (404, 410, 422, 500, 503)
LISTS = (401, 403, 422, 500, 503)
SIGNALS = (400, 404, 409, 410, 413, 415, 422, 429, 500, 503, 507)
CANCELS = (400, 404, 409, 410, 413, 415, 422, 500, 503, 507)
CONTROLS = (400, 401, 403, 404, 409, 410, 413, 415, 422, 500, 503, 507)

HEADERS: Json = {
    "Location": {
        "description": "The process, the same on every instance and on every replay.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Retry-After": {
        "description": "Seconds until asking again makes sense, with jitter.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "ETag": {
        "description": "Strong: the number of durable events, and where it stands if it is queued.",
        "required": True,
        "schema": {"type": "string", "pattern": '^"[0-9]+(-[0-9a-f]+)?"$'},
    },
    "Preference-Applied": {"description": "`wait=N` as it was applied.", "schema": _TEXT},
    "Idempotent-Replayed": {
        "description": "`true` when the key had been used: nothing was started by this request.",
        "schema": {"const": "true"},
    },
    "Link": {"description": 'The next page, as `rel="next"`.', "schema": _TEXT},
}

PARAMETERS: Json = {
    "id": {"name": "id", "in": "path", "required": True, "schema": _TEXT},
    "signal": {"name": "name", "in": "path", "required": True, "schema": _TEXT},
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": 'A structured-field string, such as `"order-17"`; a bare token is accepted.',
        "schema": {
            "type": "string",
            "pattern": r'^("([ !#-\[\]-~]|\\["\\]){1,255}"'
            r"|[A-Za-z0-9_*][A-Za-z0-9!#$%&'*+.^_`|~:/=@-]{0,254})$",
        },
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": f"`wait=N`: answer late, after at most N seconds (N ≤ {WAIT_SECONDS_MAX}).",
        "schema": {"type": "string", "examples": ["wait=1"]},
    },
    "If-None-Match": {
        "name": "If-None-Match",
        "in": "header",
        "description": "The ETag that is known already.",
        "schema": _TEXT,
    },
    "Last-Event-ID": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "With `Accept: text/event-stream`: the event after which to go on.",
        "schema": {"type": "string", "pattern": "^[0-9]{0,18}$"},
    },
    "status": {
        "name": "status",
        "in": "query",
        "schema": {"type": "string", "enum": list(STATUSES)},
    },
    "limit": {
        "name": "limit",
        "in": "query",
        "schema": {
            "type": "integer",
            "minimum": 1,
            "maximum": PAGE_ITEMS_MAX,
            "default": PAGE_ITEMS,
        },
    },
    "cursor": {
        "name": "cursor",
        "in": "query",
        "description": "Opaque.",
        "schema": {"type": "string", "pattern": "^([0-9]{1,18}(_[a-z0-9_]{1,64})?)?$"},
    },
}


class OpenAPI:
    """The handler of /openapi.json."""

    def __init__(self, app: Outlive, wrapped: object = None) -> None:
        self._app = app
        self._wrapped = wrapped
        self._made: Json | None = None

    async def show(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        if self._made is None:
            self._made = document(self._app, self._wrapped)
        servers = {"servers": [{"url": quote(request.root) or "/"}]}
        return Response(200, msgspec.json.encode({**self._made, **servers}), [JSON])


def document(app: Outlive, wrapped: object = None) -> Json:
    """The OpenAPI 3.1 document of every process `app` declares, merged over that of `wrapped` if it
    has one."""
    definitions = [definition for definition in app.definitions.values() if definition.path]
    types = Types(
        shape
        for found in definitions
        for shape in (found.input_type, found.output_type, *(found.signals or {}).values())
    )
    from outlive.web import described  # which is made of what stands here

    answers = described.Answers(app, types)
    paths: Json = {}
    for definition in definitions:
        paths |= _paths_of(definition, types) | answers.paths_of(definition)
        answers.start(paths[definition.path]["post"])
    paths |= _service_paths() | described.journals()
    if any(definition.callbacks is not None for definition in app.definitions.values()):
        paths |= answers.callbacks()
    made: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "outlive",
            "version": "1",
            "description": "State that outlives its process.",
        },
        "paths": paths,
        "components": {
            "schemas": _shared_schemas() | types.components,
            "examples": examples.of_all(definitions, types),
            "headers": HEADERS,
            "parameters": PARAMETERS,
            "responses": {f"Problem{status}": _problem(status) for status in PROBLEM_TEXTS},
        },
        "x-problems": [
            {
                "code": kind.code,
                "slug": slug,
                "status": kind.status,
                "title": kind.title(),
                "retryable": kind.retryable,
                "page": PAGES + slug,
            }
            for slug, kind in sorted(by_slug().items(), key=lambda pair: pair[1].code)
        ],
    }
    return _merged(made, wrapped)


def _merged(made: Json, wrapped: object) -> Json:
    describe = getattr(wrapped, "openapi", None)
    if not callable(describe):
        return made
    theirs: Json | None = describe()
    if theirs is None:
        return made
    components = {
        name: {**theirs.get("components", {}).get(name, {}), **made["components"].get(name, {})}
        for name in {*theirs.get("components", {}), *made["components"]}
    }
    paths = {**theirs.get("paths", {}), **made["paths"]}
    return {**theirs, **made, "info": theirs["info"], "paths": paths, "components": components}


# --- the operations ---


def _paths_of(definition: Definition, types: Types) -> Json:
    name, path = definition.name, definition.path
    process = _process_schema(definition, types)
    item = f"{path}/{{id}}"
    found: Json = {
        path: {"post": _start(definition, types, process), "get": _list(definition)},
        item: {"parameters": [_parameter("id")], "get": _status(name, process)},
    }
    if definition.signals is None:
        found[f"{item}/signals/{{name}}"] = {
            "parameters": [_parameter("id"), _parameter("signal")],
            "post": _signal(name, "", {}, required=False),
        }
    for signal, kind in (definition.signals or {}).items():
        found[f"{item}/signals/{signal}"] = {
            "parameters": [_parameter("id")],
            "post": _signal(name, signal, types.schema(kind), required=not takes_null(kind)),
        }
    reason = {"type": "object", "properties": {"reason": {**_TEXT, "maxLength": 1000}}}
    found[f"{item}/cancel"] = {
        "parameters": [_parameter("id")],
        "post": _operation(
            name,
            "cancel",
            "Cancel it: what it did is undone. Refused after its pivot.",
            {"202": _accepted(name), **_problems(CANCELS)},
            body=_body(reason, required=False),
        ),
    }
    for verb, (summary, body, required) in DESCRIBED.items():
        asked = body
        if verb == "fork":
            given = {"input": types.schema(definition.input_type)}
            asked = {**body, "properties": {**body["properties"], **given}}
        found[f"{item}/{verb}"] = {
            "parameters": [_parameter("id")],
            "post": _operation(
                name,
                verb,
                f"{summary} This machine only.",
                {"202": _accepted(name), **_problems(CONTROLS)},
                parameters=("Idempotency-Key",) if verb == "fork" else (),
                body=_body(asked, required=required),
            ),
        }
    return found


def _start(definition: Definition, types: Types, process: Json) -> Json:
    name = definition.name
    signals = () if definition.signals is None else definition.signals
    follow = {
        verb: {"operationId": f"{name}.{verb}", "parameters": {"id": "$response.body#/id"}}
        for verb in ("status", "cancel", *(f"signal.{signal}" for signal in signals))
    }
    headers = _headers(
        "Location", "ETag", "Retry-After", "Preference-Applied", "Idempotent-Replayed"
    )
    answer = {"headers": headers, "links": follow}
    first, last = (_json(process, examples.of(name, what)) for what in ("begun", "done"))
    begun = {"description": "Started: durable before this answer.", "content": first, **answer}
    ended = {"description": "Ended within `Prefer: wait=N`.", "content": last, **answer}
    return _operation(
        name,
        "start",
        f"Start {name}.",
        {str(definition.status_code): begun, "200": ended, **_problems(STARTS)},
        parameters=("Idempotency-Key", "Prefer"),
        body=_body(types.schema(definition.input_type), required=definition.takes_input),
    )


def _list(definition: Definition) -> Json:
    name = definition.name
    page = {
        "type": "object",
        "required": ["items"],
        "properties": {
            "items": {"type": "array", "items": {"$ref": _SCHEMAS + "OutliveSummary"}},
            "next": _TEXT,
        },
    }
    found = {"description": "Newest first.", "content": _json(page), "headers": _headers("Link")}
    made = _operation(
        name,
        "list",
        f"List every {name}. This machine only.",
        {"200": found, **_problems(LISTS)},
        parameters=("status", "limit", "cursor"),
    )
    made["parameters"] += searching.parameters(definition.tags)
    return made


def _status(name: str, process: Json) -> Json:
    state = _json(process, examples.of(name, "done"))
    content = {**state, "text/event-stream": {"schema": _TEXT}}
    headers = _headers("Retry-After", "Preference-Applied")
    headers["ETag"] = {key: value for key, value in HEADERS["ETag"].items() if key != "required"}
    return _operation(
        name,
        "status",
        f"The state of one {name}: at once, later (`Prefer: wait=N`), or as a stream of events.",
        {
            "200": {"description": "As it is durable now.", "content": content, "headers": headers},
            "204": {"description": "To a stream that comes back after its end."},
            "304": {"description": "Nothing happened since.", "headers": _headers("ETag")},
            **_problems(READS),
        },
        parameters=("If-None-Match", "Prefer", "Last-Event-ID"),
    )


def _signal(name: str, signal: str, schema: Json, *, required: bool) -> Json:
    return _operation(
        name,
        f"signal.{signal}" if signal else "signal",
        f"Tell it {signal or 'something'}: durable before this answer, kept until waited for.",
        {"202": _accepted(name), **_problems(SIGNALS)},
        parameters=("Idempotency-Key",),
        body=_body(schema, required=required),
    )


def _service_paths() -> Json:
    def simple(summary: str, kind: str, *problems: int) -> Json:
        content = {kind: {"schema": {"type": "object"} if kind.endswith("json") else _TEXT}}
        fine = {"description": "Fine.", "content": content}
        return {
            "get": {
                "summary": summary,
                "tags": ["service"],
                "responses": {"200": fine, **_problems(problems)},
            }
        }

    metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    return {
        "/livez": simple("The loop lives.", "application/json"),
        "/readyz": simple("Work is taken.", "application/json", 503),
        "/startupz": simple("Start-up is over.", "application/json", 503),
        "/metrics": simple("Counters of this instance.", metrics),
    }


def _operation(
    name: str,
    verb: str,
    summary: str,
    responses: Json,
    *,
    parameters: Iterable[str] = (),
    body: Json | None = None,
) -> Json:
    made: Json = {
        "operationId": f"{name}.{verb}",
        "summary": summary,
        "tags": [name],
        "parameters": [_parameter(found) for found in parameters],
        "responses": responses,
    }
    if body is not None:
        made["requestBody"] = body
    return made


# --- components ---


def _process_schema(definition: Definition, types: Types) -> Json:
    narrow = {"type": {"const": definition.name}, "result": types.schema(definition.output_type)}
    return {"allOf": [{"$ref": _SCHEMAS + "OutliveProcess"}, {"properties": narrow}]}


STEP_KINDS = (
    "step", "undo", "wait", "callback", "sleep", "transact", "gather", "first", "scope",
    "child", "publish",
)  # fmt: skip
_QUEUE: Json = {
    "type": "object",
    "description": "Where it stands in line, while it is queued because of a limit.",
    "properties": {
        "line": _TEXT,
        "ahead": _WHOLE,
        "atLeast": {"type": "boolean"},
        "running": _WHOLE,
        "why": _TEXT,
    },
    "required": ["line", "ahead"],
}


def _shared_schemas() -> Json:
    links = {"type": "object", "required": ["self"], "additionalProperties": _TEXT}
    identity = {"id": _TEXT, "type": _TEXT, "version": _WHOLE, "status": {"enum": list(STATUSES)}}
    era = {"type": "integer", "minimum": 2, "description": "Left out in the first era."}
    times = {"startedAt": _TIME, "changedAt": _TIME}
    required = [*identity, *times, "links"]
    ends = {"enum": ["open", "cancelling", "detached", *sorted(FINAL)]}
    ended = {"anyOf": [_TIME, {"type": "null"}]}
    child = {**identity, "name": _TEXT, "status": ends, "beganAt": _TIME, "endedAt": ended}
    whole = {
        **identity,
        "era": era,
        "data": {},
        "result": {},
        "problem": {"type": "object"},
        **times,
        "endedAt": _TIME,
        "waitsFor": _TEXT,
        "parent": _TEXT,
        "children": {"type": "array", "items": _object(child)},
        "queue": _QUEUE,
        "forkedFrom": _TEXT,
        "forks": {"type": "array", "items": _TEXT},
        "tags": _TAGS,
        "history": {
            "type": "array",
            "items": _object({"status": _TEXT, "at": _TIME, "why": _TEXT}),
        },
        "steps": {"type": "array", "items": _step_schema()},
        "links": links,
    }
    problem = {
        **dict.fromkeys(("type", "title", "detail", "instance", "code", "remedy"), _TEXT),
        "status": _WHOLE,
        "retryable": {"type": "boolean"},
        "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    }
    accepted = {"id": _TEXT, "type": _TEXT, "links": links}
    short = {**identity, **times, "waitsFor": _TEXT, "tags": _TAGS, "links": links}
    return {
        "OutliveProcess": {
            "type": "object",
            "properties": whole,
            "required": [*required, "data", "history", "steps"],
        },
        "OutliveSummary": {"type": "object", "properties": short, "required": required},
        "OutliveAccepted": _object(accepted),
        "OutliveProblem": _object(problem),
    }


def _step_schema() -> Json:
    attempt = _object(
        {
            "number": _WHOLE,
            "beganAt": _TIME,
            "endedAt": {"anyOf": [_TIME, {"type": "null"}]},
            "outcome": {"enum": ["done", "failed", "interrupted", "running"]},
            "error": {"type": ["object", "null"]},
            "node": _TEXT,
        }
    )
    return _object(
        {
            "name": _TEXT,
            "kind": {"enum": list(STEP_KINDS)},
            "outcome": _TEXT,
            "beganAt": _TIME,
            "endedAt": {"anyOf": [_TIME, {"type": "null"}]},
            "attempts": {"type": "array", "items": attempt},
        }
    )


def _object(properties: Json) -> Json:
    """An object of which every named member is always there."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _problem(status: int) -> Json:
    schema = {"schema": {"$ref": _SCHEMAS + "OutliveProblem"}}
    content = {"application/problem+json": {**schema, **examples.of("Problem", str(status))}}
    made: Json = {"description": PROBLEM_TEXTS[status], "content": content}
    if status in (429, 503, 507):
        made["headers"] = _headers("Retry-After")
    return made


def _problems(statuses: Iterable[int]) -> Json:
    return {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in statuses}


def _accepted(name: str) -> Json:
    return {
        "description": "Durable; what comes of it shows in the status.",
        "content": _json({"$ref": _SCHEMAS + "OutliveAccepted"}, examples.of(name, "accepted")),
        "headers": _headers("Location", "Retry-After"),
    }


def _body(schema: Json, *, required: bool) -> Json:
    return {"required": required, "content": _json(schema)}


def _json(schema: Json, shown: Json | None = None) -> Json:
    return {"application/json": {"schema": schema, **(shown or {})}}


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _parameter(name: str) -> Json:
    return {"$ref": f"#/components/parameters/{name}"}


# --- the types of the application ---


class Types:
    """JSON schemas of the application's types, with what they refer to collected in `components`.

    Two types of one name are both kept: the later one gets a number behind its name.
    """

    def __init__(self, shapes: Iterable[Shape]) -> None:
        self.components: Json = {}
        self._schemas: dict[int, Json] = {}
        for shape in shapes:
            self.add(shape)

    def add(self, shape: Shape) -> None:
        """Describe one more."""
        self._schemas[id(shape)] = self._collect(shape)

    def schema(self, shape: Shape) -> Json:
        """The schema of `shape`; `{}` when it may be anything."""
        return self._schemas.get(id(shape), {})

    def _collect(self, shape: Shape) -> Json:
        try:
            schema, parts = shape.schema()
        except (TypeError, ValueError):  # a type without a schema: anything
            return {}
        names = {name: name for name in parts}
        numbers = dict.fromkeys(parts, 1)
        while taken := [name for name in parts if self._is_anothers(name, names, parts)]:
            numbers[taken[0]] += 1  # and who refers to it may be another by that
            names[taken[0]] = f"{taken[0]}{numbers[taken[0]]}"
        self.components |= {names[name]: _named(part, names) for name, part in parts.items()}
        return _named(schema, names)

    def _is_anothers(self, name: str, names: dict[str, str], parts: Json) -> bool:
        """Whether what `name` is to be called is the name of something else."""
        wanted, part = names[name], _named(parts[name], names)
        return self.components.get(wanted, part) != part or list(names.values()).count(wanted) > 1


_REFERENCE = re.compile(rf'"{_SCHEMAS}([^"]+)"')


def _named(schema: Json, names: dict[str, str]) -> Json:
    """`schema` with the new names of what it refers to."""

    def named(found: re.Match[str]) -> str:
        return f'"{_SCHEMAS}{names.get(found[1], found[1])}"'

    made: Json = msgspec.json.decode(_REFERENCE.sub(named, msgspec.json.encode(schema).decode()))
    return made


def takes_null(shape: Shape) -> bool:
    """Whether no value, which is read as null, fits `shape`."""
    try:
        shape.read(b"null")
    except ValueError:
        return False
    return True
