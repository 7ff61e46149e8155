"""What a rate limit says when it refuses, to code that wants an exception."""

from __future__ import annotations

from outlive.errors.root import OutliveError


class RateLimited(OutliveError):
    """More was asked than a rate limit allows.

    Nothing was done, and nothing of the limit was used by this call."""

    code, slug, status, retryable = "OL6001", "rate-limited", 429, True
    remedy = "Repeat the request after the time in Retry-After."


class NoSlot(RateLimited):
    """As many as may be are at it already.

    Nothing was done. A slot is free when one of them ends, or its lease does."""

    code, slug = "OL6002", "no-slot"
    remedy = "Repeat the request after the time in Retry-After; a slot may be free before."
