"""The vocabulary of the store: frozen values that can be compared, and one fixed hash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlive.model import Append, Batch, Cell, Lease, Put, Ref, shard_of


def test_values_are_frozen_and_equal_by_content() -> None:
    batch = Batch(lease=Lease(1, "a", 2), append=(Append("s", 0, "x", b"1"),))
    assert batch == Batch(lease=Lease(1, "a", 2), append=(Append("s", 0, "x", b"1"),))
    with pytest.raises(AttributeError):
        batch.storage = "relaxed"  # type: ignore[misc]


def test_a_cell_knows_its_address_and_a_batch_is_durable_unless_it_says_otherwise() -> None:
    assert Cell("s", "k", b"", 1).ref == Ref("s", "k") < Ref("s", "l")
    assert Batch(put=(Put(Ref("s", "k"), b""),)).storage == "durable"


def test_the_shard_of_a_key_is_the_same_for_ever() -> None:
    assert [shard_of(key, 16) for key in ("a", "reg_1", "ü")] == [3, 7, 5]


@given(st.text(), st.integers(1, 1024))
def test_every_key_has_a_shard(key: str, shards: int) -> None:
    assert 0 <= shard_of(key, shards) < shards
