"""outlive: state that outlives its process."""

from __future__ import annotations

import importlib as _importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outlive.access import Access, Visitor
    from outlive.app import Outlive
    from outlive.doors.blocking import BlockingHandle, BlockingOutlive
    from outlive.errors import (
        Cancelled,
        ChildFailed,
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
    from outlive.kinds.processes.seen import Seen
    from outlive.kinds.processes.updates import Update
    from outlive.kinds.processes.webhooks import Webhooks
    from outlive.logs import ProcessFilter
    from outlive.runtime.blocking import BlockingRun
    from outlive.runtime.callbacks import Callback
    from outlive.runtime.children import Child
    from outlive.runtime.run import Run
    from outlive.runtime.updates import Asked
    from outlive.steps import Attempt, Retry, attempt, step
    from outlive.stores.keys import Keys

__version__ = "0.1.0"

_HOMES = {
    "Access": "access",
    "Asked": "runtime.updates",
    "Attempt": "steps",
    "BlockingHandle": "doors.blocking",
    "BlockingOutlive": "doors.blocking",
    "BlockingRun": "runtime.blocking",
    "Callback": "runtime.callbacks",
    "Cancelled": "errors",
    "Child": "runtime.children",
    "ChildFailed": "errors",
    "Drift": "errors",
    "Handle": "handle",
    "Keys": "stores.keys",
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
    "Seen": "kinds.processes.seen",
    "StepFailed": "errors",
    "Unknown": "kinds.processes",
    "Update": "kinds.processes.updates",
    "View": "kinds.processes",
    "Visitor": "access",
    "WaitTimeout": "errors",
    "Webhooks": "kinds.processes.webhooks",
    "attempt": "steps",
    "step": "steps",
}

__all__ = [
    "Access",
    "Asked",
    "Attempt",
    "BlockingHandle",
    "BlockingOutlive",
    "BlockingRun",
    "Callback",
    "Cancelled",
    "Child",
    "ChildFailed",
    "Drift",
    "Handle",
    "Keys",
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
    "Seen",
    "StepFailed",
    "Unknown",
    "Update",
    "View",
    "Visitor",
    "WaitTimeout",
    "Webhooks",
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
