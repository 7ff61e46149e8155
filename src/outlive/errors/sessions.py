"""What is said about a session: that it has ended, or that something could not be kept in it."""

from __future__ import annotations

from outlive.errors.root import OutliveError


class SessionError(OutliveError):
    """The session cannot be used as asked.

    Nothing was written to it."""

    code, slug, status = "OL5000", "session-error", 400


class SessionExpired(SessionError):
    """The session has ended.

    It was signed out (here, elsewhere, or by its clocks) while this request was under way. Nothing
    of what the request put into it was kept."""

    code, slug, status = "OL5001", "session-expired", 401
    remedy = "Sign in again."


class SessionChanged(SessionError):
    """Another request has changed the same attribute of the session.

    Nothing of what this request put into it was kept."""

    code, slug, status, retryable = "OL5002", "session-changed", 409, True
    remedy = "Repeat the request: it will see what the other one has written."


class SessionTooLarge(SessionError):
    """More was put into the session than it can keep.

    A browser drops a cookie above 4096 bytes in silence, so it was not sent; a session in the store
    has a limit too. Nothing was written."""

    code, slug, status = "OL5003", "session-too-large", 500
    remedy = "Keep an id in the session and the rest in a table of your own."


class SessionReadOnly(SessionError):
    """A session cannot be changed from here.

    A web socket has no response that could carry a cookie. Nothing was written."""

    code, slug, status = "OL5004", "session-read-only", 500
    remedy = "Change the session in an HTTP request."
