"""What Django's settings say about us: one application for its sessions, its caches and its views.

    OUTLIVE_STORE = "sqlite:////var/lib/shop/shop.db"     a store of their own
    OUTLIVE_APP = "shop.durable.app"                      or the application that views use anyway

    SESSION_ENGINE = "outlive.adapters.django_sessions"
    CACHES = {"default": {"BACKEND": "outlive.adapters.django_cache.OutliveCache"}}

Nothing is opened before the first call, and each worker process opens its own (also with
gunicorn's `--preload`).
"""

from __future__ import annotations

from functools import cache
from threading import RLock
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from outlive.app import Outlive

if TYPE_CHECKING:
    from outlive.doors.blocking import BlockingOutlive


declaring = RLock()
"""Held while something is made of the settings that all threads share: `cache` alone makes it twice
when two ask first at once."""


def client() -> BlockingOutlive:
    """The application of this site, without an event loop. Raises `ImproperlyConfigured`."""
    with declaring:
        return _client()


def client_at(address: str) -> BlockingOutlive:
    """An application with nothing but the store at `address`."""
    with declaring:
        return _client_at(address)


@cache
def _client() -> BlockingOutlive:
    named = getattr(settings, "OUTLIVE_APP", None)
    address = getattr(settings, "OUTLIVE_STORE", None)
    if (named is None) == (address is None):
        raise ImproperlyConfigured(
            "Set either OUTLIVE_STORE (the address of a store, sqlite:////path/shop.db) or "
            "OUTLIVE_APP (the dotted name of an Outlive)."
        )
    if address is not None:
        return Outlive(address).blocking()
    found = import_string(named)
    if not isinstance(found, Outlive):
        raise ImproperlyConfigured(f"OUTLIVE_APP is {named!r}, which is no Outlive.")
    return found.blocking()


@cache
def _client_at(address: str) -> BlockingOutlive:
    return Outlive(address).blocking()
