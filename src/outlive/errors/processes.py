"""What is said of one process, or of the wish to start one."""

from __future__ import annotations

from outlive.errors.root import OutliveError


class ProcessError(OutliveError):
    """A process could not do what was asked."""

    code, slug, status = "OL2000", "process-error", 409


class NoSuchProcess(ProcessError):
    """There is no such process.

    The id is wrong, or the process and its tombstone are past their retention."""

    code, slug, status = "OL2001", "no-such-process", 404
    remedy = "Check the id; take it from the Location header of the start."


class ProcessGone(ProcessError):
    """The process ended and its record is past its retention."""

    code, slug, status = "OL2002", "process-gone", 410
    remedy = "Nothing to do: the outcome is no longer kept."


class ProcessTerminal(ProcessError):
    """The process has already ended.

    What was asked was not done."""

    code, slug = "OL2003", "process-terminal"
    remedy = "Read its status; start a new process if the work is still wanted."


class PastPivot(ProcessError):
    """The process is past its pivot and only goes forward.

    It was not cancelled and nothing was rolled back."""

    code, slug = "OL2004", "past-pivot"
    remedy = "Let it finish; undo its result by a process of its own."


class NotStuck(ProcessError):
    """The process is neither stuck nor paused, so there is nothing to retry.

    It was left as it is."""

    code, slug = "OL2005", "not-stuck"
    remedy = "Read its status; only stuck and paused processes can be retried."


class SignalNotExpected(ProcessError):
    """This type of process does not take that signal.

    The signal was not kept."""

    code, slug = "OL2010", "signal-not-expected"
    remedy = "Use one of the signals the process declares; they are listed in /openapi.json."


class TooManySignals(ProcessError):
    """Too many signals wait for this process.

    This one was not kept."""

    code, slug, status, retryable = "OL2011", "too-many-signals", 429, True
    remedy = "Wait until the process has taken some of them."


class MalformedInput(ProcessError):
    """The body is not valid JSON.

    Nothing was started and no idempotency key was used."""

    code, slug, status = "OL2020", "malformed-input", 400
    remedy = "Send UTF-8 JSON with Content-Type: application/json."


class InvalidInput(ProcessError):
    """The body does not fit the declared type.

    Nothing was started and no idempotency key was used."""

    code, slug, status = "OL2021", "invalid-input", 422
    remedy = "Correct the field named in the message; the schema is in /openapi.json."


class MalformedKey(ProcessError):
    """The Idempotency-Key header is malformed.

    Nothing was started."""

    code, slug, status = "OL2022", "malformed-key", 400
    remedy = (
        "Send one structured-field string of 1 to 255 characters, such as Idempotency-Key: "
        '"order-17".'
    )


class KeyReused(ProcessError):
    """The idempotency key was used before with another request.

    Nothing was started; the earlier process is untouched."""

    code, slug, status = "OL2023", "key-reused", 422
    remedy = "Use a new key for a new request; repeat the same body to get the first answer."


class TagNotDeclared(ProcessError):
    """The type of process declares no tag of that name.

    Nothing was started, changed or searched."""

    code, slug, status = "OL2080", "tag-not-declared", 400
    remedy = "Use a name from the declaration, or add it there: `@app.process(…, tags=(…))`."


class TagInvalid(ProcessError):
    """A tag's value is not a short text.

    Nothing was started or changed."""

    code, slug, status = "OL2081", "tag-invalid", 422
    remedy = "Give 1 to 128 printable characters, a whole number or a truth value."


class ProcessFailed(ProcessError):
    """A process ended without a result.

    Its status and recorded failure say why; what it had done is rolled back if it declares how."""

    code, slug = "OL2024", "process-failed"
    remedy = "Read its status and its steps."


class Draining(ProcessError):
    """This instance is going down and takes no new work.

    Nothing was started."""

    code, slug, status, retryable = "OL2030", "draining", 503, True
    remedy = "Repeat the request; another instance, or this one after its restart, will take it."


class Overloaded(ProcessError):
    """Too much work waits in this instance.

    Nothing was started."""

    code, slug, status, retryable = "OL2031", "overloaded", 503, True
    remedy = "Repeat the request after the time in Retry-After."
