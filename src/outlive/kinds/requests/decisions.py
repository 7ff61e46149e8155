"""Idempotency keys: one effect, one answer; decisions on one cell for each key.

    once      key: the digest of tenant, principal, method, route and key

    (nothing) ──claim──> running ──complete──> done ──retention──> (nothing)
                           │  ▲                  ▲
                           │  └─renew            └── resolve: it did happen, with this answer
                           ├──release──> (nothing): nothing was done
                           └──lease ends──> unknown ──resolve──> (nothing): it did not happen

Two clocks, both the store's. The *lease* is renewed while the owner lives; when it ends the record
becomes `unknown`, and is never dropped by a clock: only who has found out resolves it. The
*retention* starts with the completion.

    at-most-once     as above: an unknown outcome is never carried out again by itself
    recovery         what is behind it is safe to repeat (a process with its own key): when the
                     lease ends the next request claims it anew
    transactional    nothing is written before the effect's own transaction, which makes the record
                     `done`; of two that run at once the second is rolled back and gets the first
                     one's answer

The owner is fenced by a token that it drew, which the record keeps: a late owner completes nothing
that has changed hands, and what it knows is only noted (`late`).

Not promised: that one effect happens where it lies outside of the store (that takes the outside's
own key), or that a key is remembered after its retention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from outlive import codec
from outlive.clock import rfc3339
from outlive.kind import Decision, Kind, View
from outlive.kinds.requests.fingerprints import NEWEST
from outlive.model import Batch, Cell, Put, Ref, Storage

ONCE = "once"
UNKNOWN_MARK, WHO_MARK = "once.unknown", "once.who"
LEASE_SECONDS = 30.0
RETENTION_SECONDS = 7 * 86_400.0
RETENTION_SECONDS_MIN = 86_400.0
NOTES_MAX = 20
SCOPES_KEPT_MAX = 4096
WRITTEN_KEPT_MAX = 4096
_NOTHING = Batch()

Mode = Literal["at-most-once", "recovery", "transactional"]
State = Literal["running", "done", "unknown"]
Said = Literal[
    "claimed", "running", "replay", "reused", "newer", "unknown", "absent", "done", "lost",
    "refused",
]  # fmt: skip


@lru_cache(maxsize=SCOPES_KEPT_MAX)
def _front(tenant: str, principal: str, method: str, route: str) -> bytes:
    """What the names of all cells of one scope are made from, before the key: one route's repeat
    it with each request."""
    return codec.apart(tenant.encode(), principal.encode(), method.encode(), route.encode())


@lru_cache(maxsize=SCOPES_KEPT_MAX)
def _who(tenant: str, principal: str) -> str:
    return codec.digest(tenant.encode(), principal.encode())


@lru_cache(maxsize=SCOPES_KEPT_MAX)
def _marks(tenant: str, principal: str) -> tuple[tuple[str, str], ...]:
    """What every record of one principal is found by; nobody's is found by its key alone."""
    if not tenant and not principal:
        return ()
    return ((WHO_MARK, _who(tenant, principal)),)


class Place(Struct, frozen=True, dict=True):
    """What an idempotency key is bound to: nobody else's request ever meets it."""

    key: str
    principal: str = ""
    tenant: str = ""
    method: str = ""
    route: str = ""

    @cached_property
    def name(self) -> str:
        """The key of its cell; asked for at every turn of a request, and made once."""
        front = _front(self.tenant, self.principal, self.method, self.route)
        return codec.digest_of(front + codec.apart(self.key.encode()))

    @property
    def who(self) -> str:
        """What the records of one principal are found by."""
        return _who(self.tenant, self.principal)


