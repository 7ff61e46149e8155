"""A file of its own for each test, and a world that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.service import Outside, Place
from tests.testing.conftest import shop, trial

__all__ = ["outside", "place", "shop", "trial"]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.close()


@pytest.fixture
def outside() -> Outside:
    return Outside()
