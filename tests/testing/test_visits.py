"""Visits to the simulated service: every small kind is used, and what goes wrong is said."""

from __future__ import annotations

from typing import Any

import pytest

from outlive.kinds.ratelimits import Quota
from outlive.testing import visits
from outlive.testing.simulate import Case, run_case

SHORT = Case(8, nodes=2, seconds=150.0)


def test_a_short_run_uses_what_visits_are_for() -> None:
    found = run_case(SHORT)
    assert found.violations == []
    for what in ("calls admitted", "sessions signed out", "requests answered"):
        assert found.counts[what] > 0, what


def test_more_calls_than_there_are_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(visits.Kinds):
        def __init__(self, app: Any) -> None:
            super().__init__(app)
            self.calls = app.ratelimits(Quota("calls", 1000), storage="durable")

    monkeypatch.setattr(visits, "CALLS_MAX", 1)
    monkeypatch.setattr(visits, "Kinds", Wrong)
    found = run_case(SHORT)
    assert any("calls of 1" in flaw for flaw in found.violations), found.violations


def test_a_logout_that_is_only_said_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def said(self: Any, id: str) -> None:
        return None

    monkeypatch.setattr(visits.Visitors, "_sign_out", said)
    found = run_case(SHORT)
    assert any("is signed in" in flaw for flaw in found.violations), found.violations


def test_a_session_that_is_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(visits.Kinds):
        def __init__(self, app: Any) -> None:
            super().__init__(app)

            async def load(id: str) -> None:
                return None

            self.sessions.load = load  # type: ignore[method-assign]

    monkeypatch.setattr(visits, "Kinds", Wrong)
    found = run_case(SHORT)
    assert any("was signed in and is not" in flaw for flaw in found.violations), found.violations


def test_a_request_that_is_carried_out_twice_is_found() -> None:
    here: Any = None
    found = visits.Visitors(here)
    found.done["7"], found.done["8"] = 2, 1
    found.told["8"], found.told["9"] = {"one", "other"}, {"one"}
    assert [flaw.partition(":")[0] for flaw in found.check()] == ["P5", "P5", "P1"]
