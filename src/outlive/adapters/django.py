"""What Django's settings say about us: one application for its sessions, its caches and its views.

    OUTLIVE_STORE = "sqlite:////var/lib/shop/shop.db"     a store of their own
    OUTLIVE_APP = "shop.durable.app"                      or the application that views use anyway

    SESSION_ENGINE = "outlive.adapters.django_sessions"
    CACHES = {"default": {"BACKEND": "outlive.adapters.django_cache.OutliveCache"}}

Nothing is opened before the first call, and each worker process opens its own (also with
gunicorn's `--preload`).
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from outlive.app import Outlive

if TYPE_CHECKING:
    from outlive.doors.blocking import BlockingOutlive

M = TypeVar("M")


def client() -> BlockingOutlive:
    """The application of this site, without an event loop. Raises `ImproperlyConfigured`."""
    found: BlockingOutlive | None = made.get("site")
    if found is None:
        found = made["site"] = _client()  # twice is the same: what it is made of is made once
    return found


def client_at(address: str) -> BlockingOutlive:
    """An application with nothing but the store at `address`."""
    return made_once(f"at {address}", lambda: Outlive(address).blocking())


def made_once(name: str, make: Callable[[], M]) -> M:
    """What `make` gives, made once in this process, whichever threads ask first at once. It imports
    nothing of the site's: a thread that does may ask for something here."""
    found: M | None = made.get(name)
    if found is None:
        with _making:
            found = made.get(name)
            if found is None:
                found = made[name] = make()
    return found


made: dict[str, Any] = {}
"""What was made of the settings, by name."""
_making = Lock()


def _client() -> BlockingOutlive:
    named = getattr(settings, "OUTLIVE_APP", None)
    address = getattr(settings, "OUTLIVE_STORE", None)
    if (named is None) == (address is None):
        raise ImproperlyConfigured(
            "Set either OUTLIVE_STORE (the address of a store, sqlite:////path/shop.db) or "
            "OUTLIVE_APP (the dotted name of an Outlive)."
        )
    if address is not None:
        return client_at(address)
    found = import_string(named)
    if not isinstance(found, Outlive):
        raise ImproperlyConfigured(f"OUTLIVE_APP is {named!r}, which is no Outlive.")
    return found.blocking()
