"""Django's cache in our store: its own semantics, one step where one is promised, and bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.test import RequestFactory, override_settings
from django.views.decorators.cache import cache_page
from tests.adapters import sites
from tests.adapters.conftest import settled

from outlive.adapters.django_cache import OutliveCache
from outlive.clock import ManualClock

pytestmark = pytest.mark.usefixtures("site")
BACKEND = "outlive.adapters.django_cache.OutliveCache"


class Reversing:
    """A serializer of a user's own."""

    def dumps(self, value: Any) -> bytes:
        return bytes(reversed(str(value).encode()))

    def loads(self, data: bytes) -> str:
        return bytes(reversed(data)).decode()


@contextmanager
def cache_with(location: str = "", /, **given: Any) -> Iterator[Any]:
    options = given.pop("OPTIONS", {})
    made = {"BACKEND": BACKEND, "LOCATION": location, "OPTIONS": options, **given}
    with override_settings(CACHES={"default": made}):
        yield caches["default"]


@pytest.fixture
def cache() -> Iterator[Any]:
    with cache_with() as made:
        yield made


def test_set_get_add_delete_and_has_key(cache: Any) -> None:
    assert cache.get("a") is None and cache.get("a", 5) == 5
    cache.set("a", {"b": (1, 2)})
    assert cache.get("a") == {"b": (1, 2)} and "a" in cache and cache.has_key("a")
    assert not cache.add("a", 1) and cache.add("none", None)
    assert cache.get("none", "default") is None, "None is a value"
    assert cache.delete("a") and not cache.delete("a") and "a" not in cache


def test_what_was_read_can_be_changed_without_changing_what_is_kept(cache: Any) -> None:
    cache.set("a", [1])
    cache.get("a").append(2)
    assert cache.get("a") == [1]


def test_a_life_ends_by_the_clock_of_the_store(cache: Any, clock: ManualClock) -> None:
    cache.set("default", 1)
    cache.set("short", 1, 10)
    cache.set("ever", 1, None)
    for name, timeout in (("zero", 0), ("negative", -1)):
        cache.set(name, 1)
        cache.set(name, 2, timeout)
        assert name not in cache
    clock.advance(11)
    assert "short" not in cache and cache.add("short", 2)
    clock.advance(300)
    assert cache.get_many(["default", "short", "ever"]) == {"ever": 1}


def test_touch_gives_another_life_and_says_whether_it_is_there(
    cache: Any, clock: ManualClock
) -> None:
    cache.set("a", 1, 10)
    clock.advance(9)
    assert cache.touch("a", 100) and not cache.touch("b")
    clock.advance(99)
    assert cache.get("a") == 1 and cache.touch("a", None)
    clock.advance(10_000)
    assert cache.get("a") == 1 and cache.touch("a", 0) and "a" not in cache


def test_a_number_is_incremented_and_keeps_its_life(cache: Any, clock: ManualClock) -> None:
    cache.set("n", 5, 100)
    assert cache.incr("n") == 6 and cache.decr("n", 10) == -4 and cache.get("n") == -4
    cache.set("big", 2**80)
    assert cache.incr("big") == 2**80 + 1
    with pytest.raises(ValueError, match="not found"):
        cache.incr("absent")
    cache.set("text", "1")
    with pytest.raises(TypeError):
        cache.incr("text")
    clock.advance(101)
    assert "n" not in cache


def test_many_at_once(cache: Any) -> None:
    assert cache.set_many({"a": 1, "b": [2], "c": None}) == []
    assert cache.get_many(["a", "b", "c", "d"]) == {"a": 1, "b": [2], "c": None}
    cache.delete_many(["a", "c"])
    assert cache.get_many(["a", "b", "c"]) == {"b": [2]}
    with pytest.raises(TypeError):
        cache.set_many({"x": 1, "y": object()})
    assert "x" not in cache, "nothing of it was kept"


def test_versions_and_prefixes_keep_keys_apart(cache: Any) -> None:
    cache.set("a", 1)
    cache.set("a", 2, version=2)
    assert cache.get("a") == 1 and cache.get("a", version=2) == 2
    assert cache.incr_version("a", 2) == 3
    assert cache.get("a", version=3) == 1 and "a" not in cache
    with cache_with(KEY_PREFIX="other") as other:
        assert "a" not in other
    with cache_with(OPTIONS={"NAME": "second"}) as second:
        second.set("a", 9)
        second.clear()
    assert cache.get("a", version=3) == 1


def test_get_or_set_calls_once_for_all_who_ask_at_once(cache: Any) -> None:
    assert cache.get_or_set("a", lambda: 5) == 5 and cache.get_or_set("a", 6) == 5

    def ask(n: int) -> int:
        found: int = caches["default"].get_or_set("b", n)
        return found

    with ThreadPoolExecutor(10) as threads:
        assert len(set(threads.map(ask, range(40)))) == 1


