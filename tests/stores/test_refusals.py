"""Refusals say what was wanted, what was found, and that nothing was written."""

from __future__ import annotations

import pytest

from outlive.errors import Refused, TooLarge
from outlive.model import Append, Batch, Lease, Put, Ref
from outlive.store import VALUE_BYTES_MAX
from outlive.stores.refusals import conflict, fenced, flaw, stream_conflict

LEASE = Lease(3, "n1", 7)


def test_a_refusal_carries_its_facts_and_says_that_nothing_was_written() -> None:
    refused = conflict(Ref("s", "k"), 4, 5)
    assert (refused.facts["wanted"], refused.facts["found"]) == (4, 5)
    assert fenced(LEASE).facts == {"shard": 3, "epoch": 7}
    late = stream_conflict(Append("x", 2, "kind", b""), 9)
    assert (late.facts["wanted"], late.facts["found"]) == (2, 9)
    for error in (refused, fenced(LEASE), late):
        assert "nothing was written" in error.detail


def test_a_flaw_is_found_before_any_state_is_looked_at() -> None:
    full, over = b"x" * VALUE_BYTES_MAX, b"x" * (VALUE_BYTES_MAX + 1)
    assert flaw(Batch(put=(Put(Ref("s", "k"), full),)), "SQLite") is None
    assert isinstance(flaw(Batch(put=(Put(Ref("s", "k"), over),)), "SQLite"), TooLarge)
    large = Batch(lease=LEASE, append=(Append("x", 0, "kind", over),))
    assert isinstance(flaw(large, "SQLite"), TooLarge)
    volatile = flaw(Batch(storage="volatile"), "SQLite")
    assert isinstance(volatile, Refused) and "SQLite" in volatile.detail
    with pytest.raises(ValueError, match="needs a lease"):
        flaw(Batch(append=(Append("x", 0, "kind", b""),)), "SQLite")
