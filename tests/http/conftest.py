"""One store file for each test and one instance on it; or a machine of real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.crash.service import Machine
from tests.http.site import Instance, Site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def instance(site: Site) -> Instance:
    return await site.open()


@pytest.fixture
def http(instance: Instance) -> httpx.AsyncClient:
    return instance.http


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    made = Machine(tmp_path)
    yield made
    await made.clean()
