"""Who has asked what, and why: kept with every request that has a name, and read newest first."""

from __future__ import annotations

from outlive import ids
from outlive.clock import MICROS
from outlive.doors.opened import Opened
from outlive.kinds.processes.activity import (
    EXPIRED_MAX,
    KEPT_SECONDS,
    SPACE,
    Noted,
    lines_of,
    noted,
    place_of,
)
from outlive.model import Batch, Put

ACTIVITY_MAX = 200
"""Lines of one page."""


class Activity(Opened):
    """The activity log of an application."""

    async def activity(self, limit: int = 50, cursor: str = "") -> tuple[list[Noted], str]:
        """What was asked by somebody with a name in the last 90 days, newest first, with a cursor
        for what is older (empty: nothing).

        `limit`: 1 to 200.
        """
        limit = max(1, min(limit, ACTIVITY_MAX))
        cells = await self.store.scan(SPACE, cursor, limit + 1)
        return lines_of(cells[:limit]), cells[limit - 1].key if len(cells) > limit else ""

    async def note(self, who: str, verb: str, *, kind: str, what: str, why: str) -> None:
        """Keep that `who` is about to do `verb` to `what`, which is of `kind` and no process.

        Durable when this returns, so ask for the deed behind it: when the process dies in between
        there is a line and no deed, and never a deed without a line. Texts are cut at 200
        characters, `why` at 500.
        """
        line = Noted(
            await self.store.now(), who[:200], verb[:200], what=what[:200], why=why[:500],
            kind=kind,
        )  # fmt: skip
        await self.store.commit(Batch(put=await self._noting(line)))

    async def _noting(self, line: Noted | None) -> tuple[Put, ...]:
        """What a batch puts so that it is noted; takes out what is too old beside."""
        if line is None:
            return ()
        last = place_of(line.at - KEPT_SECONDS * MICROS)
        if old := await self.store.scan(SPACE, last, EXPIRED_MAX):
            await self.store.commit(Batch(drop=tuple(cell.ref for cell in old)))
        return (noted(line, ids.token(40)),)
