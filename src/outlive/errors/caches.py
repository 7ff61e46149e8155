"""What is said when a cache cannot give a value."""

from __future__ import annotations

from outlive.errors.root import OutliveError


class LoadTooLong(OutliveError):
    """A value was not loaded in the time that a load is given.

    Nothing was kept. Another instance may still be loading it."""

    code, slug, status, retryable = "OL5701", "load-too-long", 504, True
    remedy = "Try again; raise `load_seconds` if the source needs longer."


class NotCacheable(OutliveError):
    """This cannot be a cache's key, or a cache of this class cannot be used so.

    Nothing was read and nothing was kept."""

    code, slug = "OL5702", "not-cacheable"
    remedy = "Give the key as text and integers; use an `exact` cache for what decides."