def test_of_a_hundred_that_add_one_does_and_no_increment_is_lost(cache: Any) -> None:
    cache.set("n", 0)

    def ask(n: int) -> bool:
        caches["default"].incr("n")
        added: bool = caches["default"].add("first", n)
        return added

    with ThreadPoolExecutor(20) as threads:
        assert sum(threads.map(ask, range(100))) == 1
    assert cache.get("n") == 100


def test_clear_takes_all_of_this_cache(cache: Any) -> None:
    cache.set_many({f"k{n}": n for n in range(250)})
    cache.clear()
    assert cache.get_many([f"k{n}" for n in range(250)]) == {}


def test_too_many_entries_are_culled_those_that_end_soonest_first() -> None:
    with cache_with(OPTIONS={"MAX_ENTRIES": 16, "CULL_FREQUENCY": 2}) as cache:
        cache.set_many({f"soon{n}": n for n in range(10)}, 10)
        cache.set_many({f"late{n}": n for n in range(8)}, 1000)
        found = cache.get_many([f"{name}{n}" for name in ("soon", "late") for n in range(10)])
        assert found == {f"late{n}": n for n in range(8)}
        for n in range(100):
            cache.set(f"x{n}", n)
            keys = [f"x{m}" for m in range(n + 1)] + [f"late{m}" for m in range(8)]
            assert len(cache.get_many(keys)) <= 16 + 2
    with cache_with(OPTIONS={"MAX_ENTRIES": 8, "CULL_FREQUENCY": 0}) as cache:
        cache.set_many({f"k{n}": n for n in range(9)})
        assert cache.get_many([f"k{n}" for n in range(9)]) == {}


def test_a_value_that_is_too_large_or_no_json_is_refused_and_the_old_one_stays() -> None:
    with cache_with(OPTIONS={"VALUE_BYTES_MAX": 100}) as cache:
        cache.set("a", "old")
        with pytest.raises(ValueError, match="VALUE_BYTES_MAX"):
            cache.set("a", "x" * 101)
        with pytest.raises(TypeError, match="SERIALIZER"):
            cache.set("a", object())
        assert cache.get("a") == "old"


@pytest.mark.parametrize("serializer", [f"{__name__}.Reversing", Reversing, Reversing()])
def test_a_serializer_of_ones_own_is_used(serializer: Any) -> None:
    with cache_with(OPTIONS={"SERIALIZER": serializer}) as cache:
        cache.set("a", "tea")
        cache.set("n", 5)
        assert cache.get("a") == "tea" and cache.incr("n") == 6


def test_a_page_is_cached_whole(cache: Any) -> None:
    calls = []

    @cache_page(60)
    def page(request: Any) -> HttpResponse:
        calls.append(1)
        made = HttpResponse("é" * 5, status=200)
        made["X-Kept"] = "yes"
        return made

    with override_settings(ALLOWED_HOSTS=["*"]):
        first, second = (page(RequestFactory().get("/p")) for _ in range(2))
    assert len(calls) == 1 and second.content == first.content and second["X-Kept"] == "yes"


def test_the_same_awaited(cache: Any) -> None:
    async def ask() -> None:
        await cache.aset("a", 1)
        assert await cache.aget("a") == 1 and await cache.aincr("a") == 2
        assert await cache.aget_many(["a"]) == {"a": 2} and not await cache.aadd("a", 1)
        await cache.aclear()
        assert not await cache.ahas_key("a")

    asyncio.run(ask())


@pytest.mark.parametrize("address", ["postgres", "sqlite", "valkey"], indirect=True)
def test_on_another_store_by_its_address(address: str) -> None:
    with settled(OUTLIVE_STORE="memory://", OUTLIVE_APP=None), cache_with(address) as cache:
        cache.set_many({"a": 1, "b": 2})
        assert cache.incr("a") == 2 and not cache.add("b", 3) and cache.touch("b", 5)
        assert cache.get_many(["a", "b"]) == {"a": 2, "b": 2}
        cache.clear()
        assert cache.get_many(["a", "b"]) == {}
        cache._client.close(1)


@pytest.mark.parametrize(
    ("location", "options", "said"),
    [
        ("memcached://localhost", {}, "own backend"),
        ("", {"STORAGE": "solid"}, "STORAGE"),
        ("", {"NAME": "a/b"}, "NAME"),
        ("", {"NAME": ""}, "NAME"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_configured(
    location: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        OutliveCache(location, {"OPTIONS": options})
    assert sites.app is not None
