"""Sessions: who is signed in, and what is remembered about a visitor, in cells.

    session            key: the digest of an id that only the client holds; one signed-in (or
                       anonymous) visitor. What the id hashes to is all that is ever kept or shown.
    session.subject    key: the digest of a subject; which sessions it has, or its *epoch*

    (nothing) ──make──> open ──save, touch──> open ──rotate──> dead, and another one open
                          │
                          ├── idle: not seen for `idle_seconds` ──────────────┐
                          ├── absolute: `absolute_seconds` after it was made ─┼──> signed out
                          ├── end · end of all of a subject ──────────────────┘
                          └── (nothing brings it back: a save requires that it is there)

Two clocks, both the store's. `seen` slides, and is written at most once in `touch_seconds`; `end`
is drawn when somebody signs in, and no write moves it (but for a framework that says with each save
how long a session lives, Django: within `absolute_seconds`). A deadline that has passed is seen by
who reads; the sweep only frees the space.

Attributes are kept one by one as JSON: two requests that overlap and set different ones keep both.
Of two that set the same one the last commit wins, or is refused when that was asked for
(`Save.seen`). A session's subject never changes: another subject is another session with another
id, and the old one is dropped in the same commit.

Where one commit writes one cell only (Memcached) no list is kept. There each sign-in carries the
epoch of its subject, and the end of all is a new epoch; an epoch that was evicted ends them too.

Not promised: that a session lives until its deadline where the store may forget (Redis after a
fail-over, Memcached at any time). One that vanished is signed out, and never somebody else's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw, Struct, field
from msgspec.structs import asdict, replace

from outlive import codec
from outlive.clock import MICROS
from outlive.kind import REFS_MAX, Decision, Kind, View
from outlive.model import Batch, Cell, Put, Ref, Storage

SESSIONS = "session"
SUBJECTS = "session.subject"
ID_BITS = 256
ID_CHARACTERS = (ID_BITS + 4) // 5
_ALPHABET = frozenset("0123456789abcdefghjkmnpqrstvwxyz")
IDLE_SECONDS, ABSOLUTE_SECONDS, TOUCH_SECONDS = 1800.0, 12 * 3600.0, 60.0
DATA_BYTES_MAX = 64 * 1024
"""Bytes of the attributes of one session."""
DEVICES_MAX = 32
"""Open sessions of one subject; with one more the oldest is signed out."""
TEXT_CHARACTERS_MAX = 200
HINT_CHARACTERS = 8


def key_of(id: str) -> str:
    """The key under which the session with this id is kept: nobody gets the id from it."""
    return hashlib.sha256(b"session\0" + id.encode()).hexdigest()


def is_id(text: str) -> bool:
    """Whether `text` can be an id that was drawn here; anything else never reaches a store."""
    return len(text) == ID_CHARACTERS and _ALPHABET.issuperset(text)


def hint_of(key: str) -> str:
    """What logs and pages may show of a session: the first characters of its key."""
    return key[:HINT_CHARACTERS]


def session_ref(key: str) -> Ref:
    """The cell of the session with this key."""
    return Ref(SESSIONS, key)


def subject_ref(subject: str) -> Ref:
    """The cell of the sessions of `subject`."""
    return Ref(SUBJECTS, codec.digest(b"subject", subject.encode()))


class Record(Struct, frozen=True, omit_defaults=True):
    """The value of a session's cell. Times are microseconds of the store's clock."""

    made: int
    seen: int
    end: int
    subject: str = ""
    agent: str = ""
    place: str = ""
    epoch: str = ""
    data: dict[str, Raw] = field(default_factory=dict)
    more: dict[str, Raw] = field(default_factory=dict)
    """Members that a newer version has written: kept as they are."""


class Subject(Struct, frozen=True, omit_defaults=True):
    """The value of a subject's cell: when each of its sessions ends at the latest, or its epoch."""

    sessions: dict[str, int] = field(default_factory=dict)
    epoch: str = ""


_members = msgspec.json.Decoder(dict[str, Raw]).decode
_record = msgspec.json.Decoder(Record).decode
_KNOWN = frozenset(Record.__struct_fields__) - {"more"}
read_subject = msgspec.json.Decoder(Subject).decode


def read_record(value: bytes) -> Record:
    """The record in a cell, with the members that are not known here."""
    members = _members(value)
    more = {name: Raw(bytes(raw)) for name, raw in members.items() if name not in _KNOWN}
    return replace(_record(value), more=more)


def write_record(record: Record) -> bytes:
    """`record` as a cell's value."""
    known: dict[str, Any] = {
        name: value for name, value in asdict(record).items() if name != "more"
    }
    return codec.encode({**record.more, **known})


