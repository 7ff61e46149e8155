"""Problems: every 4xx and 5xx is `application/problem+json` (RFC 9457) and has a page.

An `OutliveError` carries all it needs (code, slug, status, retryable, remedy), so there is no table
to keep here. What only HTTP knows is declared below, under `HttpError`, with codes OL4xxx:

    OutliveError
    ├── HttpError               said about the request itself, before any state was touched
    │   ├── NotFound · MethodNotAllowed · InvalidQuery · UnsupportedMediaType · BodyTooLarge
    │   ├── LocalOnly · NotAdmitted · ForeignOrigin · SignInNeeded · ViewerOnly · FormUnsealed
    │   └── NotServing          the application is not open (yet, or any more)
    └── ProcessStuck            the `problem` inside a status; never an answer's own

What leaves the service is chosen, not filtered: the words of an error go out only when they were
written for its caller (`HttpError` and those of `TOLD`). Of every other error only its
title does, and of an unexpected exception nothing but a trace id, under which the log has the rest.
A body never reaches the log.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from outlive.errors import (
    DependencyError,
    NoSuchState,
    OutcomeUnknown,
    OutliveError,
    ProcessError,
    ProcessFailed,
    RequestError,
    SessionError,
    TooLarge,
    catalogue,
)
from outlive.ids import full_jitter, token

if TYPE_CHECKING:
    from outlive.kinds.processes import Failure
    from outlive.web.messages import Headers

log = logging.getLogger("outlive.web")

PROBLEM = (b"content-type", b"application/problem+json")
CHALLENGE = (b"www-authenticate", b'Bearer realm="outlive"')
"""What RFC 9110 demands of a 401: by what a client may say who it is."""
PAGES = "/outlive/problems/"
RETRY_SECONDS = 2.0
"""The middle of the Retry-After of a problem; drawn anew for each answer so that clients do not
return as one."""

TOLD = (NoSuchState, ProcessError, RequestError, SessionError, TooLarge)
"""Whose words are written for the caller, beside those of `HttpError`."""

_RESERVED = frozenset(
    ("type", "title", "status", "detail", "instance", "code", "retryable", "remedy", "trace_id")
)


class HttpError(OutliveError):
    """The request cannot be answered as it is.

    No state was touched."""

    code, slug, status = "OL4000", "http-error", 400


class NotFound(HttpError):
    """There is nothing at this path.

    Neither a declared process nor a page of the service answers here."""

    code, slug, status = "OL4001", "not-found", 404
    remedy = "Check the path; the declared ones are listed in /openapi.json."


class MethodNotAllowed(HttpError):
    """This path does not take that method.

    Nothing was done."""

    code, slug, status = "OL4002", "method-not-allowed", 405
    remedy = "Use one of the methods named in the Allow header."
    allow = b""
    """The Allow header, where it is not that of the whole path."""


class InvalidQuery(HttpError):
    """A query parameter has a value that is not allowed.

    Nothing was read."""

    code, slug, status = "OL4003", "invalid-query", 422
    remedy = "Correct the parameter named in the message."


class UnsupportedMediaType(HttpError):
    """The body is declared as something other than JSON.

    It was not read, and no idempotency key was used."""

    code, slug, status = "OL4004", "unsupported-media-type", 415
    remedy = "Send JSON as application/json, the lines of a journal as application/x-ndjson."


class BodyTooLarge(HttpError):
    """The body is longer or deeper than its limits.

    Reading stopped there; nothing was stored and no idempotency key was used."""

    code, slug, status = "OL4005", "body-too-large", 413
    remedy = "Send less, or keep the bytes elsewhere and pass a reference."


class LocalOnly(HttpError):
    """This page is only served to clients on the same machine.

    It shows or changes work of every caller. The request came from another machine, through a
    proxy, or under a host name that is not local, so it was refused."""

    code, slug, status = "OL4006", "local-only", 403
    remedy = (
        "Ask from the machine itself by http://127.0.0.1:PORT, or put your own access control in"
        " front and create the application with open_to_all=True, or name who may see it:"
        " Outlive(dashboard=Access(…))."
    )


class NotAdmitted(HttpError):
    """The caller may not do this, or not any more.

    Nothing was done, and no earlier answer was given."""

    code, slug, status = "OL4009", "not-admitted", 403
    remedy = "Sign in as somebody who may."


class ForeignOrigin(HttpError):
    """The form was sent by a page of another origin.

    Nothing was done."""

    code, slug, status = "OL4007", "foreign-origin", 403
    remedy = "Use the form on the dashboard itself; scripts use the HTTP interface of the process."


class SignInNeeded(HttpError):
    """This is only shown to who has signed in.

    Nothing was read or done."""

    code, slug, status = "OL4011", "sign-in-needed", 401
    remedy = "Sign in on the dashboard, or send `Authorization: Bearer` with your token."


class ViewerOnly(HttpError):
    """Viewers look and change nothing.

    Nothing was done."""

    code, slug, status = "OL4012", "viewer-only", 403
    remedy = "Ask somebody who is an operator, or to become one: `Access(operators={…})`."


class FormUnsealed(HttpError):
    """The form does not carry the seal of this browser.

    It was open while you signed in or out, cookies are not kept here, or another page has sent it.
    Nothing was done."""

    code, slug, status = "OL4013", "form-unsealed", 403
    remedy = "Reload the page and send the form again; allow cookies for this address."


class ReasonNeeded(HttpError):
    """This change cannot be taken back, and no reason was given.

    Nothing was done."""

    code, slug, status = "OL4014", "reason-needed", 422
    remedy = "Say why; it is kept in the journal with your name."


class NotServing(HttpError):
    """The application is not open.

    Nothing was read or stored. It is starting, it has stopped, or its life span was never run:
    servers do not run the life span of a mounted sub-application."""

    code, slug, status, retryable = "OL4008", "not-serving", 503, True
    remedy = (
        "Repeat the request; if it lasts, serve app.asgi(existing_app) at the root, or await"
        " app.open()."
    )


class ProcessStuck(OutliveError):
    """The process cannot go on by itself.

    An undo gave up, or the code no longer matches what was recorded. Nothing was lost; it waits for
    a person."""

    code, slug, status = "OL4010", "process-stuck", 409
    remedy = (
        "Mend the cause, then retry the process (dashboard, `outlive retry ID`, or POST …/retry)."
    )


def of_error(
    error: OutliveError, *, instance: str, root: str, trace: str, retryable: bool | None = None
) -> tuple[int, bytes, Headers]:
    """Status, body and headers of the answer that reports `error`.

    `instance` is the request's path, `root` the prefix we are mounted under, `trace` the trace id
    or an empty string (then one is drawn). `retryable` overrides the class, for an unknown outcome
    under an idempotency key.
    """
    kind = type(error)
    trace = trace or new_trace_id()
    if kind.status >= 500 and not _is_told(error):
        log.error("%s %s: %s (trace %s)", kind.code, kind.slug, error.detail, trace)
    problem = members(error, instance=instance, root=root, trace=trace, retryable=retryable)
    headers = [PROBLEM, (b"cache-control", b"no-store")]
    if problem["retryable"] or kind.status in (429, 503):
        known = error.facts.get("retry_after")
        wait = retry_after(RETRY_SECONDS) if known is None else not_before(known)
        headers.append((b"retry-after", b"%d" % wait))
    return kind.status, msgspec.json.encode(problem), headers


def members(
    error: OutliveError, *, instance: str, root: str, trace: str, retryable: bool | None = None
) -> dict[str, Any]:
    """What the body that reports `error` says; see `of_error`."""
    kind, told = type(error), _is_told(error)
    problem: dict[str, Any] = {
        "type": page_of(root, kind),
        "title": kind.title(),
        "status": kind.status,
        "detail": error.detail if told else kind.title(),
        "instance": instance,
        "code": kind.code,
        "retryable": kind.retryable if retryable is None else retryable,
        "remedy": kind.remedy,
        "trace_id": trace,
    }
    if told:
        problem |= _sendable(error.facts)
    elif isinstance(error, DependencyError) and "dependency" in error.facts:
        problem["dependency"] = error.facts["dependency"]
    return problem


def of_exception(
    error: Exception, *, instance: str, root: str, trace: str
) -> tuple[int, bytes, Headers]:
    """The answer to an exception nobody foresaw: a 500 that says nothing but where to look."""
    trace = trace or new_trace_id()
    log.error("unexpected %s (trace %s)", type(error).__name__, trace, exc_info=error)
    return of_error(OutliveError(), instance=instance, root=root, trace=trace)


def of_failure(failure: Failure | None, status: str, root: str) -> dict[str, Any]:
    """The `problem` member of a process that is `status`, from its recorded failure."""
    kind: type[OutliveError] = ProcessStuck if status in ("stuck", "paused") else ProcessFailed
    problem: dict[str, Any] = {
        "type": page_of(root, kind),
        "title": kind.title(),
        "code": kind.code,
    }
    if failure is not None:
        known = by_code().get(failure.code)
        if known is not None:
            problem |= {"type": page_of(root, known), "title": known.title()}
        problem |= {
            "code": failure.code or kind.code,
            "detail": failure.message,
            "error": failure.type,
            "retryable": failure.retryable,
        }
    return problem


def page_of(root: str, kind: type[OutliveError]) -> str:
    """The address of the page about `kind`, under the prefix `root`: a problem's `type`."""
    return f"{quote(root)}{PAGES}{kind.slug}"


