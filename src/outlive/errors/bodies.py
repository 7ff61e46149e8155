"""What the body of a process sees: errors it may catch, and two it must let pass."""

from __future__ import annotations

from typing import Any

from outlive.errors.root import OutliveError


class StepFailed(OutliveError):
    """A step gave up.

    Its attempts are used up, or it raised NonRetryable. The failure is recorded and the step is not
    run again."""

    code, slug = "OL3001", "step-failed"
    remedy = "Catch it to go another way; let it pass to roll the process back."

    def __init__(self, step: str, failure_type: str, message: str, failure_code: str = "") -> None:
        super().__init__(f"step {step} failed: {failure_type}: {message}", step=step)
        self.step = step
        self.failure_type = failure_type
        self.failure_code = failure_code
        self.message = message


class WaitTimeout(OutliveError):
    """No signal came within the time given.

    The time-out is recorded: a signal that comes later does not undo it."""

    code, slug = "OL3002", "wait-timeout"
    remedy = "Catch it to go another way; let it pass to roll the process back."


class NonRetryable(OutliveError):
    """A step refused for a reason that no retry will change.

    Raise it (or a subclass) in a step for a business refusal: the step fails at once."""

    code, slug = "OL3003", "non-retryable"
    remedy = "Not to be retried: change the input."


class Drift(OutliveError):
    """The code no longer matches what the process has recorded.

    The process is paused; nothing was run again and nothing was lost."""

    code, slug = "OL3004", "drift"
    remedy = (
        "Bring the recorded steps back (or start new runs under a new version), then retry "
        "the process."
    )


class DeadlineExceeded(OutliveError):
    """The process had not ended by its deadline.

    It is rolled back: what it had done is undone. Its body is interrupted by Cancelled, and cannot
    go on."""

    code, slug = "OL3005", "deadline-exceeded"
    remedy = "Start it anew, with a later deadline if it needs more time."


class EraNotOver(OutliveError):
    """The era cannot end here.

    `run.again` was called in a branch or a scope, or beside a step, wait or sleep that is under
    way. Nothing was recorded, and the next era has not begun."""

    code, slug = "OL3030", "era-not-over"
    remedy = "Call it in the body itself, when everything that was begun has ended."


class ChildFailed(OutliveError):
    """A child process ended without a result.

    Its end is recorded in its parent; it has undone what it could by itself. `id` names it,
    `outcome` (its final status) and `failure` (as recorded, or None) say how it ended."""

    code, slug = "OL3010", "child-failed"
    remedy = "Catch it to go another way; let it pass to roll the parent back."

    def __init__(self, id: str = "", outcome: str = "failed", failure: Any = None) -> None:
        why = "" if failure is None else f": {failure.type}: {failure.message}"
        super().__init__(f"child {id} ended: {outcome}{why}", child=id)
        self.id = id
        self.outcome = outcome
        self.failure = failure
        self.failure_type: str = "" if failure is None else failure.type


class TooManyChildren(OutliveError):
    """A process has too many children that have not ended.

    The next one was not started."""

    code, slug = "OL3011", "too-many-children"
    remedy = "Await some of them first, use run.all with a limit, or start them detached."


class Cancelled(BaseException):
    """The process was cancelled: what it did is being undone. Let it pass."""


class Discarded(BaseException):
    """This activation was put down: the process sleeps or lives elsewhere. Nothing it does from
    here on counts."""
