"""The simulation with a planted bug, as a program: what the oracles must see, they see.

    python -m tests.simulation.planted fence --seeds 1-20      nobody compares the epoch
    python -m tests.simulation.planted early --seeds 1-20      the gate opens before the commit

The rest of the line is that of `outlive.testing.simulate`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from outlive.model import Committed
from outlive.runtime.committer import Committer
from outlive.testing import simulate


def without_the_fence() -> None:
    """A commit no longer compares owner and epoch, and no node looks whether it lost a shard."""
    import tests.crash.unfenced  # noqa: F401 - importing plants it


def early() -> None:
    """A start, a signal, a record are answered when they are handed over, not when durable."""
    submit: Any = Committer.submit

    def answered_at_once(self: Committer, batch: Any, *, patient: bool = False) -> Any:
        gate = submit(self, batch, patient=patient)
        gate.add_done_callback(lambda _: gate.cancelled() or gate.exception())
        open_gate: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        now = self._clock.wall()
        open_gate.set_result(Committed(now, tuple(1 for _ in batch.put), 1))
        return open_gate

    Committer.submit = answered_at_once  # type: ignore[method-assign]


PLANTS = {"early": early, "fence": without_the_fence}

if __name__ == "__main__":
    PLANTS[sys.argv[1]]()
    sys.exit(simulate.main(sys.argv[2:]))
