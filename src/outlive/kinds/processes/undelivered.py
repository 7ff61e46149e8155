"""What a published event could not do: kept and said, never lost in silence.

An event that was to signal a process which has ended, or takes no such signal, or whose subscriber
cannot read it, leaves a cell here, by the very commit that gives its delivery up. It is kept as
long as an ended process.
"""

from __future__ import annotations

import logging

import msgspec
from msgspec import Raw, Struct

from outlive import codec
from outlive.kinds.processes.cells import Command
from outlive.model import Put, Ref

log = logging.getLogger("outlive")

UNDELIVERED = "undelivered"
"""The space of what could not be delivered."""


class Undelivered(Struct, frozen=True):
    """A published event that did not reach one of its subscribers."""

    event: str
    """The id of the event, as `publish` gave it."""
    subscriber: str
    process: str
    """The process that was to be signalled; empty when it did not come to that."""
    why: str
    payload: Raw
    at: int


read_undelivered = msgspec.json.Decoder(Undelivered).decode


def undelivered(command: Command, why: str, now: int, retention: int) -> tuple[Put, ...]:
    """The cell that keeps what `command` was to deliver; none when it delivers no event."""
    if not command.event:
        return ()
    subscriber = command.key.partition("/")[2]
    log.warning("event %s was not delivered to %s", command.event, subscriber)
    kept = Undelivered(command.event, subscriber, command.id, why[:500], command.payload, now)
    ref = Ref(UNDELIVERED, f"{command.event}/{codec.digest(subscriber.encode())}")
    return (Put(ref, codec.encode(kept), now + retention),)
