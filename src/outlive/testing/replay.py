"""Out of memory on purpose: what comes next must replay the body from the journal.

A body that does not ask for the same at every run (chance, the wall clock, a set's order) is
found out by its first replay, which in production may be weeks away. `AlwaysReplay` makes it
happen after every record: the body ends at its next durable call and is run again from the start.
A step that runs beside it (`gather`) is not disturbed: it is replayed after that one's record.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from outlive.testing.idleness import Drifted

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.runtime.activation import Activation
    from outlive.runtime.node import NodeRuntime


async def put_out(runtime: NodeRuntime, activation: Activation) -> None:
    """Put `activation`, which waits, out of memory; it goes on at once if it is to run."""
    task = activation.task
    activation.leaving = True
    activation.drain()
    if task is not None:
        await asyncio.wait({task})
    if activation.head.status in ("running", "compensating"):
        runtime.activations.revive(activation.id)


class AlwaysReplay:
    """Replays every process of a node after each of its records."""

    def __init__(self, runtime: NodeRuntime) -> None:
        self._activations = runtime.activations
        self._tell = runtime.activations.tell
        self._paused: set[str] = set()
        runtime.activations.tell = self._told

    def _told(self, id: str) -> None:
        """Something of `id` is durable: from its next call on it is another activation."""
        self._tell(id)
        activation = self._activations.live.get(id)
        if activation is None or activation.leaving or activation.gone:
            return
        if activation.head.status == "paused":
            self._paused.add(id)
        elif activation.task is not None and not activation.interrupts:
            activation.leaving = activation.halted = True
            activation.task.add_done_callback(lambda _: self._activations.revive(id))

    async def demand_no_drift(self, app: Outlive) -> None:
        """Raise `Drifted` for the first process whose body asked for something else when it was
        replayed."""
        while self._paused:
            id = self._paused.pop()
            last = (await app.journal(id))[-1]
            if last.kind == "paused" and last.text.startswith("paused: drift"):
                view = await app.view(id)
                raise Drifted(f"The body of {view.type} is not deterministic. {id} {last.text}")
