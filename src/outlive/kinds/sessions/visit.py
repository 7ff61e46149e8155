"""A visit: the session as one request sees it, and what of it is to be written at the end.

It is a `dict` (Starlette's `request.session`), filled once and compared at the end attribute by
attribute with what was read, as JSON. So a change deep inside is seen, and a session that was only
looked at is not written.

    sign_in      another principal: a new id, and the old one dead, in one commit
    rotate       the same principal with more rights (step-up): a new id
    sign_out     no session; what is set afterwards goes into a new, anonymous one

Where the application says who is signed in by an attribute (`principal`), a change of that
attribute is a change of principal.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from outlive import codec
from outlive.errors import SessionReadOnly
from outlive.kinds.sessions.decisions import (
    TEXT_CHARACTERS_MAX,
    Record,
    hint_of,
)

Outcome = Literal[
    "unchanged", "changed", "rotated", "cleared", "new", "expired", "suppressed", "refused"
]
"""What became of the session of a request; see `docs/sessions.md`."""


class Held(Struct, frozen=True):
    """A session that was read: its id (or sealed text), its key, and its record."""

    id: str
    key: str
    record: Record
    due: int
    """When it is signed out if nothing happens."""
    now: int
    """The store's clock when it was read."""


class Change(Struct, frozen=True):
    """What a request wants to have written. `seen`: what the attributes it changes were."""

    set: dict[str, Raw]
    drop: tuple[str, ...]
    seen: dict[str, Raw | None]
    was: str
    subject: str
    rotate: bool
    end: bool
    wanted: bool
    place: str
    fresh: str

    @property
    def signs_in(self) -> bool:
        """Whether an authenticated session is handed out that was not before."""
        return self.subject != "" and (self.rotate or self.subject != self.was)

    @property
    def writes(self) -> bool:
        """Whether anything is to be written."""
        moved = self.rotate or self.end or self.wanted or self.subject != self.was
        return bool(self.set or self.drop or moved)


