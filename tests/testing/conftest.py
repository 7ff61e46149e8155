"""An application with a bit of everything, as a user would write it, and a trial of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.service import Outside

from outlive import Outlive, Retry, attempt, step
from outlive.testing.places import Place
from outlive.testing.trial import Trial


class Shop:
    """An application whose bodies are written by the test that uses it."""

    def __init__(self) -> None:
        self.app = Outlive("sqlite:///never/opened.db")
        self.world = Outside()

    def reset(self) -> None:
        """A new world."""
        self.world = Outside()

    def process(self, body: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        name = body.__name__
        declared: Callable[..., Any] = self.app.process(f"/{name}", version=1, **options)(body)
        return declared

    def doing(self, what: str, **options: Any) -> Callable[..., Any]:
        """A step that does `what` to the world."""

        def do() -> str:
            return self.world.do(attempt().key, what)

        do.__name__ = do.__qualname__ = what
        made: Callable[..., Any] = step(retry=Retry(attempts=5), **options)(do)
        return made


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture(params=["memory://", "sqlite://"])
async def trial(shop: Shop, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Trial]:
    place = Place(request.param, tmp_path)
    made = Trial(shop.app, place.store)
    yield made
    await made.close()
    place.remove()