class Load(Struct, frozen=True):
    """Read the session `key`; writes nothing."""

    key: str


class Make(Struct, frozen=True):
    """Make the session `key`; `evict` is signed out for it; it goes on with the clocks of
    `like`."""

    key: str
    subject: str = ""
    data: dict[str, Raw] = {}
    agent: str = ""
    place: str = ""
    epoch: str = ""
    evict: str = ""
    like: Record | None = None
    life: int = 0
    """Microseconds until it ends, where not the kind but a framework says; so in `Save` and
    `Rotate`. Never past the kind's own absolute end."""


class Save(Struct, frozen=True):
    """Set and drop attributes of the session `key`, if it is there; never makes it.

    `seen`: what the named attributes must still be (None: not there), else the save is refused.
    """

    key: str
    set: dict[str, Raw] = {}
    drop: tuple[str, ...] = ()
    seen: dict[str, Raw | None] | None = None
    life: int = 0


class Touch(Struct, frozen=True):
    """Note that the session `key` was seen, if that was not noted in the last minute."""

    key: str


class Rotate(Struct, frozen=True):
    """End the session `key` of `was` and make `fresh` of `subject`, in one commit.

    The attributes go along, changed by `set` and `drop`, with `clear` only those of `set`. Where
    the subject is another one the absolute end is drawn anew, else it stays.
    """

    key: str
    fresh: str
    was: str = ""
    subject: str = ""
    set: dict[str, Raw] = {}
    drop: tuple[str, ...] = ()
    clear: bool = False
    agent: str = ""
    place: str = ""
    evict: str = ""
    life: int = 0


class End(Struct, frozen=True):
    """Sign the session `key` of `subject` out."""

    key: str
    subject: str = ""


class Look(Struct, frozen=True):
    """Which sessions `subject` has; writes nothing."""

    subject: str


class EndAll(Struct, frozen=True):
    """Sign out every session of `subject`, which are `keys`, but for `but`."""

    subject: str
    keys: tuple[str, ...]
    but: str = ""


class Epoch(Struct, frozen=True):
    """The epoch of `subject`: `fresh` when there is none, or when it is to be `renewed`."""

    subject: str
    fresh: str
    renewed: bool = False


Command: TypeAlias = Load | Make | Save | Touch | Rotate | End | Look | EndAll | Epoch


class Reply(Struct, frozen=True):
    """What became of a command.

    `found`: the session as it is now; None when it is not there or past its end. `refused`: an
    attribute was not as it had been seen, or a session is there already. `evict`: the oldest
    session of the subject, which has too many (`keys`): ask again with it, or with one of them that
    is over. `keys`: the sessions of a subject; with `again` others than were given.
    """

    found: Record | None = None
    refused: str = ""
    evict: str = ""
    keys: tuple[str, ...] = ()
    again: bool = False
    epoch: str = ""
    now: int = 0