class Answer(Struct, frozen=True, omit_defaults=True, gc=False):
    """An answer as it is given again: status, fields, bytes. `kept=False`: only that there was
    one."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    kept: bool = True


class Note(Struct, frozen=True, gc=False):
    """What an operator did to a record, who, why and when."""

    what: str
    by: str
    why: str
    at: int


class Record(Struct, frozen=True, omit_defaults=True, gc=False):
    """The value of a key's cell. Times are microseconds of the store's clock."""

    state: State
    fingerprint: str
    mode: Mode
    place: Place
    token: str = ""
    lease: int = 0
    made: int = 0
    ended: int = 0
    keep: int = 0
    answer: Answer | None = None
    late: int = 0
    """The status that an owner brought after its lease had ended: a hint to who resolves it."""
    notes: tuple[Note, ...] = ()


read_record = msgspec.json.Decoder(Record).decode
_written: dict[bytes, Record] = {}
"""Records of requests that run here, by the bytes that were made of them: their completion, a
moment later, reads these very bytes."""


def ref_of(name: str) -> Ref:
    """The cell of a key, by `Place.name`."""
    return Ref(ONCE, name)


def done_put(
    place: Place, fingerprint: str, token: str, answer: Answer, now: int, keep: int
) -> Put:
    """The cell of a request whose effect is in the same transaction: `transactional`."""
    record = Record(
        "done", fingerprint, "transactional", place, token, 0, now, now, now + keep, answer
    )
    return put_of(record)


def put_of(record: Record) -> Put:
    """`record` as its cell; what is due is its lease, then its retention."""
    return _put(record, record.place.name)


def _put(record: Record, name: str) -> Put:
    """The same where the key of its cell is known already."""
    state, place = record.state, record.place
    if state == "unknown":
        marks = (*_marks(place.tenant, place.principal), (UNKNOWN_MARK, rfc3339(record.made)))
        return Put(ref_of(name), codec.encode(record), None, marks)
    due = record.lease if state == "running" else record.keep
    value = codec.encode(record)
    return Put(Ref(ONCE, name), value, due, _marks(place.tenant, place.principal))


class Claim(Struct, frozen=True, gc=False):
    """Take the key of `place`, if nobody has it. Spans are microseconds."""

    place: Place
    fingerprints: Mapping[str, str]
    token: str
    lease: int
    mode: Mode = "at-most-once"
    doubted: bool = False
    """Whether the store has lost what it had: a key that it does not know may have been used."""


class Look(Struct, frozen=True, gc=False):
    """What is known about the key `name`; writes nothing but that a lease has ended."""

    name: str


class Renew(Struct, frozen=True, gc=False):
    """Go on having the key for `lease` from now."""

    name: str
    token: str
    lease: int


class Complete(Struct, frozen=True, gc=False):
    """Record the answer, and keep it for `keep`. Given again it does no harm."""

    name: str
    token: str
    answer: Answer
    keep: int


class Release(Struct, frozen=True, gc=False):
    """Give the key back as if it never had been taken: nothing was done."""

    name: str
    token: str


class Doubt(Struct, frozen=True, gc=False):
    """The owner does not know itself what came of it."""

    name: str
    token: str


class Resolve(Struct, frozen=True, gc=False):
    """Say what came of an unknown one: `answer`, or None when it did not happen."""

    name: str
    answer: Answer | None
    keep: int
    by: str
    why: str


class Expire(Struct, frozen=True, gc=False):
    """Forget the key now; refused while it is running."""

    name: str


Command: TypeAlias = Claim | Look | Renew | Complete | Release | Doubt | Resolve | Expire


class Reply(Struct, frozen=True, gc=False):
    """What became of a command, and the record as it is now."""

    said: Said
    record: Record | None = None
    now: int = 0


class RequestKind(Kind[Command, Reply]):
    """Idempotency keys. `storage`: what an acknowledged record is worth."""

    name = "requests"
    marks = (UNKNOWN_MARK, WHO_MARK)
    needs = ("claim", "select")
    """Where an item goes by itself when it is due, the end of a lease would free the key of what
    may have happened; and nobody could look for what is unknown."""

    def __init__(self, storage: Storage = "durable") -> None:
        self.spaces: Mapping[str, Storage] = {ONCE: storage}  # type: ignore[misc]

    def refs(self, command: Command) -> Sequence[Ref]:
        return (ref_of(command.place.name if isinstance(command, Claim) else command.name),)

    def decide(self, view: View, command: Command, now: int) -> Decision[Reply]:
        if isinstance(command, Claim):
            return self._claim(view, command, now)
        cell = view[ref_of(command.name)]
        record = None if cell is None else _known(cell.value)
        if record is None or (record.state == "done" and record.keep <= now):
            said: Said = "absent" if isinstance(command, Look | Resolve | Expire) else "lost"
            return Decision(_NOTHING, Reply(said, None, now))
        match command:
            case Look():
                return _looked(record, now)
            case Resolve() | Expire():
                return _operated(record, command, now)
            case _:
                return _owned(record, command, now)

    def _claim(self, view: View, command: Claim, now: int) -> Decision[Reply]:
        cell = view[ref_of(command.place.name)]
        if cell is None and not command.doubted:
            return _taken(command, None, now)
        record = None if cell is None else read_record(cell.value)
        if record is None and command.doubted and command.mode == "at-most-once":
            newest = command.fingerprints[NEWEST]
            made = Record("unknown", newest, command.mode, command.place, made=now, ended=now)
            return Decision(Batch(put=(put_of(made),)), Reply("unknown", made, now))
        if record is None or (record.state == "done" and record.keep <= now):
            return _taken(command, record, now)
        rule = record.fingerprint.partition(":")[0]
        if rule not in command.fingerprints:
            return Decision(_NOTHING, Reply("newer", record, now))
        if record.fingerprint != command.fingerprints[rule]:
            return Decision(_NOTHING, Reply("reused", record, now))
        if record.state == "running" and record.token == command.token:  # asked again
            return Decision(_NOTHING, Reply("claimed", record, now))
        if record.state == "running" and record.lease <= now and record.mode == "recovery":
            return _taken(command, None, now, made=record.made)
        return _looked(record, now)

    def on_due(self, cell: Cell, now: int) -> Batch:
        """The end of a lease makes an unknown one; the end of the retention forgets."""
        record = read_record(cell.value)
        if record.state == "done":
            if record.keep <= now:
                return Batch(drop=(cell.ref,))
            return Batch(put=(put_of(record),))
        if record.state == "running" and record.lease <= now:
            if record.mode == "recovery":  # who repeats it goes on; nobody does: nothing is lost
                return Batch(put=(replace_due(put_of(record), None),))
            return Batch(put=(put_of(_unknown(record, now)),))
        return Batch(put=(put_of(record),))


def replace_due(put: Put, due: int | None) -> Put:
    """`put`, due at another time."""
    return replace(put, due=due)


def _known(value: bytes) -> Record:
    """The record in the value of a cell, which is asked for once more at most."""
    return _written.pop(value, None) or read_record(value)


def _taken(command: Claim, gone: Record | None, now: int, made: int = 0) -> Decision[Reply]:
    """The key is the caller's; `gone` is what is past its retention there."""
    record = Record(
        "running", command.fingerprints[NEWEST], command.mode, command.place, command.token,
        now + command.lease, made or now,
    )  # fmt: skip
    if command.mode == "transactional":  # its record comes with its effect
        drop = () if gone is None else (ref_of(command.place.name),)
        return Decision(Batch(drop=drop), Reply("claimed", record, now))
    put = put_of(record)
    if len(_written) >= WRITTEN_KEPT_MAX:
        _written.clear()
    _written[put.value] = record
    return Decision(Batch(put=(put,)), Reply("claimed", record, now))


