"""A ring of keys: the first seals, all open, and nothing opens at another place."""

from __future__ import annotations

import pytest

from outlive import Keys
from outlive.errors import KeysMissing, StoreRefused

OLD, NEW = Keys.new("old"), Keys.new("new")
PLACE = b"cell\0process/1\0reg_1"


def test_what_is_sealed_opens_at_its_place_and_shows_nothing() -> None:
    keys = Keys(NEW)
    sealed = keys.seal(PLACE, b'{"name":"Ann"}')
    assert sealed.startswith(b"~new:") and b"Ann" not in sealed
    assert keys.open(PLACE, sealed) == b'{"name":"Ann"}'
    assert keys.seal(PLACE, b'{"name":"Ann"}') != sealed


def test_what_was_moved_or_altered_does_not_open() -> None:
    keys = Keys(NEW)
    sealed = keys.seal(PLACE, b"1")
    altered = sealed[:-6] + (b"AAAAA=" if sealed[-6:] != b"AAAAA=" else b"BBBBB=")
    for place, data in ((b"cell\0process/1\0reg_2", sealed), (PLACE, altered), (PLACE, b"~new:?")):
        with pytest.raises(StoreRefused, match="altered, or moved"):
            keys.open(place, data)


def test_an_older_key_still_opens_and_the_first_seals() -> None:
    sealed = Keys(OLD).seal(PLACE, b"1")
    ring = Keys(NEW, OLD)
    assert ring.open(PLACE, sealed) == b"1"
    assert ring.seal(PLACE, b"1").startswith(b"~new:")
    assert Keys(NEW, seals=False).sealing == ""


def test_a_key_that_is_not_in_the_ring_is_named() -> None:
    with pytest.raises(KeysMissing, match="'old'"):
        Keys(NEW).open(PLACE, Keys(OLD).seal(PLACE, b"1"))


def test_a_key_is_never_shown() -> None:
    secret = NEW.partition(":")[2]
    assert secret not in repr(Keys(NEW, OLD)) and repr(Keys(NEW, OLD)) == "Keys(new, old)"
    for malformed in ("", "new", "new:short", f"two words:{secret}", f"new:{secret}AAAA"):
        with pytest.raises(ValueError, match="a key is") as told:
            Keys(malformed)
        assert secret not in str(told.value)
    for wrong in ((), (NEW, NEW)):
        with pytest.raises(ValueError, match=r"at least one|same name"):
            Keys(*wrong)
    with pytest.raises(ValueError, match="is no name of a key"):
        Keys.new("two words")


def test_the_environment_may_hold_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OUTLIVE_KEYS", raising=False)
    assert Keys.from_environment() is None
    monkeypatch.setenv("OUTLIVE_KEYS", f"{NEW} {OLD}")
    found = Keys.from_environment()
    assert found is not None and found.names == ("new", "old") and found.sealing == "new"


def test_a_check_tells_two_keys_of_one_name_apart() -> None:
    assert Keys(NEW).check("new") == Keys(NEW, OLD).check("new")
    assert Keys(NEW).check("new") != Keys(Keys.new("new")).check("new")
