"""Who hears of which published event: declared beside processes, resolved when it is delivered.

An event is named by its class, so a name stands for one class in one application. A subscriber is a
type of process that is started with the event, or a signal to one that is there:

    start     the newest version that this node declares, once for each event
    signal    the process that `to(event)` names; nobody when that gives None or an empty text
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from outlive.codec import Shape
from outlive.kinds.processes.definition import Definition


class Subscriber(Struct):
    """One that hears of an event: `signal` is empty when a process is started."""

    made: Definition
    signal: str = ""
    to: Callable[[Any], str | None] | None = None

    @property
    def name(self) -> str:
        """What it is called, and told apart by."""
        return f"{self.made.name} signal {self.signal}" if self.signal else self.made.name


class Subscriptions:
    """The subscribers of one application."""

    def __init__(self) -> None:
        self._types: dict[str, type[Any]] = {}
        self._shapes: dict[str, Shape] = {}
        self._of: dict[str, dict[str, Subscriber]] = {}

    def add(self, event: type[Any], subscriber: Subscriber) -> None:
        """From now on `subscriber` hears of `event`; a newer version takes the place of an older.

        Raises `TypeError` when `event` is no class of the caller's, `ValueError` when its name or
        the subscription is taken.
        """
        name = name_of(event)
        if self._types.setdefault(name, event) is not event:
            raise ValueError(f"two classes of events are called {name}; rename one of them")
        self._shapes.setdefault(name, Shape(event))
        known = self._of.setdefault(name, {})
        other = known.get(subscriber.name)
        if other is not None and other.made.version == subscriber.made.version:
            raise ValueError(f"{subscriber.name} is subscribed to {name} already")
        if other is None or other.made.version < subscriber.made.version:
            known[subscriber.name] = subscriber

    def of(self, name: str) -> list[Subscriber]:
        """Who hears of the event called `name`, in the order they were declared."""
        return list(self._of.get(name, {}).values())

    def shape(self, name: str) -> Shape:
        """How the event called `name`, which has a subscriber, is read."""
        return self._shapes[name]


PLAIN = (bool, bytes, dict, float, int, list, set, str, tuple, type(None))


def name_of(event: Any) -> str:
    """What a class of events is called. Raises `TypeError` for what is no class of the caller's."""
    if not isinstance(event, type) or issubclass(event, PLAIN):
        said = getattr(event, "__name__", repr(event))
        raise TypeError(
            f"{said} is no class of events: use a msgspec Struct, a dataclass or a pydantic model"
        )
    return str(event.__name__)
