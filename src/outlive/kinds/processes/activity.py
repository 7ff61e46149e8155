"""Who has asked what, of which process, and why: the last 90 days, newest first.

What an operator did to one process stands in its journal, for as long as that is kept. Beside that
each request is kept here by the time it was made, so that "what was done this morning?" is one
look-up and no search through journals.

    cell   space `activity`, key the time counted backwards (so that the newest comes first)

An entry says what was *asked*. What is asked of another node's process, of many, and a fork of an
ended one are noted in the very commit that asks; what this node does itself, in one right before,
so a kill between the two leaves a line and no deed. The journal says what came of it.

Kept is what somebody with a name has asked: through the dashboard, the HTTP interface for
operators, the command line, or Python with `who=`. Not promised: what nobody put a name to.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from outlive.clock import MICROS
from outlive.kinds.processes.cells import Command
from outlive.model import Cell, Put, Ref

SPACE = "activity"
KEPT_SECONDS = 90 * 86_400
EXPIRED_MAX = 100
"""Entries past their time that go with one new one."""
CLIENT = "http"
"""Who cancels over HTTP without a name: the caller of a process, whose own work it is."""
VERBS = {"hasten": "retry now"}
"""What a command is called where people read it, if not by its kind."""
_END = 10**16


class Noted(Struct, frozen=True, omit_defaults=True):
    """One line: `who` asked `verb` of the process `id` at `at` (µs since 1970 UTC)."""

    at: int
    who: str
    verb: str
    id: str = ""
    """Empty: it was asked of many, or of something that is no process."""
    what: str = ""
    """The step, signal or number that it was about."""
    why: str = ""
    kind: str = ""
    """The kind of state, where it was not processes: sessions, requests, limits …"""


_read = msgspec.json.Decoder(Noted).decode


def noted(line: Noted, unique: str) -> Put:
    """The write that keeps a line; `unique` tells it from others of the same microsecond."""
    ref = Ref(SPACE, f"{place_of(line.at)} {unique}")
    return Put(ref, msgspec.json.encode(line), line.at + KEPT_SECONDS * MICROS)


def note_of(command: Command, now: int) -> Noted | None:
    """The line about a command; None when nobody put a name to it."""
    if not command.who or (command.kind == "cancel" and command.who == CLIENT):
        return None
    verb = VERBS.get(command.kind, command.kind)
    what = "" if command.kind == "fork" else command.name
    return Noted(now, command.who, verb, command.id, what[:200], command.reason)


def place_of(at: int) -> str:
    """What the key of a line of the time `at` begins with: the later, the smaller."""
    return f"{_END - at:016d}"


def lines_of(cells: Iterable[Cell]) -> list[Noted]:
    """What cells say."""
    return [_read(cell.value) for cell in cells]
