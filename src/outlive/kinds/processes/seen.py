"""What a query is given: a process as it is durable, frozen, with what its steps have returned.

    @app.query(of=order)
    def progress(seen: Seen, unit: str = "cents") -> Progress:
        paid = seen.result("charge")
        ...

Made anew for each query from the journal and the cell, on whichever node was asked. Nothing leads
from it back to the process, so a query cannot change one, and needs neither its body nor its node.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct

from outlive import codec
from outlive.codec import Shape
from outlive.errors import InvalidInput
from outlive.kinds.processes.cells import Head
from outlive.kinds.processes.definition import NAME, Definition
from outlive.kinds.processes.reports import AttemptView, PastState, StepView, View
from outlive.kinds.processes.view import view_of
from outlive.kinds.processes.vocabulary import Failure, unpack
from outlive.model import Event

_NOTHING: Any = object()


class Seen(Struct, frozen=True):
    """A process as it is durable at one moment; frozen, and a copy."""

    id: str
    type: str
    version: int
    status: str
    seq: int
    """How many events it has: changes whenever anything here does."""
    input: Any
    """What it was started with, of the declared type where this program declares it."""
    state: Any
    """What its body has set last, as plain JSON; None before."""
    output: Any
    """What its body has returned, as plain JSON; None unless it is done."""
    failure: Failure | None
    steps: tuple[StepView, ...]
    history: tuple[PastState, ...]
    results: Mapping[str, Any]
    """What each recorded step has returned, by its identity, as plain JSON."""
    started: int
    changed: int
    ended: int | None
    waits_for: str
    due: int | None

    def result(self, step: str, default: Any = None) -> Any:
        """What the step with the identity `step` has returned; `default` while it has not."""
        return self.results.get(step, default)

    @property
    def attempts(self) -> tuple[AttemptView, ...]:
        """Every attempt at every step, in the order of the steps."""
        return tuple(attempt for step in self.steps for attempt in step.attempts)


def seen_of(id: str, head: Head, events: Sequence[Event], made: Definition | None) -> Seen:
    """The process `id` as its cell and its journal tell it; `made` says how its input is read."""
    view: View = view_of(id, head, events)
    read = codec.ANYTHING.read
    given, state, results = head.input, None, {}
    for event in events:
        if event.kind == "started":
            given = unpack(event.kind, event.data).input
        elif event.kind == "state":
            state = read(unpack(event.kind, event.data).state)
        elif event.kind == "step":
            done = unpack(event.kind, event.data)
            if done.error is None:
                results[done.id] = read(done.result)
    shape = made.input_type if made is not None else codec.ANYTHING
    return Seen(
        id=id,
        type=view.type,
        version=view.version,
        status=view.status,
        seq=view.seq,
        input=shape.read(given if bytes(given) else codec.NULL),
        state=state,
        output=None if view.result is None else read(view.result),
        failure=view.failure,
        steps=view.steps,
        history=view.history,
        results=MappingProxyType(results),
        started=view.started,
        changed=view.changed,
        ended=view.ended,
        waits_for=view.waits_for,
        due=view.due,
    )


class Query:
    """What `@app.query` declared about a function."""

    __slots__ = ("function", "gives", "limit_seconds", "name", "of", "parameters")

    def __init__(
        self, function: Callable[..., Any], name: str, of: str, limit_seconds: float
    ) -> None:
        if not NAME.match(name):
            raise ValueError(f"{name!r} is no name of a query: a-z, 0-9 and _, at most 64")
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"query {name} is asynchronous; it only computes, so it is plain")
        if limit_seconds <= 0:
            raise ValueError(f"limit_seconds of {name} is {limit_seconds}; it must be above 0")
        self.function = function
        self.name = name
        self.of = of
        self.limit_seconds = limit_seconds
        given = list(inspect.signature(function).parameters.values())
        if not given or any(found.kind in (found.VAR_POSITIONAL,) for found in given):
            raise TypeError(f"query {name} takes what is seen of a process, then its parameters")
        hints = codec.hints(function)
        self.gives = Shape(hints.get("return", Any))
        self.parameters: dict[str, tuple[Any, Any]] = {
            found.name: (
                hints.get(found.name, Any),
                _NOTHING if found.default is found.empty else found.default,
            )
            for found in given[1:]
        }
        """The type and the default of each parameter behind the first."""

    def is_required(self, name: str) -> bool:
        """Whether the parameter `name` has no default."""
        return self.parameters[name][1] is _NOTHING

    def read(self, given: Mapping[str, str]) -> dict[str, Any]:
        """The parameters in a query string. Raises `InvalidInput` naming the one that is wrong."""
        if unknown := sorted(given.keys() - self.parameters.keys()):
            known = ", ".join(self.parameters) or "none"
            raise InvalidInput(
                f"The query {self.name} has no parameter {unknown[0][:64]!r}; it has: {known}."
            )
        found = {}
        for name, (kind, _) in self.parameters.items():
            if name in given:
                try:
                    found[name] = msgspec.convert(given[name], kind, strict=False)
                except (msgspec.ValidationError, TypeError) as error:
                    raise InvalidInput(f"The parameter {name} does not fit: {error}.") from None
            elif self.is_required(name):
                raise InvalidInput(f"The query {self.name} needs the parameter {name}.")
        return found
