"""Django on a store of the test's own, by the name of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from tests.adapters import sites

from outlive import Outlive, ids
from outlive.adapters.django import client
from outlive.clock import ManualClock
from outlive.stores.sqlite import SQLiteStore

Site = Callable[..., Any]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store of the kind that the test is parametrised with."""
    if request.param == "postgres":
        return f"{request.getfixturevalue('postgres')}?schema=store_{ids.token(40)}"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server = request.getfixturevalue(request.param)
    return f"{server.address}?prefix={ids.token(40)}"


@contextmanager
def settled(**settings: Any) -> Iterator[None]:
    """Django under these settings, and nothing of what was made under others."""
    sites.forget()
    try:
        with override_settings(**settings):
            yield
            client().close(1)
    finally:
        sites.forget()


@pytest.fixture
def site(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Django on a SQLite file, whose clock the test moves."""
    store: Any = SQLiteStore(str(tmp_path / "store.db"), clock=clock)
    monkeypatch.setattr(sites, "app", Outlive(store, clock=clock))
    with settled(OUTLIVE_APP="tests.adapters.sites.app", SESSION_COOKIE_AGE=1000):
        yield
