"""Ids: unguessable outside, ordered inside, and chance that repeats where it must."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlive import ids
from outlive.model import shard_of

PUBLIC = re.compile(r"reg_[0-9a-hjkmnp-tv-z]{26}\Z")


def test_a_public_id_has_its_prefix_and_26_random_characters() -> None:
    made = {ids.public_id("reg", 16) for _ in range(500)}
    assert len(made) == 500 and all(PUBLIC.match(one) for one in made)


@pytest.mark.parametrize("shards", [1, 2, 7, 16, 64, 100, 128, 256, 1024])
def test_a_public_id_falls_in_the_shard_it_was_drawn_for(shards: int) -> None:
    for shard in range(0, shards, 1 + shards // 64):
        made = {ids.public_id("reg", shards, shard) for _ in range(20)}
        assert len(made) == 20
        assert {shard_of(one, shards) for one in made} == {shard}
        assert all(PUBLIC.match(one) for one in made)


def test_every_end_of_a_public_id_is_drawn_in_a_shard_of_its_own() -> None:
    for shards in (1, 16, 128):
        ends = ids._ends(shards)
        assert all(ends)
        assert sum(map(len, ends)) == 1024


def test_internal_ids_are_ordered_by_time() -> None:
    made = [ids.internal_id(micros) for micros in (1, 2, 10**15, 10**15 + 1)]
    assert made == sorted(made) and len({len(one) for one in made}) == 1


@given(st.integers(0, 2**128 - 1))
def test_base_32_keeps_the_whole_number(number: int) -> None:
    text = ids.base32(number, 26)
    value = 0
    for character in text:
        value = value * 32 + ids.ALPHABET.index(character)
    assert (len(text), value) == (26, number)


@given(st.floats(0, 100), st.floats(0, 100), st.integers(1, 2000))
def test_full_jitter_stays_between_nothing_and_its_cap(
    base: float, cap: float, attempt: int
) -> None:
    waited = ids.full_jitter(base, cap, attempt)
    assert 0.0 <= waited <= min(cap, base * 2.0 ** min(attempt - 1, 60))


def test_full_jitter_spreads_over_its_whole_width() -> None:
    waits = [ids.full_jitter(1.0, 60.0, 4) for _ in range(400)]
    assert min(waits) < 1.0 and max(waits) > 7.0


def test_seeded_chance_repeats_and_other_chance_does_not() -> None:
    assert ids.seeded("a").random() == ids.seeded("a").random() != ids.seeded("b").random()
    assert len({ids.node_id() for _ in range(20)}) == 20
    assert len({ids.token() for _ in range(20)}) == 20
