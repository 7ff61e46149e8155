"""Django's sessions in our store: what its own engines promise, and what they lose."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import CreateError, UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.test import RequestFactory, override_settings
from tests.adapters import sites
from tests.adapters.conftest import settled

from outlive.adapters.django_sessions import SessionStore, sessions
from outlive.clock import ManualClock

pytestmark = pytest.mark.usefixtures("site")


def kept(**data: Any) -> SessionStore:
    """A session that is in the store."""
    made = SessionStore()
    made.update(data)
    made.save()
    return made


def of(session: SessionStore) -> SessionStore:
    """The same session, as another request has it."""
    return SessionStore(session.session_key)


def test_a_session_is_there_again_for_who_has_its_key() -> None:
    made = kept(basket=["tea"], size=3)
    again = of(made)
    assert dict(again.items()) == {"basket": ["tea"], "size": 3}
    assert again.exists(made.session_key) and not again.exists("x" * 52)
    assert made.session_key is not None and len(made.session_key) == 52


def test_nothing_is_kept_of_a_visitor_of_whom_nothing_is_set() -> None:
    visitor = SessionStore()
    assert visitor.get("basket") is None and visitor.session_key is None and visitor.is_empty()


@pytest.mark.parametrize("key", ["", "short", "../../etc/passwd", "0" * 52, "é" * 52])
def test_a_key_that_a_client_made_up_is_never_adopted(key: str) -> None:
    visitor = SessionStore(key)
    visitor["basket"] = ["tea"]
    visitor.save()
    assert visitor.session_key not in (None, key)
    assert not SessionStore().exists(key)


def test_must_create_refuses_a_key_that_is_taken() -> None:
    made = kept(a=1)
    with pytest.raises(CreateError):
        of(made).save(must_create=True)
    assert of(made)["a"] == 1


def test_a_save_that_lost_to_a_logout_is_refused_and_makes_nothing() -> None:
    made = kept(a=1)
    late = of(made)
    late["b"] = 2
    made.flush()
    with pytest.raises(UpdateError):
        late.save()
    assert not SessionStore().exists(late.session_key)
    assert made.session_key is None and made.is_empty()


def test_what_is_cleared_unread_is_gone() -> None:
    made = kept(a=1, **{SESSION_KEY: "7"})
    late = of(made)
    late.clear()
    late["b"] = 2
    late.save()
    assert dict(of(made).items()) == {"b": 2} and sessions().devices(7) == []


async def test_what_is_cleared_unread_is_gone_where_it_is_awaited() -> None:
    made = SessionStore()
    await made.aupdate({"a": 1, SESSION_KEY: "7"})
    await made.asave()
    late = of(made)
    late.clear()
    await late.acycle_key()
    assert await of(late).aget("a") is None and not await made.aexists(made.session_key)


def test_a_new_key_of_what_was_signed_out_meanwhile_brings_nothing_back() -> None:
    made = kept(**{SESSION_KEY: "7"})
    late = of(made)
    assert late[SESSION_KEY] == "7"
    assert sessions().revoke_all(7) == 1
    late.cycle_key()
    late[SESSION_KEY] = "7"
    with pytest.raises(UpdateError):
        late.save()
    assert not SessionStore().exists(late.session_key) and sessions().devices(7) == []


def test_two_requests_that_set_different_keys_keep_both() -> None:
    made = kept(a=1, gone=True)
    first, second = of(made), of(made)
    first["b"], second["c"] = 2, 3
    del second["gone"]
    first.save()
    second.save()
    assert dict(of(made).items()) == {"a": 1, "b": 2, "c": 3}


def test_a_change_deep_inside_is_saved() -> None:
    made = kept(basket={"tea": 1})
    again = of(made)
    again["basket"]["tea"] = 2
    again.save()
    assert of(made)["basket"] == {"tea": 2}


def test_cycling_the_key_ends_the_old_one_at_once_and_keeps_the_data() -> None:
    made = kept(basket=["tea"])
    old = made.session_key
    made.cycle_key()
    assert made.session_key != old
    assert not SessionStore().exists(old) and SessionStore().exists(made.session_key)
    assert of(made)["basket"] == ["tea"]


def test_who_signs_in_keeps_the_key_that_cycling_gave_and_is_listed() -> None:
    made = kept(basket=["tea"])
    made.cycle_key()
    key = made.session_key
    made[SESSION_KEY] = "7"
    made.save()
    assert made.session_key == key
    (device,) = sessions().devices(7)
    assert device.key == made.store_key != key
    other = kept(**{SESSION_KEY: "7"})
    assert sessions().revoke_all(7, but=made.store_key) == 1
    assert not SessionStore().exists(other.session_key)
    assert sessions().revoke(made.store_key) and not SessionStore().exists(key)
    assert not sessions().revoke(made.store_key)


def test_a_session_that_is_saved_again_and_again_stays_listed(clock: ManualClock) -> None:
    made = kept(**{SESSION_KEY: "7"})
    for _ in range(5):
        clock.advance(900)
        made["seen"] = made.get("seen", 0) + 1
        made.save()
    assert len(sessions().devices(7)) == 1 == sessions().revoke_all(7)
    assert not SessionStore().exists(made.session_key)


def test_it_ends_as_long_after_the_last_save_as_django_says(clock: ManualClock) -> None:
    made, short, still = kept(a=1), kept(a=1), kept(a=1)
    short.set_expiry(100)
    short.save()
    still.set_expiry(timedelta(seconds=5000))
    still.save()
    clock.advance(101)
    assert not SessionStore().exists(short.session_key)
    assert SessionStore().exists(made.session_key)
    clock.advance(900)
    assert not SessionStore().exists(made.session_key)
    assert of(still)["a"] == 1
    SessionStore.clear_expired()
    with pytest.raises(UpdateError):
        made.save()


def test_no_save_carries_it_past_its_absolute_end(clock: ManualClock) -> None:
    with override_settings(OUTLIVE_SESSIONS={"absolute_seconds": 1500}):
        sites.forget()
        made = kept(a=1)
        clock.advance(900)
        made.save()
        clock.advance(601)
        assert not SessionStore().exists(made.session_key)


def test_what_is_no_json_is_refused_and_nothing_is_written() -> None:
    made = kept(a=1)
    made["b"] = object()
    with pytest.raises(TypeError):
        made.save()
    assert dict(of(made).items()) == {"a": 1}


def test_the_same_awaited() -> None:
    async def visit() -> None:
        made = SessionStore()
        await made.aset("a", 1)
        await made.asave()
        old, again = made.session_key, SessionStore(made.session_key)
        assert await again.aget("a") == 1 and await again.aexists(old)
        await again.acycle_key()
        assert not await again.aexists(old) and await again.aget("a") == 1
        made = SessionStore(again.session_key)
        await made.aset("b", 2)
        await again.aflush()
        with pytest.raises(UpdateError):
            await made.asave()
        await SessionStore.aclear_expired()

    asyncio.run(visit())


def test_a_hundred_requests_at_once_keep_a_hundred_attributes_and_a_logout_wins() -> None:
    made = kept(start=True)
    key = made.session_key

    def add(n: int) -> bool:
        """Whether it was added to the session, and not to a new one."""
        mine = SessionStore(key)
        mine[f"n{n}"] = n
        try:
            mine.save()
        except UpdateError:
            return False
        return mine.session_key == key

    with ThreadPoolExecutor(20) as threads:
        assert all(threads.map(add, range(100)))
        assert len(of(made).keys()) == 101
        tries = [threads.submit(add, n) for n in range(100, 150)]
        of(made).flush()
        tries += [threads.submit(add, n) for n in range(150, 200)]
        said = [one.result() for one in tries]
    assert not any(said[50:])
    assert not SessionStore().exists(made.session_key)


def test_django_answers_an_interrupted_session_as_it_does() -> None:
    made = kept(a=1)

    def view(request: Any) -> HttpResponse:
        request.session["b"] = 2
        of(made).flush()
        return HttpResponse("late")

    request = RequestFactory().get("/")
    request.COOKIES["sessionid"] = made.session_key
    with override_settings(SESSION_ENGINE="outlive.adapters.django_sessions", ALLOWED_HOSTS=["*"]):
        with pytest.raises(SessionInterrupted):
            SessionMiddleware(view)(request)


@pytest.mark.parametrize("address", ["postgres"], indirect=True)
def test_on_another_store_it_is_the_same(address: str) -> None:
    with settled(OUTLIVE_STORE=address, OUTLIVE_APP=None):
        made = kept(**{SESSION_KEY: "7"})
        made.cycle_key()
        made["x"] = 1
        made.save()
        assert of(made)["x"] == 1 and len(sessions().devices(7)) == 1
        late = of(made)
        late["y"] = 1
        made.flush()
        with pytest.raises(UpdateError):
            late.save()


@pytest.mark.parametrize("address", ["memcached", "valkey"], indirect=True)
def test_redis_must_be_asked_for_by_its_class_and_memcached_is_refused(address: str) -> None:
    volatile = {"cells": address, "storage": "volatile"}
    with override_settings(OUTLIVE_SESSIONS=volatile):
        sites.forget()
        if address.startswith("redis"):
            made = kept(a=1)
            assert of(made)["a"] == 1
        else:
            with pytest.raises(ImproperlyConfigured, match="memcached"):
                kept(a=1)


def test_settings_that_name_no_store_or_two_say_so() -> None:
    for wrong in ({"OUTLIVE_APP": None}, {"OUTLIVE_STORE": "memory://"}):
        sites.forget()
        with override_settings(**wrong), pytest.raises(ImproperlyConfigured, match="OUTLIVE_APP"):
            kept(a=1)
    sites.forget()
    with override_settings(OUTLIVE_APP="tests.adapters.sites.forget"):
        with pytest.raises(ImproperlyConfigured, match="no Outlive"):
            kept(a=1)
    sites.forget()
    with override_settings(OUTLIVE_SESSIONS={"device_max": 3}):
        with pytest.raises(ImproperlyConfigured, match="device_max"):
            kept(a=1)
    sites.forget()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_no_json_can_say_is_refused_and_the_session_stays(number: float) -> None:
    made = kept(basket=["tea"])
    made["size"] = number
    with pytest.raises(TypeError, match="size"):
        made.save()
    assert dict(of(made).items()) == {"basket": ["tea"]}
