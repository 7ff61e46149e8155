"""What is under way in this process, and is nobody's in a child that is forked from it.

    forgets_in_child(self)      when it is made
    def forget(self) -> None    is called in each forked child, before anything else runs there

A task, a future or a permit of the parent's event loop never ends in the child: who waited for it
there would wait for ever. What the parent holds, such as tokens of a limit, the child must not
spend as well.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forgets(Protocol):
    """Has something under way."""

    def forget(self) -> None:
        """In a forked child: what is under way is the parent's."""


_known: weakref.WeakSet[Forgets] = weakref.WeakSet()


def forgets_in_child(thing: Forgets) -> None:
    """Let `thing` forget in each child that is forked while it is there."""
    _known.add(thing)


def _after_fork() -> None:
    for thing in list(_known):
        thing.forget()


os.register_at_fork(after_in_child=_after_fork)
