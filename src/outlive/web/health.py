"""Health: three questions an orchestrator asks, with three different answers.

    /livez      is the loop alive?       200 as long as anybody answers; a failure means: kill me
    /startupz   did start-up end?        200 from then on, also while draining
    /readyz     may requests come here?  200 only while work is taken; 503 with the reason otherwise

A store that is out of reach does not turn /livez red: a restart would not bring it back. Nor does
a store that went back in time: whoever restarts the instance shall have looked what was lost. Both
turn /readyz red; the first, as soon as the node's lease may be over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from outlive.errors import StoreUnavailable
from outlive.web.messages import JSON, Headers, Request, Response
from outlive.web.problems import NotServing

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.web.waiting import Waiting

_NO_STORE = (b"cache-control", b"no-store")

REASONS = {
    "new": "The application was not opened: its life span was not run.",
    "starting": "The application is starting: it opens the store and takes up its work.",
    "draining": "The instance is going down and takes no new work.",
    "stopped": "The application has stopped.",
}


class Health:
    """The handlers of /livez, /readyz and /startupz."""

    def __init__(self, app: Outlive, waiting: Waiting) -> None:
        self._app = app
        self._waiting = waiting

    async def live(self, _: Request) -> Response:
        """`GET /livez`."""
        return self._fine()

    async def ready(self, _: Request) -> Response:
        """`GET /readyz`."""
        phase: str = self._app.phase
        if phase == "ready" and self._waiting.leaving.is_set():
            phase = "draining"
        if phase != "ready":
            raise NotServing(REASONS.get(phase, phase), phase=phase)
        if self._app.lost is not None:
            raise self._app.lost
        if self._app.cut_off:
            raise StoreUnavailable(
                "The store has not answered for so long that others may have taken the work over; "
                "no step begins here until it has."
            )
        return self._fine()

    async def started(self, _: Request) -> Response:
        """`GET /startupz`."""
        phase: str = self._app.phase
        if phase in ("new", "starting"):
            raise NotServing(REASONS[phase], phase=phase)
        return self._fine()

    def _fine(self) -> Response:
        headers: Headers = [JSON, _NO_STORE]
        return Response(
            200, msgspec.json.encode({"status": "ok", "phase": self._app.phase}), headers
        )
