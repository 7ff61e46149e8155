"""Events between processes: who subscribes, what is published from outside, what did not arrive.

@app.on(OrderPlaced)                        above a declared process: one is started per event
@app.on(OrderPaid, signal="paid", to=lambda event: event.order)
                                            …or one that is there gets a signal

await app.publish(OrderPlaced("17"))        from outside; in a body: `await run.publish(…)`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from outlive.doors.opened import Opened
from outlive.errors import Draining
from outlive.kinds.processes.redaction import masked
from outlive.kinds.processes.subscriptions import Subscriber
from outlive.kinds.processes.undelivered import UNDELIVERED, Undelivered, read_undelivered
from outlive.model import Batch

if TYPE_CHECKING:
    from outlive.kinds.processes import Definition
    from outlive.kinds.processes.subscriptions import Subscriptions

F = TypeVar("F", bound=Callable[..., Any])
E = TypeVar("E")


class Publishing(Opened):
    """The events of an application."""

    _bodies: dict[Callable[..., Any], Definition]
    _subscriptions: Subscriptions
    _phase: Any

    def on(
        self,
        event: type[E],
        *,
        signal: str = "",
        to: Callable[[E], str | None] | None = None,
    ) -> Callable[[F], F]:
        """Subscribe a declared process (write it above `@app.process`) to a class of events.

        Without `signal` one process is started for each event, with the event as its input. With it
        the process of this type that `to(event)` names (its public id; None: nobody) gets the event
        as that signal. Events are told apart by the name of their class. Raises `TypeError` for a
        body that is not declared yet or a class that cannot be an event, `ValueError` for a
        subscription or name that is taken.
        """

        def subscribe(body: F) -> F:
            made = self._bodies.get(body)
            if made is None:
                raise TypeError(f"{body!r} is not declared: write @app.on above @app.process")
            if bool(signal) is not (to is not None):
                raise TypeError("signal= and to= go together: which signal, and to which process")
            if signal and made.signals is not None and signal not in made.signals:
                raise ValueError(f"{made.name} takes no signal {signal!r}")
            self._subscriptions.add(event, Subscriber(made, signal, to))
            return body

        return subscribe

    async def publish(self, event: Any) -> str:
        """Publish an event to whoever subscribes; durable when this returns its id.

        `event`: a Struct, dataclass or pydantic model, at most 64 KiB as JSON. Each subscriber
        hears of it once. Raises `TypeError`, `ValueError`, `Draining`, or what the store raises.
        Repeated, it is another event.
        """
        from outlive.runtime.publications import letter

        if self._phase not in ("ready", "new"):
            raise Draining(f"This instance is {self._phase}; nothing was published.")
        id, put = letter(event, self.store.shards, await self.store.now())
        await self.store.commit(Batch(put=(put,)))
        return id

    async def undelivered(self, limit: int = 100) -> list[Undelivered]:
        """What published events could not do, by event: whom they did not reach, and why.

        `limit`: 1 to 1000. Kept as long as an ended process. Without what is redacted.
        """
        if not 1 <= limit <= 1000:
            raise ValueError(f"limit is {limit}; it must be 1 to 1000")
        cells = await self.store.scan(UNDELIVERED, limit=limit)
        found = [read_undelivered(cell.value) for cell in cells]
        names = self._redact
        return [replace(one, payload=masked(one.payload, names)) for one in found]
