"""What a store keeps about sessions that are sealed in the cookie: which of them are dead.

    session.denied     key: the digest of a sealed session's id; it was signed out or rotated. Due
                       when the session would have ended by itself
    session.subject    the epoch of a subject: what was sealed under another one is dead

A sealed session lies with the client, so nothing here brings one to life: a store that forgets
(a fail-over of Redis) forgets logouts of the last moments. Where it evicts an epoch the subject is
signed out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from outlive.kind import Decision, Kind, View
from outlive.kinds.sessions.decisions import (
    SUBJECTS,
    Epoch,
    Subject,
    put_subject,
    read_subject,
    subject_ref,
    swept_subject,
)
from outlive.model import Batch, Cell, Put, Ref, Storage

DENIED = "session.denied"


class Check(Struct, frozen=True):
    """Whether the sealed session `key` of `subject` is alive; writes nothing."""

    key: str
    subject: str = ""
    epoch: str = ""


class Deny(Struct, frozen=True):
    """The sealed session `key` is dead; it would have ended by itself at `end`."""

    key: str
    end: int


class Said(Struct, frozen=True):
    """Whether the session is alive (of one that is denied: was, until now), the epoch of its
    subject, and the store's time."""

    alive: bool
    epoch: str
    now: int


Command: TypeAlias = Check | Deny | Epoch


class DenialKind(Kind[Command, Said]):
    """The dead among sealed sessions. `storage`: what an acknowledged logout is worth."""

    name = "sessions.denials"

    def __init__(self, storage: Storage = "durable") -> None:
        self.spaces: Mapping[str, Storage] = {  # type: ignore[misc]  # as this store keeps them
            DENIED: storage,
            SUBJECTS: storage,
        }

    def refs(self, command: Command) -> Sequence[Ref]:
        if isinstance(command, Epoch):
            return (subject_ref(command.subject),)
        denied = Ref(DENIED, command.key)
        if isinstance(command, Check) and command.subject:
            return (denied, subject_ref(command.subject))
        return (denied,)

    def decide(self, view: View, command: Command, now: int) -> Decision[Said]:
        if isinstance(command, Deny):
            put = Put(Ref(DENIED, command.key), b"{}", command.end)
            return Decision(Batch(put=(put,)), Said(view[put.ref] is None, "", now))
        epoch, known = "", Subject()
        if command.subject:
            cell = view[subject_ref(command.subject)]
            known = known if cell is None else read_subject(cell.value)
            epoch = known.epoch
        if isinstance(command, Check):
            alive = view[Ref(DENIED, command.key)] is None
            return Decision(Batch(), Said(alive and epoch == command.epoch, epoch, now))
        if epoch and not command.renewed:
            return Decision(Batch(), Said(True, epoch, now))
        # The same subject may have stored sessions too: their list stays.
        made = put_subject(subject_ref(command.subject), replace(known, epoch=command.fresh))
        return Decision(Batch(put=(made,)), Said(True, command.fresh, now))

    def on_due(self, cell: Cell, now: int) -> Batch:
        """A denial goes with the session it is of; an epoch stays when a list beside it ends."""
        return swept_subject(cell, now) if cell.space == SUBJECTS else super().on_due(cell, now)