class Session(dict[str, Any]):
    """The session of one request: a dict of JSON values, and who is signed in.

    Nothing is written before the response begins; what a death before that loses is the change, and
    the session is as it was. Values are what `outlive.codec` takes, read back as plain JSON.
    """

    def __init__(
        self,
        held: Held | None,
        draw: Callable[[], str],
        *,
        principal: str = "",
        read_only: bool = False,
    ) -> None:
        data = {} if held is None else held.record.data
        super().__init__({name: msgspec.json.decode(raw) for name, raw in data.items()})
        self._held = held
        self._before = data
        self._draw = draw
        self._fresh = ""
        self._principal = principal
        self._signed_in: str | None = None
        self._place = ""
        self._rotate = self._end = self._wanted = self._touched = False
        self._read_only = read_only

    # --- who --------------------------------------------------------------------------------------

    @property
    def subject(self) -> str:
        """Who is signed in; empty for a visitor nobody knows."""
        self._touched = True
        return self._subject()

    @property
    def is_new(self) -> bool:
        """Whether nothing is kept for this visitor yet."""
        self._touched = True
        return self._held is None

    @property
    def hint(self) -> str:
        """What a log may say of it: a prefix of its hash; empty for a new one."""
        return "" if self._held is None else hint_of(self._held.key)

    @property
    def key(self) -> str:
        """By which `Sessions.revoke` and the list of devices name it; empty for a new one."""
        self._touched = True
        return "" if self._held is None else self._held.key

    def sign_in(self, subject: str, *, place: str = "") -> None:
        """Sign `subject` in under a new id; the old one is dead before the response leaves.

        `subject`: 1 to 200 characters. `place`: a word on where from, for the list of devices.
        A response with a status of 400 or more signs nobody in. Raises `ValueError`.
        """
        self._demand_writable()
        if not 1 <= len(subject) <= TEXT_CHARACTERS_MAX:
            raise ValueError(f"a subject has 1 to {TEXT_CHARACTERS_MAX} characters")
        self._signed_in, self._place = subject, place[:TEXT_CHARACTERS_MAX]
        self._rotate = True

    def rotate(self) -> None:
        """Go on under a new id: after a step-up or any change of rights."""
        self._demand_writable()
        self._rotate = self._touched = True

    def sign_out(self) -> None:
        """End the session; what is set afterwards goes into a new one of nobody's."""
        self._demand_writable()
        super().clear()
        self._end = self._touched = True
        self._signed_in, self._rotate, self._fresh = None, False, ""

    def clear(self) -> None:
        """The same as `sign_out`: it is how Starlette's sessions are ended."""
        self.sign_out()

    # --- forms ------------------------------------------------------------------------------------

    def csrf_token(self) -> str:
        """The secret that forms of this session carry: bound to its id, so another after each
        rotation. Call it after `sign_in` or `rotate`. A visitor without a session gets one."""
        self._touched = True
        if self._held is None or self._is_moving():
            self._demand_writable()
            self._wanted = True
            return _csrf(self._next())
        return _csrf(self._held.id)

    def check_csrf(self, token: str) -> bool:
        """Whether `token` is the secret that was given out for this session, compared in constant
        time."""
        self._touched = True
        return self._held is not None and hmac.compare_digest(
            _csrf(self._held.id).encode(), token.encode()
        )

    # --- what is to be written --------------------------------------------------------------------

    @property
    def touched(self) -> bool:
        """Whether the handler has looked at it: then the response depends on the cookie."""
        return self._touched

    def mark_accessed(self) -> None:
        """Starlette says so when a handler asks for `request.session`."""
        self._touched = True

    def change(self) -> Change:
        """What differs from what was read. Raises `TypeError` for a value that is no JSON."""
        before = {} if self._end else self._before
        set_: dict[str, Raw] = {}
        for name, value in dict.items(self):
            if not isinstance(name, str):
                raise TypeError(f"a session's attributes have text names, not {name!r}")
            try:
                raw = Raw(codec.encode(value))
            except NotImplementedError as error:
                raise TypeError(f"the session's attribute {name!r}: {error}") from None
            if name not in before or not _same(before[name], raw):
                set_[name] = raw
        drop = tuple(name for name in before if not dict.__contains__(self, name))
        subject = self._subject()
        was = "" if self._held is None else self._held.record.subject
        moves = self._held is None or self._end or self._is_moving()
        fresh = self._next() if moves else ""
        return Change(
            set_, drop, {name: before.get(name) for name in (*set_, *drop)}, was, subject,
            self._is_moving(), self._end, self._wanted, self._place, fresh,
        )  # fmt: skip

    def _subject(self) -> str:
        if self._signed_in is not None:
            return self._signed_in
        if self._principal:
            found = dict.get(self, self._principal)
            return "" if found is None else str(found)
        return "" if self._held is None or self._end else self._held.record.subject

    def _is_moving(self) -> bool:
        was = "" if self._held is None else self._held.record.subject
        return self._rotate or self._subject() != was

    def _next(self) -> str:
        """The id that it will have, if it gets a new one."""
        self._fresh = self._fresh or self._draw()
        return self._fresh

    def _demand_writable(self) -> None:
        if self._read_only:
            raise SessionReadOnly

    # --- a dict that notices ----------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        self._touched = True
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._touched = True
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        self._touched = True
        return super().__iter__()

    def get(self, name: str, default: Any = None) -> Any:
        self._touched = True
        return super().get(name, default)

    def __len__(self) -> int:
        self._touched = True
        return super().__len__()

    def items(self) -> Any:
        self._touched = True
        return super().items()

    def values(self) -> Any:
        self._touched = True
        return super().values()

    def keys(self) -> Any:
        self._touched = True
        return super().keys()

    def copy(self) -> Any:
        self._touched = True
        return super().copy()

    def __reversed__(self) -> Iterator[str]:
        self._touched = True
        return super().__reversed__()

    def __eq__(self, other: object) -> bool:
        self._touched = True
        return super().__eq__(other)

    def __repr__(self) -> str:
        self._touched = True
        return super().__repr__()

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def __setitem__(self, name: str, value: Any) -> None:
        self._demand_writable()
        self._touched = True
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self._demand_writable()
        self._touched = True
        super().__delitem__(name)

    def pop(self, name: str, *default: Any) -> Any:
        self._demand_writable()
        self._touched = True
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        self._demand_writable()
        self._touched = True
        return super().popitem()

    def setdefault(self, name: str, default: Any = None) -> Any:
        self._demand_writable()
        self._touched = True
        return super().setdefault(name, default)

    def update(self, *args: Any, **values: Any) -> None:
        self._demand_writable()
        self._touched = True
        super().update(*args, **values)


def _csrf(id: str) -> str:
    return hmac.digest(b"csrf\0" + id.encode(), b"form", hashlib.sha256).hex()


def _same(before: Raw, now: Raw) -> bool:
    """Whether both are one value; another writer may have put its bytes in another way."""
    if bytes(before) == bytes(now):
        return True
    return codec.encode(msgspec.json.decode(before)) == bytes(now)
