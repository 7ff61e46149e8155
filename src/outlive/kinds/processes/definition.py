"""A declared type of process: its body, its versions, its path and its types."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Raw

from outlive import codec
from outlive.clock import AHEAD_SECONDS_MAX
from outlive.codec import Shape, shapes
from outlive.errors import (
    InvalidInput,
    MalformedInput,
    ProcessError,
    SignalNotExpected,
    UpdateNotExpected,
)
from outlive.kinds.processes.limits import BACKLOG_MAX, LIMITS_MAX, Limit
from outlive.kinds.processes.tags import Declared, Derive, Tags, declared, tags_of
from outlive.kinds.processes.updates import Update
from outlive.kinds.processes.vocabulary import is_taken

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
PREFIX = re.compile(r"[a-z][a-z0-9]{0,15}\Z")
PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+\Z")
RESERVED = ("/outlive", "/livez", "/readyz", "/startupz", "/metrics", "/openapi.json")


class Definition:
    """What `@app.process` declared about a function: one per type and version."""

    __slots__ = (
        "accepts",
        "backlog_max",
        "body",
        "callbacks",
        "deadline",
        "input_type",
        "is_async",
        "limits",
        "name",
        "notify",
        "output_type",
        "path",
        "prefix",
        "retention",
        "rollback_on",
        "signals",
        "status_code",
        "tags",
        "takes_input",
        "updates",
        "version",
    )

    def __init__(
        self,
        body: Callable[..., Any],
        path: str | None,
        version: int,
        name: str | None,
        prefix: str | None,
        status_code: int,
        signals: Mapping[str, Any] | None,
        rollback_on: tuple[type[Exception], ...],
        deadline: float | None = None,
        accepts: tuple[int, ...] = (),
        updates: Iterable[Update[Any, Any]] = (),
        callbacks: Mapping[str, Any] | None = None,
        notify: str = "",
        limits: tuple[Limit, ...] = (),
        backlog_max: int = BACKLOG_MAX,
        *,
        tags: Sequence[str] | Mapping[str, Derive | None] = (),
        retention: float | None = None,
    ) -> None:
        self.body = body
        self.name = name or body.__name__
        self.path = path or ""
        """Where it stands over HTTP; empty: nowhere."""
        self.version = version
        self.prefix = prefix or re.sub("[^a-z0-9]", "", self.name)[:16]
        self.status_code = status_code
        self.rollback_on = rollback_on
        self.deadline = deadline
        self.updates = {found.name: found for found in updates}
        self.callbacks: Mapping[str, Shape] | None = (
            None if callbacks is None else {key: Shape(found) for key, found in callbacks.items()}
        )
        self.notify = notify
        self.accepts = tuple(accepts)
        self.limits = limits
        self.backlog_max = backlog_max
        self.retention = retention
        """Seconds that an ended process is kept; None: as long as the application says."""
        self.tags: Declared = declared(tags, self.name)
        self.is_async = inspect.iscoroutinefunction(body)
        self._check(path)
        given, result = shapes(body, skip=1)
        self.takes_input = bool(given)
        self.input_type = given[0] if given else Shape(type(None))
        self.output_type = result
        self.signals: Mapping[str, Shape] | None = (
            None if signals is None else {key: Shape(found) for key, found in signals.items()}
        )
        if len(given) > 1:
            raise TypeError(
                f"process {self.name} takes {len(given)} inputs; it takes one (or none)"
            )

    def _check(self, path: str | None) -> None:
        if not NAME.match(self.name):
            raise ValueError(f"{self.name!r} is no name of a process: a-z, 0-9 and _, at most 64")
        if not PREFIX.match(self.prefix):
            raise ValueError(f"{self.prefix!r} is no id prefix: a-z and 0-9, at most 16")
        if path is not None and not PATH.match(path):
            raise ValueError(f"{path!r} is no path: it starts with / and has plain segments")
        if any(self.path == taken or self.path.startswith(taken + "/") for taken in RESERVED):
            raise ValueError(f"{self.path} belongs to outlive; choose another path")
        if not 1 <= self.version < 2**31:
            raise ValueError(
                f"version {self.version} of {self.name} must be a whole number above 0"
            )
        older = all(1 <= version < self.version for version in self.accepts)
        if not older or len(set(self.accepts)) < len(self.accepts):
            raise ValueError(
                f"accepts of {self.name} v{self.version} is {self.accepts}; it names older "
                f"versions, from 1 on, each once"
            )
        if self.deadline is not None and not 0 < self.deadline <= AHEAD_SECONDS_MAX:
            raise ValueError(
                f"deadline of {self.name} is {self.deadline}; it must be above 0 seconds, "
                f"100 years at most"
            )
        if len(self.limits) > LIMITS_MAX:
            raise ValueError(f"{self.name} has {len(self.limits)} limits; at most {LIMITS_MAX}")
        if self.backlog_max < 1:
            raise ValueError(f"backlog_max of {self.name} is {self.backlog_max}; it is 1 or more")
        if self.retention is not None and not 0 < self.retention <= AHEAD_SECONDS_MAX:
            raise ValueError(
                f"retention_seconds of {self.name} is {self.retention}; it must be above 0, "
                f"100 years at most"
            )
        if self.status_code not in (201, 202):
            raise ValueError(f"status_code of {self.name} is {self.status_code}; it is 201 or 202")

    def signal_payload(self, name: str, payload: bytes) -> Raw:
        """A signal's payload as it is kept.

        Raises `SignalNotExpected`, `MalformedInput` or `InvalidInput`; then nothing may be kept.
        """
        shape = codec.ANYTHING
        if is_taken(name):
            raise SignalNotExpected(f"{name[:64]!r} is no name of a signal.")
        if self.signals is not None:
            if name not in self.signals:
                known = ", ".join(sorted(self.signals)) or "none"
                raise SignalNotExpected(
                    f"{self.name} takes no signal {name[:64]!r}; it takes: {known}."
                )
            shape = self.signals[name]
        try:
            return Raw(codec.encode(shape.read(payload)))
        except ValueError as error:
            raise input_error(payload, error) from None

    def update_payload(self, name: str, payload: bytes) -> Raw:
        """The payload of the update `name` as it is kept.

        Raises `UpdateNotExpected`, `MalformedInput` or `InvalidInput`; then nothing may be kept.
        """
        update = self.updates.get(name)
        if update is None:
            known = ", ".join(sorted(self.updates)) or "none"
            raise UpdateNotExpected(
                f"{self.name} takes no update {name[:64]!r}; it takes: {known}."
            )
        try:
            return Raw(codec.encode(update.accept(payload)))
        except ValueError as error:
            raise input_error(payload, error) from None

    def callback_payload(self, name: str, payload: bytes) -> Raw:
        """What the callback `name` is told, as it is kept. Raises `MalformedInput` or
        `InvalidInput`; then nothing may be kept."""
        shape = codec.ANYTHING if self.callbacks is None else self.callbacks.get(name)
        try:
            return Raw(codec.encode((shape or codec.ANYTHING).read(payload)))
        except ValueError as error:
            raise input_error(payload, error) from None

    def tags_of(self, value: Any, given: Mapping[str, Any] | None = None) -> Tags:
        """The tags of a process that is started with the input `value`. Raises `TagNotDeclared` or
        `TagInvalid`."""
        if not self.tags and not given:
            return ()
        return tags_of(self.tags, self.name, value, given)

    @property
    def label(self) -> str:
        """The type and version in words."""
        return label_of(self.name, self.version)

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions whose processes it runs: its own, and those it accepts."""
        return (self.version, *self.accepts)


def label_of(name: str, version: int) -> str:
    """A type and version in words: what a node says that it runs."""
    return f"{name} v{version}"


def any_payload(payload: bytes) -> Raw:
    """The payload of a signal for a type that is not declared here. Raises `MalformedInput`."""
    try:
        return Raw(codec.encode(codec.ANYTHING.read(payload)))
    except ValueError as error:
        raise input_error(payload, error) from None


def input_error(body: bytes, error: ValueError) -> ProcessError:
    """Why `body` cannot be read as declared: not JSON at all, or JSON that does not fit."""
    try:
        codec.ANYTHING.read(body)
    except ValueError as malformed:
        return MalformedInput(f"The body is not JSON: {malformed}.")
    return InvalidInput(f"The body does not fit: {str(error)[:500]}.")
