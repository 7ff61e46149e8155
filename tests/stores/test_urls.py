"""Addresses of stores: what a URL is to the standard library, and lists of hosts beside that."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from outlive.stores.urls import split

PLAIN = (
    "sqlite:///relative.db",
    "sqlite:////absolute/a b.db",
    "memory://",
    "POSTGRESQL://u:p%40@h:1/db?schema=x&host=/run#f",
    "postgresql:///db?host=one,two",
    "redis://[::1]:6379/0?prefix=a",
    "memcached://one,two:1",
    "nothing",
    "",
    "mailto:a@b",
    "redis://a\tb\n/0",
)


@pytest.mark.parametrize("address", PLAIN)
def test_what_names_one_place_is_split_as_ever(address: str) -> None:
    assert split(address) == urlsplit(address)


def test_a_host_in_brackets_may_stand_anywhere_in_a_list() -> None:
    parts = split("postgresql://u:p@one:1,[::1]:2,[fe80::2]/db?schema=x")
    assert (parts.scheme, parts.netloc) == ("postgresql", "u:p@one:1,[::1]:2,[fe80::2]")
    assert (parts.path, parts.query, parts.username) == ("/db", "schema=x", "u")
    assert parts.geturl() == "postgresql://u:p@one:1,[::1]:2,[fe80::2]/db?schema=x"


@pytest.mark.parametrize("place", ["[::1", "one,[::1", "::1]", "u:p[@one", "one,[x", "one,two]:1"])
def test_a_bracket_that_is_left_open_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match=r"IPv6"):
        split(f"postgresql://{place}/db")
