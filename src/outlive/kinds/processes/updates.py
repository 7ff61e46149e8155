"""An update as it is declared: what it is asked with, and what it answers.

    change_address = Update("change_address", Address, Receipt)

The same object is given to `@app.process(updates=[…])`, to `run.wait_update` and to
`handle.update`, so that a type checker knows both ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from outlive.codec import Shape

A = TypeVar("A")
R = TypeVar("R")
UPDATE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")


class Update(Generic[A, R]):
    """A message to a process that is answered.

    `name`: a letter, then letters, digits, `_` and `-`; at most 64. `takes`, `gives`: the types of
    what is asked and of the answer. `check`: called with what is asked before it is accepted, on
    any node; a `ValueError` it raises refuses it (422), and nothing is kept. It must be quick and
    depend on nothing else.
    """

    __slots__ = ("_check", "gives", "name", "takes")

    def __init__(
        self,
        name: str,
        takes: type[A],
        gives: type[R],
        *,
        check: Callable[[A], Any] | None = None,
    ) -> None:
        if not UPDATE_NAME.match(name):
            raise ValueError(f"{name!r} is no name of an update: letters, digits, _ and -")
        self.name = name
        self.takes = Shape(takes)
        self.gives = Shape(gives)
        self._check = check

    def accept(self, payload: bytes) -> A:
        """What is asked with `payload`. Raises `ValueError` when it does not fit."""
        asked: A = self.takes.read(payload)
        if self._check is not None:
            self._check(asked)
        return asked
