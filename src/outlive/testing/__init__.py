"""Tools to test a service or a store with: the same ones outlive is tested with itself.

The names given out here are for annotations and errors in a user's tests; the tests themselves get
what they need from the fixtures of the pytest plugin (`plugin.py`).
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outlive.testing import simulate
    from outlive.testing.blocking import BlockingTrial
    from outlive.testing.idleness import Drifted, NotIdle
    from outlive.testing.journals import journals_in, replay_journal
    from outlive.testing.killing import KillEverywhere, Outcome
    from outlive.testing.trial import Trial
    from outlive.testing.virtual import VirtualClock

_HOMES = {
    "BlockingTrial": "blocking",
    "Drifted": "idleness",
    "KillEverywhere": "killing",
    "NotIdle": "idleness",
    "Outcome": "killing",
    "Trial": "trial",
    "VirtualClock": "virtual",
    "journals_in": "journals",
    "replay_journal": "journals",
    "simulate": "simulate",
}

__all__ = [
    "BlockingTrial",
    "Drifted",
    "KillEverywhere",
    "NotIdle",
    "Outcome",
    "Trial",
    "VirtualClock",
    "journals_in",
    "replay_journal",
    "simulate",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return home if _HOMES[name] == name else getattr(home, name)


if "pytest" in sys.modules:  # a failed check shall show its values
    import pytest

    for _name in ("conformance", "cell_conformance", "erase_conformance", "lockstep"):
        pytest.register_assert_rewrite(f"{__name__}.{_name}")
