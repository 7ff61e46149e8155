"""The hash chain: what it locates, and that its packing is unambiguous and frozen."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from outlive.model import Event
from outlive.stores.chain import CHAIN_BYTES, GENESIS, link, verify

Fields = tuple[int, int, str, int, str, int, bytes]
FIELDS = st.tuples(
    st.integers(0, 63),
    st.integers(1, 2**48),
    st.text(max_size=5),
    st.integers(0, 2**40),
    st.text(max_size=5),
    st.integers(0, 2**52),
    st.binary(max_size=5),
)


def chained(count: int) -> list[Event]:
    events: list[Event] = []
    for seq in range(1, count + 1):
        previous = events[-1].chain if events else GENESIS
        chain = link(previous, 3, seq, "s", seq - 1, "did", 1000 + seq, b"data")
        events.append(Event(3, seq, "s", seq - 1, "did", b"data", 1000 + seq, chain))
    return events


def test_a_chain_as_it_was_written_verifies() -> None:
    assert verify(chained(5), GENESIS) is None
    assert verify([], GENESIS) is None


def test_a_chain_verifies_from_the_middle() -> None:
    events = chained(5)
    assert verify(events[2:], events[1].chain) is None
    assert verify(events[2:], GENESIS) == 3


@pytest.mark.parametrize(
    "edit",
    [
        {"shard": 4},
        {"seq": 7},
        {"stream": "t"},
        {"n": 9},
        {"kind": "undid"},
        {"data": b"dat\x61\x00"},
        {"time": 1},
        {"chain": bytes(CHAIN_BYTES)},
    ],
)
def test_an_edit_of_any_field_is_found_at_its_event(edit: dict[str, Any]) -> None:
    events = chained(5)
    events[2] = replace(events[2], **edit)
    assert verify(events, GENESIS) == events[2].seq


def test_an_erased_event_is_trusted_and_the_chain_goes_on_from_it() -> None:
    events = chained(5)
    events[2] = replace(events[2], kind="erased", data=b"")
    assert verify(events, GENESIS) is None
    events[2] = replace(events[2], chain=b"\0" * CHAIN_BYTES)
    assert verify(events, GENESIS) == 4
    events[2] = replace(events[2], data=b"left")
    assert verify(events, GENESIS) == 3


def test_a_removed_event_breaks_the_one_after_it() -> None:
    events = chained(5)
    del events[1]
    assert verify(events, GENESIS) == 3


def test_swapped_events_break_at_the_first_of_them() -> None:
    events = chained(5)
    events[1], events[2] = events[2], events[1]
    assert verify(events, GENESIS) == 3


def test_an_edit_with_its_own_chain_mended_breaks_the_next_event() -> None:
    events = chained(5)
    mended = link(events[1].chain, 3, 3, "s", 2, "did", 1003, b"edited")
    events[2] = replace(events[2], data=b"edited", chain=mended)
    assert verify(events, GENESIS) == 4


def test_the_packing_is_frozen() -> None:
    time = 1_700_000_000_000_000
    packed = b"".join(
        (
            b"\x98\xc4\x10" + GENESIS,  # an array of eight, and sixteen bytes
            b"\x01\x02\xa6str\xc3\xb8m\x03\xa4kind",
            b"\xcf" + time.to_bytes(8, "big"),
            b"\xc4\x02\x00\xff",
        )
    )
    value = link(GENESIS, 1, 2, "strøm", 3, "kind", time, b"\x00\xff")
    assert value == sha256(packed).digest()[:CHAIN_BYTES]
    assert value.hex() == "4a235556544e43d5765222179bfd360f"


@given(FIELDS, FIELDS)
def test_different_events_have_different_links(one: Fields, two: Fields) -> None:
    assert (link(GENESIS, *one) == link(GENESIS, *two)) == (one == two)


@given(st.text(max_size=6), st.text(max_size=6), st.binary(max_size=6))
def test_bytes_cannot_move_from_one_field_to_the_next(stream: str, kind: str, data: bytes) -> None:
    value = link(GENESIS, 0, 1, stream, 0, kind, 0, data)
    assert value != link(GENESIS, 0, 1, stream + "x", 0, kind, 0, data)
    if kind:
        assert value != link(GENESIS, 0, 1, stream + kind[0], 0, kind[1:], 0, data)
    assert value != link(GENESIS, 0, 1, stream, 0, "", 0, kind.encode() + data) or not kind


def test_every_link_depends_on_the_one_before() -> None:
    one = link(GENESIS, 0, 1, "s", 0, "k", 0, b"")
    two = link(b"\x01" * CHAIN_BYTES, 0, 1, "s", 0, "k", 0, b"")
    assert len(one) == len(two) == CHAIN_BYTES
    assert one != two
