"""Tours of the simulated service: every feature is used, and what goes wrong is said."""

from __future__ import annotations

from typing import Any

import pytest

from outlive.testing import tours
from outlive.testing.simulate import Case, run_case

SHORT = Case(8, nodes=2, seconds=150.0)


def test_a_short_run_uses_what_tours_are_for() -> None:
    found = run_case(SHORT)
    assert found.violations == []
    for what in ("updates answered", "callbacks", "eras", "large results"):
        assert found.counts[what] > 0, what


def test_an_update_that_is_answered_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = tours.Tourists._decided

    async def wrong(self: Any, id: str, key: str, asked: bytes) -> Any:
        return await real(self, id, key, asked.replace(b"to ", b"from "))

    monkeypatch.setattr(tours.Tourists, "_decided", wrong)
    found = run_case(SHORT)
    assert any(flaw.startswith("P5: tour") for flaw in found.violations), found.violations


def test_an_effect_that_was_not_undone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tours.Outside, "effects", lambda self: [
        tours.Effect(what, len(keys)) for what, keys in self.keys.items()
    ])  # fmt: skip
    found = run_case(SHORT)
    assert any("belongs to nothing that stands" in flaw for flaw in found.violations)
