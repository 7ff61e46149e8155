"""What stands in front of an application, in its OpenAPI document: limits, sessions, keys.

A guard that may answer in the place of a route says so in the description of each route it guards:
the problem, the fields, and the parameter that it wants. `app.asgi(api.asgi(keys.asgi(site, …)))`
asks the outermost, which asks the next one, down to the application that describes itself (FastAPI
does). One that does not describe itself stays undescribed.

What a route says of itself is kept: a problem is added beside the content that it has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

Json = dict[str, Any]
METHODS = frozenset(("delete", "get", "head", "options", "patch", "post", "put", "trace"))
_TEXT = {"type": "string"}
_FIELDS: Json = {
    "RateLimit": {
        "description": 'What is left of each quota, and when it is back: `"burst";r=7;t=1`.',
        "schema": _TEXT,
    },
    "RateLimit-Policy": {
        "description": 'The quotas that count here: `"burst";q=20;w=1`.',
        "schema": _TEXT,
    },
    "Retry-After": {
        "description": "Seconds until asking again makes sense, with jitter.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "Idempotent-Replayed": {
        "description": "`true` when this is the recorded answer of an earlier request.",
        "schema": {"const": "true"},
    },
}
_LATER = ("Retry-After",)
_LIMITS = ("RateLimit", "RateLimit-Policy")
_PROBLEM_SCHEMA: Json = {"$ref": "#/components/schemas/OutliveProblem"}


def by_ratelimits(app: object) -> Json | None:
    """The document of `app` behind a rate limit; None when it has none."""

    def guard(_: str, __: str, operation: Json) -> None:
        for answer in operation.get("responses", {}).values():
            _add_headers(answer, _LIMITS)
        _add_problem(operation, 429, "Over a rate limit: rate-limited.", (*_LIMITS, *_LATER))
        _add_problem(operation, 503, "The limiter could not be asked, and fails closed.", _LATER)

    return _guarded(app, guard)


def by_sessions(app: object) -> Json | None:
    """The document of `app` behind sessions; None when it has none."""

    def guard(_: str, __: str, operation: Json) -> None:
        said = "The session was ended while the request was under way: session-expired."
        _add_problem(operation, 401, said)
        _add_problem(operation, 409, "An attribute was changed meanwhile: session-changed.")
        _add_problem(operation, 500, "The session would be too large: session-too-large.")
        _add_problem(operation, 503, "The session cannot be read or written now.", _LATER)

    return _guarded(app, guard)


def by_keys(app: object, routes: Mapping[tuple[str, str], bool]) -> Json | None:
    """The document of `app` behind idempotency keys; None when it has none.

    `routes`: method and template of each that takes a key, and whether it must.
    """
    wanted = {(method.lower(), _shape(path)): must for (method, path), must in routes.items()}

    def guard(path: str, method: str, operation: Json) -> None:
        must = wanted.get((method, _shape(path)))
        if must is None:
            return
        parameters = operation.setdefault("parameters", [])
        parameters[:] = [one for one in parameters if one.get("name") != "Idempotency-Key"]
        parameters.append(
            {
                "name": "Idempotency-Key", "in": "header", "required": must,
                "description": 'A structured-field string, such as `"order-17"`.', "schema": _TEXT,
            }
        )  # fmt: skip
        for status, answer in operation.get("responses", {}).items():
            if status.startswith("2"):
                _add_headers(answer, ("Idempotent-Replayed",))
        _add_problem(operation, 400, "idempotency-key-missing, or malformed-key.")
        said = "request-running, request-outcome-unknown, or answer-not-replayable."
        _add_problem(operation, 409, said, _LATER)
        _add_problem(operation, 413, "The body is too large to be compared with a retry.")
        _add_problem(operation, 422, "The key was used with another request: key-reused.")
        _add_problem(operation, 503, "The key cannot be looked up; nothing was done.", _LATER)

    return _guarded(app, guard)


def _guarded(app: object, guard: Callable[[str, str, Json], None]) -> Json | None:
    describe = getattr(app, "openapi", None)
    theirs = describe() if callable(describe) else None
    if theirs is None:
        return None
    made: Json = deepcopy(theirs)  # it is kept by who made it
    for path, item in made.get("paths", {}).items():
        for method, operation in item.items():
            if method in METHODS:
                guard(path, method, operation)
    components = made.setdefault("components", {})
    components["headers"] = {**_FIELDS, **components.get("headers", {})}
    return made


def _add_problem(operation: Json, status: int, said: str, headers: Iterable[str] = ()) -> None:
    answers = operation.setdefault("responses", {})
    answer = answers.setdefault(str(status), {"description": said})
    if "$ref" in answer:  # it is one of ours already
        return
    if said not in answer["description"]:
        answer["description"] += f" {said}"
    answer.setdefault("content", {}).setdefault(
        "application/problem+json", {"schema": dict(_PROBLEM_SCHEMA)}
    )
    _add_headers(answer, headers)


def _add_headers(answer: Json, names: Iterable[str]) -> None:
    if "$ref" in answer:
        return
    known = answer.setdefault("headers", {})
    for name in names:
        known.setdefault(name, {"$ref": f"#/components/headers/{name}"})


def _shape(path: str) -> str:
    """A template without the names of its parameters."""
    return re.sub(r"\{[^}]*\}", "{}", path)
