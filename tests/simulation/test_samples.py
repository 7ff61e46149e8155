"""The samples survive a death at any commit and a second one while they recover.

A slice of `make crash`, which kills each scenario at every commit, twice; and bugs planted into the
samples, which it must find.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from examples.orders import app as orders
from examples.signup import app as signup
from tests.simulation import samples
from tests.simulation.samples import SCENARIOS, Killings, Scenario, kill, said

SIGN_UP, _, _, SOLD_OUT = SCENARIOS


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_sample_survives_a_death_at_every_commit(
    scenario: Scenario, tmp_path: Path, record_property: Any
) -> None:
    found = kill(scenario, "sqlite://", tmp_path, nested=False)
    record_property("figures", said(found))
    assert killed_everywhere(found) and found.commits >= 4
    assert found.flaws == ()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("only", ["2-before/1-after", "3-after/2-before", "4-before/3-after"])
def test_a_sample_survives_a_second_death(scenario: Scenario, only: str, tmp_path: Path) -> None:
    found = kill(scenario, "sqlite://", tmp_path, nested=True, only=only)
    assert found.nested == 1 and found.flaws == ()


def test_an_order_survives_on_postgres_too(postgres: str, tmp_path: Path) -> None:
    found = kill(SOLD_OUT, postgres, tmp_path, nested=False)
    assert killed_everywhere(found) and found.flaws == ()


def killed_everywhere(found: Killings) -> bool:
    """What runs beside something else sometimes commits with it: then there is a commit less."""
    return found.kills >= 2 * found.commits - 4


# --- planted bugs ---------------------------------------------------------------------------------


async def under_a_new_key(method: str, path: str, key: str = "", body: Any = None) -> str:
    """A partner whose key is another at each call: what is asked again is done again."""
    number = sum(len(keys) for keys in samples.partner.done.values())
    return await PLAIN_ASK(method, path, f"{key}-{number}", body)


async def never_kept(method: str, path: str, key: str = "", body: Any = None) -> str:
    """A partner that forgets the mail when it is asked for it again."""
    if key in samples.partner.done.get(path, ()):
        samples.partner.done[path].discard(key)
        return "forgotten"
    return await PLAIN_ASK(method, path, key, body)


PLAIN_ASK = samples.ask


@pytest.mark.parametrize(
    ("planted", "kind"), [(under_a_new_key, "doubled"), (never_kept, "lost")], ids=["new", "lost"]
)
def test_a_planted_bug_in_the_sign_up_is_found(
    planted: Callable[..., Any], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "ask", planted)
    found = kill(SIGN_UP, "sqlite://", tmp_path, nested=False)
    assert getattr(found, kind) > 0, said(found)
    assert any(flaw.startswith(f"{kind}: killed at") for flaw in found.flaws)
    assert signup.ask is not planted, "the sample is as it was"


def test_an_undo_that_forgets_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keeps(dict[str, str]):
        def pop(self, *_: Any) -> Any:
            return None

    monkeypatch.setattr(orders, "warehouse", Keeps())
    found = kill(SOLD_OUT, "sqlite://", tmp_path, nested=False)
    assert found.doubled > 0
