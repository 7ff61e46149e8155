"""Exported journals of real processes, replayed on the code under test.

    await replay_journal(Path("journals/order-7.jsonl"), app)     raises `Drifted`

What `outlive process export` wrote of processes that are under way in production stands in a folder
beside the tests, and each test run says whether the code as it is would go on with them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outlive.kinds.processes.difference import Difference
from outlive.kinds.processes.transfer import Exported
from outlive.testing.idleness import Drifted

if TYPE_CHECKING:
    from outlive.app import Outlive

JOURNALS_MAX = 10_000
"""Journals of one folder."""


async def replay_journal(journal: Path | str | bytes | Exported, app: Outlive) -> Difference:
    """Replay an exported journal on the code of `app`, performing nothing.

    `journal`: a file's path, or its text. Raises `Drifted` when the process would not go on, in the
    words of its pause; `BadJournal` when it is none.
    """
    found = await app.diff(journal.read_bytes() if isinstance(journal, Path) else journal)
    if not found.fits:
        what = f"{found.id} ({found.type} v{found.version}, {found.status})"
        raise Drifted(f"{found.verdict}: {what}: {found.detail}")
    return found


def journals_in(folder: Path) -> list[Path]:
    """The exported journals (`*.jsonl`) in `folder`, by name. Raises `ValueError` when there are
    none: a test of nothing would pass."""
    found = sorted(folder.glob("*.jsonl"))
    if not 0 < len(found) <= JOURNALS_MAX:
        raise ValueError(f"{folder} has {len(found)} journals (*.jsonl); 1 to {JOURNALS_MAX}")
    return found


class Replaying:
    """What the fixture `replay_journal` gives: call it with a journal.

    In an asynchronous test await what it gives.
    """

    def __init__(self, app: Outlive) -> None:
        self._app = app
        self._waiting: list[Coroutine[Any, Any, Difference]] = []

    def __call__(self, journal: Path | str | bytes | Exported) -> Any:
        """See `replay_journal`; on the application under test."""
        work = replay_journal(journal, self._app)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(work)
        self._waiting.append(work)
        return work

    def close(self) -> None:
        """Raise `AssertionError` when a call was not awaited: nothing was compared."""
        created = inspect.CORO_CREATED
        forgotten = [w for w in self._waiting if inspect.getcoroutinestate(w) == created]
        for work in forgotten:
            work.close()
        if forgotten:
            raise AssertionError("In an asynchronous test write `await replay_journal(…)`.")
