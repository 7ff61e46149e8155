"""The children of one process, as its journal knows them.

    open        attached and not ended: the parent does not end before it
    ended       its end is recorded here, in the commit that took the news
    let go      its part of the body lost a race or was rolled back: it is cancelled, and how it
                ended is asked by nobody
    detached    started, and no business of the parent's from then on

Pure: who tells a child what, and who waits for it, is the runtime's.
"""

from __future__ import annotations

from collections.abc import Iterable

from outlive.kinds.processes.vocabulary import Armed, ChildEnded, ChildStarted


class Family:
    """The children of one process, in the order in which they were started."""

    __slots__ = ("children", "ends", "let_go", "under_way")

    def __init__(self) -> None:
        self.children: dict[str, ChildStarted] = {}
        self.ends: dict[str, ChildEnded] = {}
        self.let_go: set[str] = set()
        self.under_way = 0
        """How many attached children have not ended."""

    def start(self, started: ChildStarted) -> None:
        """A child was started."""
        self.children[started.child] = started
        self.under_way += not started.detached

    def end(self, ended: ChildEnded) -> ChildStarted:
        """A child has ended, an attached one: the others' ends are not told. Gives its start."""
        self.ends[ended.child] = ended
        self.under_way -= 1
        return self.children[ended.child]

    def open(self) -> list[ChildStarted]:
        """The attached children that have not ended."""
        return [
            child
            for child in self.children.values()
            if not child.detached and child.child not in self.ends
        ]

    def let_go_of(self, children: Iterable[str]) -> list[str]:
        """The part in which `children` were started is over; gives the identities of those that had
        not ended."""
        self.let_go.update(children)
        return [self.children[child].id for child in children if child not in self.ends]

    def armed(self, started: ChildStarted) -> list[Armed]:
        """What takes the child back, if it is done and says how."""
        ended = self.ends.get(started.child)
        if not started.undo or ended is None or ended.status != "done":
            return []
        return [
            Armed(
                started.id,
                started.type,
                started.undo,
                started.given,
                ended.result,
                child=started.child,
            )
        ]