def retry_after(base_seconds: float) -> int:
    """Whole seconds for Retry-After: `base_seconds` with jitter between a half and one and a half,
    at least 1."""
    return max(1, round(base_seconds / 2 + full_jitter(base_seconds, base_seconds, 1)))


def not_before(seconds: float) -> int:
    """Whole seconds for Retry-After where it is known when it will go: never earlier, and up to a
    quarter later, so that clients do not come back together; at least 1."""
    return max(1, math.ceil(seconds + full_jitter(seconds / 4, 60.0, 1)))


def new_trace_id() -> str:
    """32 random hexadecimal characters, as W3C Trace Context writes a trace id."""
    return hashlib.blake2b(token(160).encode(), digest_size=16).hexdigest()


def unknown_outcome_is_safe(error: OutliveError, key: str | None) -> bool | None:
    """Whether the caller may repeat: an unknown outcome is looked up by its key, so with one it
    may."""
    return True if isinstance(error, OutcomeUnknown) and key is not None else None


def by_slug() -> dict[str, type[OutliveError]]:
    """Every type of problem by the last part of its page's address; a parent wins over a child that
    inherits it."""
    found: dict[str, type[OutliveError]] = {}
    for kind in catalogue():
        found.setdefault(kind.slug, kind)
    return found


def by_code() -> dict[str, type[OutliveError]]:
    """Every type of problem by its code."""
    found: dict[str, type[OutliveError]] = {}
    for kind in catalogue():
        found.setdefault(kind.code, kind)
    return found


def _is_told(error: OutliveError) -> bool:
    return isinstance(error, (HttpError, *TOLD))


def _sendable(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that are JSON and do not take the name of a standard member."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if name in _RESERVED:
            continue
        try:
            msgspec.json.encode(value)
        except (TypeError, ValueError, NotImplementedError):
            continue
        found[name] = value
    return found
