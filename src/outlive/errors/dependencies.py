"""What is said when a call to a dependency is not made, or is given up."""

from __future__ import annotations

from typing import ClassVar

from outlive.errors.root import OutliveError


class DependencyError(OutliveError):
    """A call to a dependency was not made, or was given up.

    `facts` name the dependency."""

    code, slug, status, retryable = "OL5600", "dependency-error", 503, True
    remedy = "Try again later; the facts name the dependency."
    counts: ClassVar[bool] = False
    """Whether it says that the dependency is not well."""


class BreakerOpen(DependencyError):
    """A dependency is down, so it was not called.

    Its breaker is open: too many of the last calls failed or were slow, or an operator opened it.
    Nothing was sent. `facts` name the dependency and the seconds until it is tried again
    (`retry_after`)."""

    code, slug = "OL5601", "breaker-open"
    remedy = "Answer without it, or try again after `retry_after` seconds."


class BulkheadFull(DependencyError):
    """Too many calls to a dependency are under way, so it was not called.

    Nothing was sent."""

    code, slug = "OL5602", "bulkhead-full"
    remedy = "Try again after a moment; raise `bulkhead` if the dependency can take more."


class AttemptTooLong(DependencyError):
    """A dependency did not answer in the time an attempt is given.

    What was sent to it may have been done."""

    code, slug, status = "OL5603", "attempt-too-long", 504
    retryable = False
    remedy = "Find out what became of it before you send it again, or send an idempotency key."
    counts = True


class DeadlinePassed(DependencyError):
    """The time for all of the work is over, so no attempt was begun.

    What was sent before may have been done."""

    code, slug, status = "OL5604", "deadline-passed", 504
    retryable = False
    remedy = "Give the work more time, or the attempts less."
