"""outlive: state that outlives its process."""

from __future__ import annotations

import importlib as _importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outlive.access import Access, Visitor
    from outlive.app import Outlive
    from outlive.doors.blocking import BlockingHandle, BlockingOutlive
    from outlive.doors.sealed import SealedSessions
    from outlive.errors import (
        BreakerOpen,
        Cancelled,
        ChildFailed,
        Drift,
        NonRetryable,
        NoSlot,
        OutcomeUnknown,
        OutliveError,
        ProcessFailed,
        RateLimited,
        StepFailed,
        WaitTimeout,
    )
    from outlive.handle import Handle
    from outlive.kinds.breakers.rule import Breaker, RetryBudget
    from outlive.kinds.caches.rule import best_effort, bounded, exact, never_authoritative
    from outlive.kinds.processes import Unknown, View
    from outlive.kinds.processes.limits import Limit, Rate
    from outlive.kinds.processes.seen import Seen
    from outlive.kinds.processes.updates import Update
    from outlive.kinds.processes.webhooks import Webhooks
    from outlive.kinds.ratelimits import Quota, Slots
    from outlive.kinds.sessions.cookies import Cookie
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
    "Breaker": "kinds.breakers.rule",
    "BreakerOpen": "errors",
    "Callback": "runtime.callbacks",
    "Cancelled": "errors",
    "Child": "runtime.children",
    "ChildFailed": "errors",
    "Cookie": "kinds.sessions.cookies",
    "Drift": "errors",
    "Handle": "handle",
    "Keys": "stores.keys",
    "Limit": "kinds.processes.limits",
    "NoSlot": "errors",
    "NonRetryable": "errors",
    "OutcomeUnknown": "errors",
    "Outlive": "app",
    "OutliveError": "errors",
    "ProcessFailed": "errors",
    "ProcessFilter": "logs",
    "Quota": "kinds.ratelimits",
    "Rate": "kinds.processes.limits",
    "RateLimited": "errors",
    "Retry": "steps",
    "RetryBudget": "kinds.breakers.rule",
    "Run": "runtime.run",
    "SealedSessions": "doors.sealed",
    "Seen": "kinds.processes.seen",
    "Slots": "kinds.ratelimits",
    "StepFailed": "errors",
    "Unknown": "kinds.processes",
    "Update": "kinds.processes.updates",
    "View": "kinds.processes",
    "Visitor": "access",
    "WaitTimeout": "errors",
    "Webhooks": "kinds.processes.webhooks",
    "attempt": "steps",
    "best_effort": "kinds.caches.rule",
    "bounded": "kinds.caches.rule",
    "exact": "kinds.caches.rule",
    "never_authoritative": "kinds.caches.rule",
    "step": "steps",
}

__all__ = [
    "Access",
    "Asked",
    "Attempt",
    "BlockingHandle",
    "BlockingOutlive",
    "BlockingRun",
    "Breaker",
    "BreakerOpen",
    "Callback",
    "Cancelled",
    "Child",
    "ChildFailed",
    "Cookie",
    "Drift",
    "Handle",
    "Keys",
    "Limit",
    "NoSlot",
    "NonRetryable",
    "OutcomeUnknown",
    "Outlive",
    "OutliveError",
    "ProcessFailed",
    "ProcessFilter",
    "Quota",
    "Rate",
    "RateLimited",
    "Retry",
    "RetryBudget",
    "Run",
    "SealedSessions",
    "Seen",
    "Slots",
    "StepFailed",
    "Unknown",
    "Update",
    "View",
    "Visitor",
    "WaitTimeout",
    "Webhooks",
    "attempt",
    "best_effort",
    "bounded",
    "exact",
    "never_authoritative",
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