class SessionKind(Kind[Command, Reply]):
    """Sessions with one pair of clocks.

    `idle_seconds`, `absolute_seconds`: above 0. `touch_seconds` (0 to half of `idle_seconds`): how
    often `seen` is written at most; a session may end that much before its idle time is over.
    `listed`: keep which sessions a subject has; needs a store that writes two cells in one commit.
    """

    name = "sessions"

    def __init__(
        self,
        idle_seconds: float = IDLE_SECONDS,
        absolute_seconds: float = ABSOLUTE_SECONDS,
        touch_seconds: float = TOUCH_SECONDS,
        devices_max: int = DEVICES_MAX,
        storage: Storage = "durable",
        listed: bool = True,
    ) -> None:
        if not 0 < idle_seconds <= absolute_seconds:
            raise ValueError("idle_seconds is above 0 and at most absolute_seconds")
        if not 0 <= touch_seconds <= idle_seconds / 2:
            raise ValueError("touch_seconds is 0 to half of idle_seconds")
        if not 1 <= devices_max <= REFS_MAX - 1:
            raise ValueError(f"devices_max is 1 to {REFS_MAX - 1}")
        self.idle = round(idle_seconds * MICROS)
        self.absolute = round(absolute_seconds * MICROS)
        self.touch = round(touch_seconds * MICROS)
        self.devices_max = devices_max
        self.listed = listed
        self.spaces: Mapping[str, Storage] = {  # type: ignore[misc]  # as this store keeps them
            SESSIONS: storage,
            SUBJECTS: storage,
        }

    def ends(self, record: Record) -> int:
        """When `record` is signed out if nothing happens."""
        return min(record.seen + self.idle, record.end, record.made + self.absolute)

    # --- what a command looks at ------------------------------------------------------------------

    def refs(self, command: Command) -> Sequence[Ref]:
        keys: tuple[str, ...]
        subjects: tuple[str, ...]
        match command:
            case Look() | Epoch():
                return (subject_ref(command.subject),)
            case EndAll():
                return (subject_ref(command.subject), *map(session_ref, command.keys))
            case Make():
                keys, subjects = (command.key, command.evict), (command.subject,)
            case Rotate():
                keys = (command.key, command.fresh, command.evict)
                subjects = (command.was, command.subject)
            case End():
                keys, subjects = (command.key,), (command.subject,)
            case _:
                return (session_ref(command.key),)
        found = [session_ref(key) for key in keys if key]
        if self.listed:
            found += [subject_ref(subject) for subject in subjects if subject]
        return tuple(dict.fromkeys(found))

    # --- decisions --------------------------------------------------------------------------------

    def decide(self, view: View, command: Command, now: int) -> Decision[Reply]:
        match command:
            case Load():
                return Decision(Batch(), Reply(self._open(view, command.key, now), now=now))
            case Touch():
                return self._touch(view, command, now)
            case Save():
                return self._save(view, command, now)
            case Make():
                record = Record(
                    now, now, now + self.absolute, command.subject, command.agent, command.place,
                    command.epoch, dict(command.data),
                )  # fmt: skip
                if command.like is not None:
                    old = command.like
                    record = replace(record, made=old.made, end=old.end, more=old.more)
                return self._made(view, command, record, {}, now)
            case Rotate():
                return self._rotate(view, command, now)
            case End():
                return self._end(view, command, now)
            case Look():
                known = self._subject(view, command.subject)
                return Decision(Batch(), Reply(keys=tuple(known.sessions), epoch=known.epoch))
            case EndAll():
                return self._end_all(view, command)
            case Epoch():
                return self._epoch(view, command)

    def _open(self, view: View, key: str, now: int) -> Record | None:
        """The session, unless it is not there or one of its clocks has run out."""
        cell = view[session_ref(key)]
        if cell is None:
            return None
        record = read_record(cell.value)
        return record if now < self.ends(record) else None

    def _subject(self, view: View, subject: str) -> Subject:
        cell = view[subject_ref(subject)]
        return Subject() if cell is None else read_subject(cell.value)

    def _put(self, key: str, record: Record) -> Put:
        return Put(session_ref(key), write_record(record), self.ends(record))

    def _touch(self, view: View, command: Touch, now: int) -> Decision[Reply]:
        record = self._open(view, command.key, now)
        if record is None or now - record.seen < self.touch:
            return Decision(Batch(), Reply(record, now=now))
        record = replace(record, seen=now)
        return Decision(Batch(put=(self._put(command.key, record),)), Reply(record, now=now))

    def _save(self, view: View, command: Save, now: int) -> Decision[Reply]:
        record = self._open(view, command.key, now)
        if record is None:
            return Decision(Batch(), Reply(now=now))
        for name, seen in (command.seen or {}).items():
            there = record.data.get(name)
            if (None if there is None else bytes(there)) != (None if seen is None else bytes(seen)):
                return Decision(Batch(), Reply(record, refused=name, now=now))
        data = _merged(record.data, command.set, command.drop)
        record = _lasting(replace(record, seen=max(now, record.seen), data=data), command, now)
        return Decision(Batch(put=(self._put(command.key, record),)), Reply(record, now=now))

    def _rotate(self, view: View, command: Rotate, now: int) -> Decision[Reply]:
        record = self._open(view, command.key, now)
        if record is None or record.subject != command.was:
            return Decision(Batch(), Reply(now=now))
        data = _merged({} if command.clear else record.data, command.set, command.drop)
        made = replace(
            record, seen=now, subject=command.subject, data=data,
            agent=command.agent or record.agent, place=command.place or record.place,
        )  # fmt: skip
        if command.subject != command.was:
            made = replace(made, made=now, end=now + self.absolute)
        lists: dict[str, Subject] = {}
        if self.listed and command.was:
            lists[command.was] = _without(self._subject(view, command.was), command.key)
        drop = () if command.fresh == command.key else (session_ref(command.key),)
        return self._made(view, command, made, lists, now, drop=drop)

    def _made(
        self,
        view: View,
        command: Make | Rotate,
        record: Record,
        lists: dict[str, Subject],
        now: int,
        drop: tuple[Ref, ...] = (),
    ) -> Decision[Reply]:
        """What makes the session `record`, and enters it into the list of its subject."""
        key = command.fresh if isinstance(command, Rotate) else command.key
        if isinstance(command, Make) and self._open(view, key, now) is not None:
            return Decision(Batch(), Reply(refused=key, now=now))
        record = _lasting(record, command, now)
        if self.listed and record.subject:
            known = lists.get(record.subject) or self._subject(view, record.subject)
            kept = {name: end for name, end in known.sessions.items() if end > now}
            if command.evict and kept.pop(command.evict, None) is not None:
                drop = (*drop, session_ref(command.evict))
            if len(kept) >= self.devices_max:
                oldest = min(kept, key=lambda name: kept[name])
                return Decision(Batch(), Reply(evict=oldest, keys=tuple(kept)))
            kept[key] = record.made + self.absolute if command.life else record.end
            lists[record.subject] = replace(known, sessions=kept)
        puts, drops = [self._put(key, record)], list(drop)
        for subject, listed in lists.items():
            _listed(subject, listed, puts, drops)
        batch = Batch(put=tuple(puts), drop=tuple(drops))
        return Decision(batch, Reply(record, now=now))

    def _end(self, view: View, command: End, now: int) -> Decision[Reply]:
        found = self._open(view, command.key, now)
        if self.listed and found is not None and found.subject != command.subject:
            return Decision(Batch(), Reply(found, again=True, now=now))
        puts: list[Put] = []
        drops = [session_ref(command.key)]
        if self.listed and command.subject:
            known = self._subject(view, command.subject)
            if command.key in known.sessions:
                _listed(command.subject, _without(known, command.key), puts, drops)
        return Decision(Batch(put=tuple(puts), drop=tuple(drops)), Reply(found, now=now))

    def _end_all(self, view: View, command: EndAll) -> Decision[Reply]:
        known = self._subject(view, command.subject)
        if set(known.sessions) - set(command.keys):
            return Decision(Batch(), Reply(keys=tuple(known.sessions), again=True))
        ended = tuple(key for key in known.sessions if key != command.but)
        left = {key: end for key, end in known.sessions.items() if key == command.but}
        puts: list[Put] = []
        drops = [session_ref(key) for key in ended]
        _listed(command.subject, replace(known, sessions=left), puts, drops)
        return Decision(Batch(put=tuple(puts), drop=tuple(drops)), Reply(keys=ended))

    def _epoch(self, view: View, command: Epoch) -> Decision[Reply]:
        known = self._subject(view, command.subject)
        if known.epoch and not command.renewed:
            return Decision(Batch(), Reply(epoch=known.epoch))
        put = put_subject(subject_ref(command.subject), replace(known, epoch=command.fresh))
        return Decision(Batch(put=(put,)), Reply(epoch=command.fresh))

    def on_due(self, cell: Cell, now: int) -> Batch:
        """An ended session is dropped, and an ended one leaves its subject's list."""
        if cell.space == SUBJECTS:
            return swept_subject(cell, now)
        record = read_record(cell.value)
        if now >= self.ends(record):
            return Batch(drop=(cell.ref,))
        return Batch(put=(Put(cell.ref, cell.value, self.ends(record)),))


