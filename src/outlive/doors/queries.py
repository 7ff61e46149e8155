"""Queries: functions of what is durable about a process, asked on any node.

A query wakes nothing and loads no body: it is given a frozen copy, in a thread of its own. One that
does not answer in its time is left behind in that thread, which counts against the few that there
are, so it cannot stop the others.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from outlive.doors.reading import Reading
from outlive.errors import NoSuchProcess, NoSuchQuery, Overloaded, QueryTooSlow
from outlive.kinds.processes.seen import Query, Seen, seen_of

if TYPE_CHECKING:
    from outlive.app import Outlive

P = ParamSpec("P")
R = TypeVar("R")
QUERIES_MAX = 16
"""Queries that are computed at once in one program."""
QUERY_SECONDS = 1.0


class Queries(Reading):
    """The queries an application answers."""

    _queries: dict[tuple[str, str], Query]
    _query_of: dict[Callable[..., Any], Query]
    _computing: set[threading.Thread]

    def query(
        self,
        name: str | None = None,
        *,
        of: Callable[..., Any],
        limit_seconds: float = QUERY_SECONDS,
    ) -> Callable[[Callable[Concatenate[Seen, P], R]], Callable[Concatenate[Seen, P], R]]:
        """Declare a function that answers a question about processes whose body is `of`.

        `name`: in its address, the function's name when not given. It is plain, gets a `Seen` and
        its parameters, and is pure: what it returns depends on nothing else. `limit_seconds`
        (above 0): how long it may compute. Asked of every version of the process.
        """
        app = cast("Outlive", self)

        def declare(
            function: Callable[Concatenate[Seen, P], R],
        ) -> Callable[Concatenate[Seen, P], R]:
            made = app._bodies.get(of)
            if made is None:
                raise TypeError(f"{of!r} is not declared as a process of this application")
            found = Query(function, name or function.__name__, made.name, limit_seconds)
            if (made.name, found.name) in self._queries:
                raise ValueError(f"query {found.name} of {made.name} is declared twice")
            self._queries[made.name, found.name] = found
            self._query_of[function] = found
            return function

        return declare

    def queries_of(self, type: str) -> Mapping[str, Query]:
        """The queries declared for processes of `type`, by name."""
        return {name: found for (of, name), found in self._queries.items() if of == type}

    async def ask_query(
        self, id: str, query: Callable[..., Any] | str, parameters: Mapping[str, Any]
    ) -> Any:
        """Ask `query`, a declared function or its name; see `Handle.query`. Raises `NoSuchQuery`,
        `NoSuchProcess`, `ProcessGone`, `QueryTooSlow`, `Overloaded`, or what the function
        raises."""
        head = await self._head(id)
        if isinstance(query, str):
            found = self._queries.get((head.type, query))
        else:
            found = self._query_of.get(query)
        if found is None:
            known = ", ".join(self.queries_of(head.type)) or "none"
            raise NoSuchQuery(f"{head.type} answers no such query; it answers: {known}.")
        if found.of != head.type:
            raise NoSuchProcess(f"{id[:64]} is no {found.of}.")
        events = await self.store.events(head.stream)
        made = self._all.get((head.type, head.version))
        seen = seen_of(id, head, events, made)
        return await self._compute(found, seen, parameters)

    async def read_query(self, id: str, name: str, given: Mapping[str, str]) -> Any:
        """Ask the query `name` with the parameters of a query string. Raises as `ask_query`, and
        `InvalidInput` for a parameter that does not fit."""
        head = await self._head(id)
        found = self._queries.get((head.type, name))
        if found is None:
            raise NoSuchQuery(f"{head.type} answers no query {name[:64]!r}.")
        return await self.ask_query(id, name, found.read(given))

    async def _compute(self, query: Query, seen: Seen, parameters: Mapping[str, Any]) -> Any:
        self._computing = {thread for thread in self._computing if thread.is_alive()}
        if len(self._computing) >= QUERIES_MAX:
            raise Overloaded(f"{QUERIES_MAX} queries are being computed; this one was not asked.")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def tell(give: Callable[[Any], None], what: Any) -> None:
            if not answer.done():
                give(what)

        def compute() -> None:
            try:
                result = query.function(seen, **parameters)
            except BaseException as error:  # told to whoever asked
                say = (answer.set_exception, _told(error))
            else:
                say = (answer.set_result, result)
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell, *say)

        thread = threading.Thread(target=compute, name=f"outlive-query-{query.name}", daemon=True)
        self._computing.add(thread)
        thread.start()
        try:
            async with asyncio.timeout(query.limit_seconds):
                return await answer
        except TimeoutError:
            if answer.done() and not answer.cancelled():
                raise  # the function's own
            raise QueryTooSlow(
                f"The query {query.name} took longer than {query.limit_seconds:g} s."
            ) from None


def _told(error: BaseException) -> BaseException:
    """`error` as a future takes it."""
    if isinstance(error, (StopIteration, SystemExit, KeyboardInterrupt)):
        return RuntimeError(f"a query raised {type(error).__name__}")
    return error
