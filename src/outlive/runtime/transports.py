"""An `httpx` transport whose requests are guarded: breaker, retry, bulkhead, deadline.

    client = httpx.AsyncClient(transport=payments.transport())

What counts is the answer's end, not its beginning: a body that breaks off is a failure, and a call
is under way until its body was read or closed. 5xx, 408, 425 and 429 are failures; other 4xx say
that the dependency is well. What may be sent twice is retried: an idempotent method, or a request
with an `Idempotency-Key`, and only with a body that can be sent again. The next service is told how
much time is left and that this one retries, so that layers do not multiply.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx

from outlive.kinds.breakers.rule import is_failed_status, is_failure
from outlive.runtime.deadlines import outgoing
from outlive.runtime.dependencies import Call, Plan

if TYPE_CHECKING:
    from outlive.runtime.dependencies import Dependency

IDEMPOTENT = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"))


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends requests by `inner`, guarded as calls to `dependency`; see `Dependency.transport`."""

    def __init__(
        self,
        dependency: Dependency,
        inner: httpx.AsyncBaseTransport | None = None,
        *,
        per_host: bool = True,
    ) -> None:
        self._dependency = dependency
        self._inner = inner if inner is not None else httpx.AsyncHTTPTransport()
        self._per_host = per_host

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises what `inner` raises, `BreakerOpen`, `BulkheadFull`, `AttemptTooLong` and
        `DeadlinePassed`. After the last try a failed answer is given back as it is."""
        dependency = self._dependency
        part = dependency.part(request.url.netloc.decode("ascii") if self._per_host else "")

        async def send() -> httpx.Response:
            headers = request.headers.copy()
            headers.update(outgoing(dependency.clock))
            sent = httpx.Request(
                request.method,
                request.url,
                headers=headers,
                stream=request.stream,
                extensions=request.extensions,
            )
            return await self._inner.handle_async_request(sent)

        repeatable = request.method in IDEMPOTENT or "idempotency-key" in request.headers
        plan = Plan(
            idempotent=repeatable and isinstance(request.stream, httpx.ByteStream),
            failed=_failed,
            failed_result=_failed_answer,
            hold=_held,
            discard=httpx.Response.aclose,
        )
        response: httpx.Response = await dependency.carry(part, plan, send)
        return response

    async def aclose(self) -> None:
        """Close `inner`."""
        await self._inner.aclose()


def _failed(error: Exception) -> bool:
    return not isinstance(error, httpx.UnsupportedProtocol) and is_failure(error)


def _failed_answer(response: httpx.Response) -> bool:
    return is_failed_status(response.status_code)


def _held(response: httpx.Response, call: Call) -> httpx.Response:
    """`response`, whose end is the end of the call."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    response.stream = _Held(response.stream, call)
    return response


class _Held(httpx.AsyncByteStream):
    """A body that is being read: the call ends with it."""

    def __init__(self, stream: httpx.AsyncByteStream, call: Call) -> None:
        self._stream = stream
        self._call = call

    async def __aiter__(self) -> AsyncIterator[bytes]:
        ends = self._call.permit.ends
        try:
            chunks = aiter(self._stream)
            while True:
                try:
                    async with asyncio.timeout(self._call.left() if ends else None):
                        chunk = await anext(chunks)
                except StopAsyncIteration:
                    break
                yield chunk
        except Exception:
            self._call.badly()
            raise
        self._call.well()

    async def aclose(self) -> None:
        """Closed before its end: it says nothing about the dependency."""
        try:
            await self._stream.aclose()
        finally:
            self._call.forget()
