"""A kind of state on cells: what it keeps, in which class, and how it decides.

    command ──> refs ──read──> view ──decide(view, command, now)──> Decision(batch, reply)
                                                     │
                            the loop of `runtime/apply.py` commits the batch, then gives the reply

A decision is pure: it awaits nothing, asks no clock, draws nothing, and touches nothing outside.
The time it is given is the store's. The same view, command and time give the same decision, so it
can be made again when another writer was faster, and be enumerated and proven without a store.

Two things follow for whoever writes one.

    what is required    is every cell of the view as it was read: the loop adds it, so that no
                        decision can forget to; `batch.require` stays empty
    what fences         is a token that the caller draws and the value keeps. A version is not known
                        while it is decided: several commands on one cell are decided one after the
                        other in memory and committed together, and a cell that was decided and is
                        not committed yet is at `UNCOMMITTED`

Not promised: an order between commands on different cells, or that a decision is made only once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

from msgspec import Struct

from outlive.errors import StoreRefused
from outlive.model import Batch, Cell, Ref, Storage

C = TypeVar("C")
R = TypeVar("R")
View = Mapping[Ref, Cell | None]
"""The cells that a command looks at, all of one moment; None for an absent one."""
UNCOMMITTED = -1
"""The version in a view of a cell that an earlier command of the same commit has written."""
REFS_MAX = 64
"""Cells that one command looks at."""
STRENGTH: tuple[Storage, ...] = ("volatile", "relaxed", "durable")
"""The classes of storage, weakest first."""


class Decision(Struct, Generic[R], frozen=True, gc=False):
    """What is written (`put` and `drop` of a batch, nothing else) and what is then answered."""

    batch: Batch
    reply: R


class Kind(ABC, Generic[C, R]):
    """A kind of state that is kept in cells; `C` are its commands, `R` what they are answered."""

    name: ClassVar[str]
    spaces: ClassVar[Mapping[str, Storage]]
    """Its spaces, and the weakest class that each may be kept in. `noun` stands for `noun/…` too.
    Spaces of different classes are never written by one decision."""
    marks: ClassVar[tuple[str, ...]] = ()
    """The names of its secondary look-ups (`noun.mark`)."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What it cannot do without of what a store may not promise (`store.LACKS`)."""

    @abstractmethod
    def refs(self, command: C) -> Sequence[Ref]:
        """The cells that `command` looks at and may write: at most `REFS_MAX`, of its spaces."""

    @abstractmethod
    def decide(self, view: View, command: C, now: int) -> Decision[R]:
        """Decide `command` on `view` at the store's time `now` (microseconds since 1970 UTC).

        What it raises goes to the caller, and nothing is written. `now` may be a little older than
        what is in the view.
        """

    def on_due(self, cell: Cell, now: int) -> Batch:
        """What is written when the deadline of `cell` has passed: it is dropped, unless a kind says
        otherwise. Carried out only if the cell is still as it is given here."""
        return Batch(drop=(cell.ref,))


def class_of(kind: Kind[C, R], space: str) -> Storage:
    """The class that `kind` demands for `space`. Raises `ValueError` when the space is not its."""
    found = kind.spaces.get(space) or kind.spaces.get(space.partition("/")[0])
    if found is None:
        raise ValueError(f"space {space!r} is none of {kind.name}: {', '.join(kind.spaces)}")
    return found


def kept_as(wanted: Storage, keeps: Sequence[Storage], what: str, store: str) -> Storage:
    """The weakest class among `keeps` that is at least `wanted`.

    Raises `StoreRefused` when `store` keeps none: `what` would be less safe than it was declared.
    """
    for storage in STRENGTH[STRENGTH.index(wanted) :]:
        if storage in keeps:
            return storage
    raise StoreRefused(
        f"{what} is {wanted}, and {store} keeps only what is {' or '.join(keeps)}; nothing was "
        "written. Keep it in a store that does, or declare it weaker."
    )
