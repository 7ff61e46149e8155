"""The tags of a running process, as its body sees and sets them.

    started with … ── set ──> in memory ── next record ──> a `tagged` event, and the cell's marks

A replay begins with the tags of the start and sets them again as it comes by; only what is not
recorded yet is recorded. So a body never sees a tag that it has not set so far, and setting one
costs no commit of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from outlive.kinds.processes.tags import demand_declared, sorted_tags, text_of
from outlive.runtime.activation import Activation

if TYPE_CHECKING:
    from outlive.runtime.attempts import Course


class RunTags(MutableMapping[str, Any]):
    """Names and values; a value is read as the text that is kept."""

    def __init__(self, activation: Activation) -> None:
        started = activation.journal.started
        self._activation = activation
        self._found = dict(started.tags if started is not None else ())
        self._count = 0

    def __getitem__(self, name: str) -> str:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a tag; None takes it away. Raises `TagNotDeclared`, `TagInvalid`."""
        definition = self._activation.definition
        demand_declared(definition.tags, definition.name, name)
        if value is None:
            self._found.pop(name, None)
        else:
            self._found[name] = text_of(name, value)
        self._set()

    def __delitem__(self, name: str) -> None:
        del self._found[name]
        self._set()

    def _set(self) -> None:
        self._count += 1
        recorded = self._activation.journal.tagged
        if recorded is None or self._count > recorded.count:
            self._activation.add_tags(sorted_tags(self._found), self._count)


def tags_here(activation: Activation, course: Course) -> RunTags:
    """The tags as the body on this course sees them. Raises `RuntimeError` in a branch."""
    if course.path:
        raise RuntimeError("tags are the whole process's: set them in the body")
    if course.tags is None:
        course.tags = RunTags(activation)
    return course.tags
