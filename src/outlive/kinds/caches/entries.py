"""Entries: a plain cache for a framework that has its own idea of one, in one cell for each key.

The kind behind Django's cache (`outlive.adapters.django_cache`): the framework names the keys, says
how long a value lives, and asks for what must be one step: add, increment, touch. Our own caches
(`kinds/caches`) load values by themselves and know when they are old; here nobody does.

    (nothing) ──put · add──> there ──touch · increment──> there ──its life ends · drop──> (nothing)

An entry whose life has ended is not there, whether it was swept or not; the store's clock decides.

Not promised: that an entry is there at all. It is dropped when there are too many, and goes with
what its storage class loses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from outlive import codec
from outlive.kind import Decision, Kind, View
from outlive.model import Batch, Cell, Put, Ref, Storage

SPACES: dict[Storage, str] = {
    "volatile": "entry",
    "relaxed": "entry-relaxed",
    "durable": "entry-durable",
}
"""The space of what is kept in each class."""
NUMBER = b"#"
"""What the value of a number begins with, so that it can be incremented; the rest is its digits."""

When = Literal["always", "absent"]


class Look(Struct, frozen=True, gc=False):
    """Read the entry at `ref`."""

    ref: Ref


class Keep(Struct, frozen=True, gc=False):
    """Keep `value` at `ref` for `life` microseconds (None: for ever; 0: not at all)."""

    ref: Ref
    value: bytes
    life: int | None
    when: When = "always"


class Touch(Struct, frozen=True, gc=False):
    """Give the entry another `life` from now."""

    ref: Ref
    life: int | None


class Increment(Struct, frozen=True, gc=False):
    """Add `by` to a number; how long it lives stays as it is."""

    ref: Ref
    by: int


class Drop(Struct, frozen=True, gc=False):
    """Forget the entry; with `version`, only if it is still that one."""

    ref: Ref
    version: int | None = None


Command: TypeAlias = Look | Keep | Touch | Increment | Drop


class Found(Struct, frozen=True, gc=False):
    """Whether there was an entry, and its value: that of a look, or the sum."""

    there: bool
    value: bytes = b""
    is_number: bool = True


class Entries(Kind[Command, Found]):
    """Entries of caches that lie in one store, apart by their names."""

    name = "entries"
    spaces = {space: storage for storage, space in SPACES.items()}  # noqa: RUF012

    def refs(self, command: Command) -> Sequence[Ref]:
        return (command.ref,)

    def decide(self, view: View, command: Command, now: int) -> Decision[Found]:
        ref, cell = command.ref, view[command.ref]
        live = cell if cell is not None and (cell.due is None or now < cell.due) else None
        found = Found(live is not None, b"" if live is None else live.value)
        match command:
            case Look():
                return Decision(Batch(), found)
            case Drop():
                keep = cell is None or command.version not in (None, cell.version)
                return Decision(Batch() if keep else Batch(drop=(ref,)), found)
            case Keep():
                if live is not None and command.when == "absent":
                    return Decision(Batch(), found)
                return Decision(_kept(ref, cell, command.value, command.life, now), found)
            case Touch():
                if live is None:
                    return Decision(Batch(), found)
                return Decision(_kept(ref, cell, live.value, command.life, now), found)
            case Increment():
                if live is None:
                    return Decision(Batch(), found)
                if not live.value.startswith(NUMBER):
                    return Decision(Batch(), Found(True, live.value, False))
                value = NUMBER + b"%d" % (int(live.value[len(NUMBER) :]) + command.by)
                return Decision(Batch(put=(Put(ref, value, live.due),)), Found(True, value))


ENTRIES = Entries()


def ref_of(cache: str, key: str, storage: Storage) -> Ref:
    """The cell of `key` in the cache of that name."""
    return Ref(SPACES[storage], f"{prefix_of(cache)}{codec.digest(key.encode())}")


def prefix_of(cache: str) -> str:
    """What the keys of a cache's cells begin with."""
    return f"{cache}/"


def too_many(cells: Sequence[Cell], most: int, left: int, now: int) -> list[Cell]:
    """Which of `cells` go where at most `most` may be there: those whose life has ended, then those
    that end soonest, until `left` are left."""
    live = [cell for cell in cells if cell.due is None or now < cell.due]
    gone = [cell for cell in cells if cell.due is not None and cell.due <= now]
    if len(live) > most:
        live.sort(key=lambda cell: (cell.due is None, cell.due or 0, cell.version))
        gone += live[: len(live) - left]
    return gone


def _kept(ref: Ref, cell: Cell | None, value: bytes, life: int | None, now: int) -> Batch:
    if life is not None and life <= 0:
        return Batch(drop=() if cell is None else (ref,))
    return Batch(put=(Put(ref, value, None if life is None else now + life),))
