"""What is said about a request that carries an idempotency key, or should."""

from __future__ import annotations

from outlive.errors.root import OutliveError


class RequestError(OutliveError):
    """The request cannot be taken under its idempotency key.

    It was not carried out."""

    code, slug, status = "OL5100", "request-error", 400


class KeyMissing(RequestError):
    """This request must carry an idempotency key.

    It was not carried out, because a repetition could not be told from a second wish."""

    code, slug, status = "OL5101", "idempotency-key-missing", 400
    remedy = (
        "Send a new value for each wish, and the same one with each repetition: "
        'Idempotency-Key: "order-17".'
    )


class RequestRunning(RequestError):
    """A request with this idempotency key is under way.

    This one was not carried out; the answer of the first will be its answer too."""

    code, slug, status, retryable = "OL5102", "request-running", 409, True
    remedy = "Repeat it with the same key after Retry-After, or wait with Prefer: wait=20."


class RequestUnknown(RequestError):
    """What came of the first request with this idempotency key is not known.

    Whoever carried it out died before it could be recorded. It may have happened, so it is not
    carried out again by itself."""

    code, slug, status = "OL5103", "request-outcome-unknown", 409
    remedy = "Find out whether it has happened; an operator resolves the key (`Requests.resolve`)."


class NotReplayable(RequestError):
    """The request with this idempotency key was completed, and its answer was not kept.

    The answer was streamed, or too large. Nothing was done again."""

    code, slug, status = "OL5104", "answer-not-replayable", 409
    remedy = "Fetch the result itself; where the first answer named its place, `location` says it."


class ClaimLost(RequestError):
    """The claim on this idempotency key belongs to nobody, or to another, by now.

    Its lease ended before the outcome was recorded. Nothing was recorded by this call."""

    code, slug, status = "OL5105", "claim-lost", 409
    remedy = "Look the key up: its record says what is known."


class NoSuchRequest(RequestError):
    """There is no record of this idempotency key.

    It was never used, was released, or is past its retention."""

    code, slug, status = "OL5106", "no-such-request", 404
    remedy = "Check tenant, principal, method, route and key: all of them are part of it."


class NotResolvable(RequestError):
    """The record of this idempotency key is not one that may be resolved or expired.

    It is under way and its lease has not ended, or its outcome is known. Nothing was changed."""

    code, slug, status = "OL5107", "not-resolvable", 409
    remedy = "Wait for its lease to end; what is known is not overwritten."