def _lasting(record: Record, command: Make | Save | Rotate, now: int) -> Record:
    return replace(record, end=now + command.life) if command.life else record


def _merged(data: Mapping[str, Raw], set: Mapping[str, Raw], drop: Sequence[str]) -> dict[str, Raw]:
    return {name: raw for name, raw in data.items() if name not in drop} | dict(set)


def _without(known: Subject, key: str) -> Subject:
    return replace(known, sessions={k: end for k, end in known.sessions.items() if k != key})


def _listed(subject: str, known: Subject, puts: list[Put], drops: list[Ref]) -> None:
    """Write the list of a subject, or drop it when nothing stands there any more."""
    _kept(subject_ref(subject), known, puts, drops)


def _kept(ref: Ref, known: Subject, puts: list[Put], drops: list[Ref]) -> None:
    if known.sessions or known.epoch:
        puts.append(put_subject(ref, known))
    else:
        drops.append(ref)


def swept_subject(cell: Cell, now: int) -> Batch:
    """What becomes of a subject's cell when it is due: its list without what has ended."""
    known = read_subject(cell.value)
    kept = {key: end for key, end in known.sessions.items() if end > now}
    puts: list[Put] = []
    drops: list[Ref] = []
    _kept(cell.ref, replace(known, sessions=kept), puts, drops)
    return Batch(put=tuple(puts), drop=tuple(drops))


def put_subject(ref: Ref, known: Subject) -> Put:
    """The cell of a subject: its list is looked through when the last of its sessions ends."""
    return Put(ref, codec.encode(known), max(known.sessions.values(), default=None))