def _looked(record: Record, now: int) -> Decision[Reply]:
    """What a second one with the same key is told."""
    if record.state == "done":
        return Decision(_NOTHING, Reply("replay", record, now))
    if record.state == "running" and (record.lease > now or record.mode == "recovery"):
        return Decision(_NOTHING, Reply("running", record, now))
    if record.state == "running":
        record = _unknown(record, now)
        return Decision(Batch(put=(put_of(record),)), Reply("unknown", record, now))
    return Decision(_NOTHING, Reply("unknown", record, now))


def _owned(
    record: Record, command: Renew | Complete | Release | Doubt, now: int
) -> Decision[Reply]:
    """What the owner may do, and nobody else."""
    if record.token != command.token:
        return Decision(_NOTHING, Reply("lost", record, now))
    if record.state == "done":
        said: Said = "done" if isinstance(command, Complete) else "lost"
        return Decision(_NOTHING, Reply(said, record, now))
    if record.state == "unknown":
        if isinstance(command, Complete) and not record.late:
            record = replace(record, late=command.answer.status)
            return Decision(Batch(put=(put_of(record),)), Reply("lost", record, now))
        return Decision(_NOTHING, Reply("lost", record, now))
    match command:
        case Complete():
            keep = now + command.keep
            made = replace(record, state="done", answer=command.answer, ended=now, keep=keep)
        case Renew():
            made = replace(record, lease=now + command.lease)
        case Doubt():
            made = _unknown(record, now)
        case Release():
            return Decision(Batch(drop=(ref_of(command.name),)), Reply("done", None, now))
    return Decision(Batch(put=(_put(made, command.name),)), Reply("done", made, now))


def _operated(record: Record, command: Resolve | Expire, now: int) -> Decision[Reply]:
    """What an operator may do: to what nobody is carrying out any more."""
    if record.state == "running" and record.lease > now:
        return Decision(_NOTHING, Reply("refused", record, now))
    if isinstance(command, Expire) or command.answer is None:
        if isinstance(command, Resolve) and record.state == "done":
            return Decision(_NOTHING, Reply("refused", record, now))
        return Decision(Batch(drop=(ref_of(command.name),)), Reply("done", record, now))
    if record.state == "done":
        return Decision(_NOTHING, Reply("refused", record, now))
    note = Note("resolved", command.by, command.why, now)
    made = replace(
        record, state="done", token="", answer=command.answer, ended=now,
        keep=now + command.keep, notes=(*record.notes, note)[-NOTES_MAX:],
    )  # fmt: skip
    return Decision(Batch(put=(put_of(made),)), Reply("done", made, now))


def _unknown(record: Record, now: int) -> Record:
    return replace(record, state="unknown", ended=now)
