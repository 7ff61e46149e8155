"""What clients asked of a store and were told, and in what order: the raw material of the checkers.

    invoke ──> ok        it happened, and this is the answer
          ├──> fail      it did not happen; what the refusal says of the state is its answer
          └──> unknown   it may have happened, may yet happen, or never will

Each operation has a time at which it began and one at which it ended. Times only say what was
before what: one that ended before another began precedes it; everything else overlaps. An operation
of unknown outcome never ends, because it may take effect at any later time.

`linearize.py` judges what is asked of one cell, `appends.py` what is asked of several streams.
Histories of several processes are written to files and put together (`save`, `load`); their times
must then come from one clock, such as the machine's monotonic one.

Reference: Herlihy and Wing, "Linearizability: a correctness condition for concurrent objects", 1990
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

Outcome = Literal["ok", "fail", "unknown"]
OPERATIONS_MAX = 1_000_000
"""Operations of one history."""

WORDS_SHOWN = 6
"""Elements of a list that are shown: the last ones are the news."""


class Operation(Struct, frozen=True):
    """One thing a client asked, and what became of it.

    `asked` and `answered` are tuples of plain values, whose meaning is the model's business; the
    first of `asked` is the name of what was done.
    """

    process: str
    key: str
    asked: tuple[Any, ...]
    outcome: Outcome
    answered: tuple[Any, ...] | None
    began: int
    ended: int | None
    """None when its outcome is unknown."""

    @property
    def name(self) -> str:
        return str(self.asked[0])

    def precedes(self, other: Operation) -> bool:
        """Whether it was over before `other` began."""
        return self.ended is not None and self.ended < other.began


class Call:
    """An operation that was begun, and is ended once: by `ok`, `fail` or `unknown`."""

    def __init__(
        self, history: History, process: str, key: str, asked: tuple[Any, ...], began: int
    ) -> None:
        self._history = history
        self.process, self.key, self.asked, self.began = process, key, asked, began
        self.ended = False

    def ok(self, *answered: Any) -> None:
        """It happened."""
        self._end("ok", answered)

    def fail(self, *answered: Any) -> None:
        """It did not happen; `answered` is what the refusal says of the state, if it does."""
        self._end("fail", answered or None)

    def unknown(self) -> None:
        """Nobody can say."""
        self._end("unknown", None)

    def _end(self, outcome: Outcome, answered: tuple[Any, ...] | None) -> None:
        if self.ended:
            raise ValueError(f"{self.asked} of {self.process} was ended twice")
        self.ended = True
        self._history.add(self, outcome, answered)


class History:
    """Operations as they end; may be written by several threads.

    `ticks` gives the times, each at least as great as the one before; a counter if none is given.
    """

    def __init__(self, ticks: Callable[[], int] | None = None) -> None:
        self._ticks = ticks or itertools.count(1).__next__
        self._lock = threading.Lock()
        self._ended: list[Operation] = []
        self._under_way: set[Call] = set()

    def invoke(self, process: str, key: str, *asked: Any) -> Call:
        """Begin an operation. A `process` does one thing at a time."""
        with self._lock:
            if len(self._ended) >= OPERATIONS_MAX:
                raise ValueError(f"a history has at most {OPERATIONS_MAX} operations")
            call = Call(self, process, key, asked, self._ticks())
            self._under_way.add(call)
        return call

    def add(self, call: Call, outcome: Outcome, answered: tuple[Any, ...] | None) -> None:
        """Note what became of `call`; through its own methods."""
        with self._lock:
            ended = None if outcome == "unknown" else self._ticks()
            self._ended.append(
                Operation(call.process, call.key, call.asked, outcome, answered, call.began, ended)
            )
            self._under_way.discard(call)

    def operations(self) -> list[Operation]:
        """All of them by their beginning; those under way count as unknown."""
        with self._lock:
            pending = [
                Operation(call.process, call.key, call.asked, "unknown", None, call.began, None)
                for call in self._under_way
            ]
            return in_order([*self._ended, *pending])

    def save(self, path: Path) -> None:
        """Write them to a file, one a line."""
        lines = (msgspec.json.encode(operation) for operation in self.operations())
        path.write_bytes(b"".join(line + b"\n" for line in lines))


def load(*paths: Path) -> list[Operation]:
    """The operations of several saved histories, whose times come from one clock."""
    found = [
        msgspec.json.decode(line, type=Operation)
        for path in paths
        for line in path.read_bytes().splitlines()
    ]
    return in_order(
        msgspec.structs.replace(
            operation, asked=_tuples(operation.asked), answered=_tuples(operation.answered)
        )
        for operation in found
    )


def in_order(operations: Iterable[Operation]) -> list[Operation]:
    """By their beginning, and by their end where they began at one time."""
    never = float("inf")
    return sorted(operations, key=lambda o: (o.began, never if o.ended is None else o.ended))


def by_key(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """The operations of each key, in the order given."""
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        found.setdefault(operation.key, []).append(operation)
    return found


def shown(operations: Iterable[Operation], marked: Operation | None = None) -> str:
    """The operations as a table for people, times counted from the first; `marked` has an arrow."""
    operations = in_order(operations)
    times = {time for o in operations for time in (o.began, o.ended) if time is not None}
    place = {time: number for number, time in enumerate(sorted(times))}
    width = max((len(operation.process) for operation in operations), default=0)
    lines = []
    for operation in operations:
        until = "…" if operation.ended is None else str(place[operation.ended])
        asked = " ".join(map(_said, operation.asked))
        told = " ".join(map(_said, operation.answered or ()))
        arrow = "->" if operation is marked else "  "
        lines.append(
            f"{arrow} {place[operation.began]:>4} to {until:<4} {operation.process:<{width}}"
            f"  {asked}: {operation.outcome} {told}".rstrip()
        )
    return "\n".join(lines)


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        words = [_said(each) for each in value]
        if len(words) > WORDS_SHOWN:
            words = ["…", *words[1 - WORDS_SHOWN :]]
        return "[" + " ".join(words) + "]"
    return "-" if value is None else str(value)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
