"""What came of a key, as a caller wants it: the record, an answer, or the right error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from outlive import codec
from outlive.errors import (
    KeyReused,
    NoSuchRequest,
    NotResolvable,
    RequestRunning,
    RequestUnknown,
    StoreUnavailable,
)
from outlive.kinds.requests.decisions import (
    Answer,
    Mode,
    Place,
    Record,
    Reply,
    read_record,
)
from outlive.kinds.requests.fingerprints import fingerprints_of_value

if TYPE_CHECKING:
    from outlive.doors.requests import Once, Requests


class Faster(Exception):
    """Another transaction has recorded the key first; this one is rolled back."""

    def __init__(self, record: Record) -> None:
        super().__init__(record.state)
        self.record = record


def answer_of(value: Any) -> Answer:
    """`value` as it is recorded."""
    return value if isinstance(value, Answer) else Answer(body=codec.encode(value))


def demand_first(found: bytes | None) -> None:
    """Raise `Faster` when there is a record already."""
    if found is not None:
        raise Faster(read_record(found))


def demand_same(record: Record, fingerprints: Mapping[str, str]) -> Record:
    """`record`, if it is of the request with these fingerprints. Raises `KeyReused`."""
    if fingerprints.get(record.fingerprint.partition(":")[0]) != record.fingerprint:
        raise KeyReused("This idempotency key was used for another request; nothing was done.")
    return record


def demand_there(reply: Reply, name: str) -> Record:
    """What is known about the key. Raises `NoSuchRequest`."""
    if reply.record is None:
        raise NoSuchRequest(f"There is no record {name}.")
    return reply.record


def demand_done(reply: Reply, name: str) -> None:
    """Raises why an operator could not do it: `NoSuchRequest`, `NotResolvable`."""
    if reply.said == "absent":
        raise NoSuchRequest(f"There is no record {name}.")
    if reply.said != "done":
        state = "" if reply.record is None else reply.record.state
        raise NotResolvable(f"The record {name} is {state}; nothing was changed.")


def who_of(principal: str, tenant: str) -> str:
    """What the records of a principal are found by; those of nobody in particular are found by
    their keys alone. Raises `ValueError` for nobody."""
    if not principal and not tenant:
        raise ValueError("name a principal or a tenant; nothing was forgotten")
    return Place("", principal, tenant).who


def told(reply: Reply) -> Record:
    """The record to give again. Raises why there is none: `KeyReused`, `RequestRunning`,
    `RequestUnknown`, `StoreUnavailable`."""
    record = reply.record
    assert record is not None
    if reply.said == "running":
        raise RequestRunning
    if reply.said == "newer":
        raise StoreUnavailable(
            "The key was used by a newer version of the service, which knows it better."
        )
    if reply.said == "reused":
        raise KeyReused("This idempotency key was used for another request; nothing was done.")
    if reply.said == "unknown":
        raise RequestUnknown
    return record


def of_value(
    requests: Requests, scope: str, key: str, value: Any, mode: Mode, wait_seconds: float
) -> Once:
    """The block of `Outlive.once`."""
    return requests.once(
        Place(key, scope), fingerprints_of_value(value), mode=mode, wait_seconds=wait_seconds
    )
