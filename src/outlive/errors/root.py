"""What every error is: a code that never changes, what happened, and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar


class OutliveError(Exception):
    """Something went wrong in outlive."""

    code: ClassVar[str] = "OL0000"
    slug: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    remedy: ClassVar[str] = "Read the message; if it does not help, report it with the trace id."

    def __init__(self, detail: str = "", **facts: Any) -> None:
        self.detail = detail or self.title()
        self.facts = facts
        super().__init__(self.detail)

    @classmethod
    def title(cls) -> str:
        """The first line of the docstring, without its full stop."""
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".")

    def __str__(self) -> str:
        return f"{self.detail} [{self.code}] {self.remedy}"


class InEventLoop(OutliveError):
    """The synchronous face was called inside an event loop.

    It would wait for an answer and stop everything else in that loop, perhaps for ever. Nothing was
    done."""

    code, slug = "OL0010", "in-event-loop"
    remedy = "Use the asynchronous calls there: `await app.start(…)` instead of `client.start(…)`."


class NoSuchState(OutliveError):
    """There is nothing kept under this name.

    It was never there, or its time is over. Nothing was changed."""

    code, slug, status = "OL0020", "no-such-state", 404
    remedy = "List what is there (`outlive session list`, `limit list`, …) and name one of those."


def catalogue() -> Iterator[type[OutliveError]]:
    """Every error class, parents first."""
    stack: list[type[OutliveError]] = [OutliveError]
    while stack:
        found = stack.pop(0)
        yield found
        stack.extend(found.__subclasses__())
