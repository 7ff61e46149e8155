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

    Nor does it wait for the next attempt of a step, if that was to be made at once. It was left as
    it is."""

    code, slug = "OL2005", "not-stuck"
    remedy = "Read its status; only stuck and paused processes can be retried."


class NotPausable(ProcessError):
    """The process does not go on by itself, so there is nothing to pause.

    It was left as it is."""

    code, slug = "OL2050", "not-pausable"
    remedy = "Read its status; a stuck process waits for a retry, a skip or a cancel."


class NotPaused(ProcessError):
    """The process is not paused, so there is nothing to resume.

    It was left as it is."""

    code, slug = "OL2051", "not-paused"
    remedy = "Read its status; a stuck process is retried, not resumed."


class NothingToSkip(ProcessError):
    """That step does not fail, so it cannot be skipped.

    It was left as it is. A step can be skipped while it is stuck, or between two attempts."""

    code, slug = "OL2052", "nothing-to-skip"
    remedy = "Name one of the steps in the message, or pause or cancel the process instead."


class UnfitValue(ProcessError):
    """The value that was declared does not fit what the step gives.

    Nothing was skipped."""

    code, slug, status = "OL2053", "unfit-value", 422
    remedy = "Give a value of the step's return type, or an error instead of a value."


class NoSuchStep(ProcessError):
    """The process has not recorded such a step.

    Nothing was forked."""

    code, slug = "OL2054", "no-such-step"
    remedy = "Name a step, wait or sleep as the process shows it, such as charge, charge#2."


class NotForkable(ProcessError):
    """The process cannot be forked as it stands.

    It is still under way, a step that would be taken over was undone, or the version is not
    declared. Nothing was forked."""

    code, slug = "OL2055", "not-forkable"
    remedy = "Say that it is to be cancelled, wait for its end, or fork at an earlier step."


class TooLargeToFork(ProcessError):
    """What would be taken over is more than fits into one commit.

    Nothing was forked."""

    code, slug, status = "OL2056", "too-large-to-fork", 413
    remedy = "Fork at an earlier step, or start a new process."


class RollingBack(ProcessError):
    """The process is being rolled back already.

    What was asked would change nothing, and was not done."""

    code, slug = "OL2057", "rolling-back"
    remedy = "Wait for its end."


class PreviewExpired(ProcessError):
    """There is no such preview, or it has expired.

    Nothing was done to any process."""

    code, slug, status = "OL2058", "preview-expired", 410
    remedy = "Ask for a new preview, look at it, and carry it out within the hour."


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


class UpdateNotExpected(ProcessError):
    """This type of process does not take that update.

    It was not kept."""

    code, slug = "OL2060", "update-not-expected"
    remedy = "Use one of the updates the process declares; they are listed in /openapi.json."


class UpdateRefused(ProcessError):
    """The process has refused the update.

    The refusal is recorded: asked again under the same key, it is the same."""

    code, slug = "OL2061", "update-refused"
    remedy = "Read the message; ask for something else under a new key."


class UpdateUnanswered(ProcessError):
    """The process ended without answering the update.

    What it had done about it by then is not known here."""

    code, slug = "OL2062", "update-unanswered"
    remedy = "Read its status and its result."


class NoSuchUpdate(ProcessError):
    """There is no update of that name and key.

    It was never accepted."""

    code, slug, status = "OL2063", "no-such-update", 404
    remedy = "Check the key; take the address from the Location header of the answer."


class NoSuchCallback(ProcessError):
    """There is no such callback.

    The token is wrong, or the process that made it is long past. Nothing was kept."""

    code, slug, status = "OL2064", "no-such-callback", 404
    remedy = "Use the whole address as it was given; tokens cannot be guessed or mended."


class CallbackExpired(ProcessError):
    """Nobody waits for this callback any more.

    Its time is up, or the process that made it has ended. What was sent was not kept."""

    code, slug, status = "OL2065", "callback-expired", 410
    remedy = "Nothing to do: the process has gone on without it."


class CallbackUsed(ProcessError):
    """This callback was used before, with another body.

    The first one counts; this one was not kept."""

    code, slug = "OL2066", "callback-used"
    remedy = "Send what was sent first to be told that it is kept; one callback says one thing."


class NoSuchQuery(ProcessError):
    """This type of process answers no such query.

    Nothing was asked."""

    code, slug, status = "OL2067", "no-such-query", 404
    remedy = "Use one of the queries declared for the process; they are listed in /openapi.json."


class QueryTooSlow(ProcessError):
    """The query did not answer within its time.

    It changes nothing, so nothing is half done."""

    code, slug, status, retryable = "OL2068", "query-too-slow", 503, True
    remedy = "Ask again later; a query only computes from what is recorded, so make it do less."


class NotifyRefused(ProcessError):
    """The end of a process may not be told to that address.

    Nothing was started."""

    code, slug, status = "OL2069", "notify-refused", 422
    remedy = "Give an https address on the public internet, of a host that the service allows."


class NothingToNotify(ProcessError):
    """There is no end of this process to tell anybody.

    It has not ended, or nobody is to be told of it. Nothing was sent."""

    code, slug = "OL3020", "nothing-to-notify"
    remedy = "Give notify= at its start; while it runs, wait for its end."


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


class NoSuchEra(ProcessError):
    """The process has no such era, or keeps it no more.

    Nothing was read."""

    code, slug, status = "OL2070", "no-such-era", 404
    remedy = "Read one of the eras named in the message."


class AlreadyThere(ProcessError):
    """The store has a process with this id already, or had one a while ago.

    Nothing was imported; what is there was left as it is."""

    code, slug = "OL2071", "already-there"
    remedy = "Import it into another store."


class BadJournal(ProcessError):
    """The file is no exported journal, or is not as it was written.

    Nothing was imported."""

    code, slug, status = "OL2072", "bad-journal", 422
    remedy = "Export the process again, with `outlive process export`."


class NothingToExport(ProcessError):
    """The process has not begun: it has no journal.

    Nothing was written."""

    code, slug = "OL2073", "nothing-to-export"
    remedy = "Export it when a node has begun it."


class Draining(ProcessError):
    """This instance is going down and takes no new work.

    Nothing was started."""

    code, slug, status, retryable = "OL2030", "draining", 503, True
    remedy = "Repeat the request; another instance, or this one after its restart, will take it."


class QuotaExceeded(ProcessError):
    """Too many processes wait under this key of a limit (a tenant's, say).

    Nothing was started and no idempotency key was used. Others are not affected."""

    code, slug, status, retryable = "OL2090", "quota-exceeded", 429, True
    remedy = "Repeat the request after the time in Retry-After: some have had their turn then."


class Overloaded(ProcessError):
    """Too much work waits in this instance, or for this type of process.

    Nothing was started."""

    code, slug, status, retryable = "OL2031", "overloaded", 503, True
    remedy = "Repeat the request after the time in Retry-After."
