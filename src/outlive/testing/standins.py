"""Stand-ins for an application's steps and undos: they do nothing outside, and note each call.

    step charge(order) -> Receipt      waits a moment, gives some Receipt
    undo refund(order, made)           waits a moment

So the bodies of a service, its versions and its types can be run and killed on a developer's
machine without charging anybody. In place of the outside there is a ledger: a file to which each
call adds one line before it returns, also when its process is killed a moment later.

Not promised: that a body which touches the world outside of its steps leaves it alone.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from outlive import steps
from outlive.clock import Clock
from outlive.testing.specimens import specimen

CALL_SECONDS = 0.02
"""How long a stand-in takes, so that a kill finds some of them under way."""


class Call(Struct, frozen=True):
    """One call of a stand-in: the process's internal id, the step's, and when it began
    (microseconds since 1970 UTC, by this host)."""

    stream: str
    step: str
    at: int


class Ledger:
    """The calls that were made, in a file that any number of processes add to."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path = path
        self._clock = clock or Clock()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self) -> None:
        """Write down the call that is running."""
        found = steps.attempt()
        undo = "undo " * found.undoing
        line = f"{found._stream}\t{self._clock.wall()}\t{undo}{found.id}\n"
        os.write(self._file, line.encode())

    def calls(self) -> list[Call]:
        """Everything that was written down, the oldest first."""
        parts = (line.split("\t", 2) for line in self.path.read_text("utf-8").splitlines())
        return [Call(stream, step, int(at)) for stream, at, step in parts]


def stand_in(ledger: Ledger) -> None:
    """From now on every step and undo of this program is a stand-in, until the program ends."""
    spec_of, undo_of = steps.spec_of, steps.Spec.undo
    replaced: set[int] = set()

    def spec_with_stand_in(function: Callable[..., Any]) -> steps.Spec:
        spec = spec_of(function)
        if id(spec) not in replaced:
            replaced.add(id(spec))
            spec.function = in_place_of(spec.function, ledger)
        return spec

    def undo_with_stand_in(spec: steps.Spec) -> Callable[..., Any]:
        return in_place_of(undo_of(spec), ledger)

    steps.spec_of = spec_with_stand_in
    setattr(steps.Spec, "undo", undo_with_stand_in)  # noqa: B010 - a type checker forbids it


def in_place_of(function: Callable[..., Any], ledger: Ledger) -> Callable[..., Any]:
    """A function of the same kind and types that notes its call, takes a moment, and gives a
    specimen of what `function` is declared to give."""
    result: list[Any] = []

    def given() -> Any:
        if not result:
            from outlive.codec import shapes

            shape = shapes(function)[1]
            result.append(shape.read(specimen(shape)))
        return result[0]

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def called(*_: Any, **__: Any) -> Any:
            ledger.note()
            await asyncio.sleep(CALL_SECONDS)
            return given()

    else:

        @functools.wraps(function)
        def called(*_: Any, **__: Any) -> Any:
            ledger.note()
            threading.Event().wait(CALL_SECONDS)
            return given()

    return called
