"""What narrows a list, in words that a person types.

    --tag customer=c-17 --version 1 --since 2h --changed-until 2026-11-22T07:00:00Z

A time is a moment with a zone, or how long ago: a whole number and s, m, h, d or w.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cyclopts import Parameter

from outlive.clock import MICROS, Clock
from outlive.commands.exits import MISUSED, CommandFailed
from outlive.kinds.processes.search import Narrowed

AGO = re.compile(r"([0-9]{1,9})([smhdw])\Z")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@Parameter(name="*")
@dataclass(frozen=True)
class Narrowing:
    """The options of a command that lists processes.

    Parameters
    ----------
    version
        Only those of this version.
    tag
        Only those with this tag, as NAME=VALUE; several must all be theirs.
    since
        Only those started since: 2h or 3d (ago), or 2026-11-22T07:00:00Z.
    until
        Only those started before.
    changed_since
        Only those that changed since.
    changed_until
        Only those that have not changed since.
    """

    version: int | None = None
    tag: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None
    changed_since: str | None = None
    changed_until: str | None = None

    def narrowed(self, clock: Clock) -> Narrowed:
        """What it narrows a list to; `clock` says what time it is. Raises `CommandFailed`."""
        now = clock.wall()
        return {
            "version": self.version,
            "tags": pairs_of(self.tag),
            "started_since": moment_of(self.since, now),
            "started_until": moment_of(self.until, now),
            "changed_since": moment_of(self.changed_since, now),
            "changed_until": moment_of(self.changed_until, now),
        }


def pairs_of(given: tuple[str, ...]) -> dict[str, str]:
    """Tags as they were typed. Raises `CommandFailed`."""
    found: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not name or not equals or not value:
            raise CommandFailed(
                f"{pair!r} is no tag: write NAME=VALUE, as in customer=c-17", MISUSED
            )
        found[name] = value
    return found


def moment_of(text: str | None, now: int) -> datetime | None:
    """The moment that is meant, with `now` in µs since 1970 UTC. Raises `CommandFailed`."""
    if text is None:
        return None
    if ago := AGO.match(text):
        try:
            passed = timedelta(**{UNITS[ago[2]]: int(ago[1])})
            return datetime.fromtimestamp(now / MICROS, UTC) - passed
        except OverflowError:
            return datetime.fromtimestamp(0, UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(
            f"{text!r} is no time: write how long ago (2h, 3d) or 2026-11-22T07:00:00Z", MISUSED
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
