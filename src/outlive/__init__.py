"""outlive: state that outlives its process."""

from __future__ import annotations

import importlib as _importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.doors.blocking import BlockingHandle, BlockingOutlive
    from outlive.errors import (
        Cancelled,
        Drift,
        NonRetryable,
        OutcomeUnknown,
        OutliveError,
        ProcessFailed,
        StepFailed,
        WaitTimeout,
    )
    from outlive.handle import Handle
    from outlive.kinds.processes import Unknown, View
    from outlive.kinds.processes.limits import Limit, Rate
    from outlive.logs import ProcessFilter
    from outlive.runtime.blocking import BlockingRun
    from outlive.runtime.run import Run
    from outlive.steps import Attempt, Retry, attempt, step

__version__ = "0.1.0"

_HOMES = {
    "Attempt": "steps",
    "BlockingHandle": "doors.blocking",
    "BlockingOutlive": "doors.blocking",
    "BlockingRun": "runtime.blocking",
    "Cancelled": "errors",
    "Drift": "errors",
    "Handle": "handle",
    "Limit": "kinds.processes.limits",
    "NonRetryable": "errors",
    "OutcomeUnknown": "errors",
    "Outlive": "app",
    "OutliveError": "errors",
    "ProcessFailed": "errors",
    "ProcessFilter": "logs",
    "Rate": "kinds.processes.limits",
    "Retry": "steps",
    "Run": "runtime.run",
    "StepFailed": "errors",
    "Unknown": "kinds.processes",
    "View": "kinds.processes",
    "WaitTimeout": "errors",
    "attempt": "steps",
    "step": "steps",
}

__all__ = [
    "Attempt",
    "BlockingHandle",
    "BlockingOutlive",
    "BlockingRun",
    "Cancelled",
    "Drift",
    "Handle",
    "Limit",
    "NonRetryable",
    "OutcomeUnknown",
    "Outlive",
    "OutliveError",
    "ProcessFailed",
    "ProcessFilter",
    "Rate",
    "Retry",
    "Run",
    "StepFailed",
    "Unknown",
    "View",
    "WaitTimeout",
    "attempt",
    "step",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(_importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
