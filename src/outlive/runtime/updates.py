"""Updates as a body takes them: each is asked once and answered once.

    asked = await run.wait_update(change_address, within=86_400)
    if not deliverable(asked.value):
        await asked.refuse("we do not ship there")
    else:
        await asked.answer(await run(book_again, asked.value))

The answer is a record: from its commit on it is what every asker under that key is told, also by
another node and after a crash, and a replay gives it again without asking what the code says now.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from msgspec import Raw

from outlive import codec
from outlive.errors import Discarded
from outlive.kinds.processes import Failure
from outlive.kinds.processes.updates import Update
from outlive.kinds.processes.vocabulary import Answered, wait_for_update

if TYPE_CHECKING:
    from outlive.runtime.run import Run

A = TypeVar("A")
R = TypeVar("R")
REFUSAL_CHARACTERS_MAX = 2000


class Asked(Generic[A, R]):
    """An update that this body has taken, and is to answer."""

    __slots__ = ("_done", "_n", "_run", "_update", "key", "value")

    def __init__(self, run: Run, update: Update[A, R], n: int, value: A, key: str) -> None:
        self._run = run
        self._update = update
        self._n = n
        self._done = False
        self.value = value
        """What is asked."""
        self.key = key
        """The key under which it was asked: it names the answer."""

    async def answer(self, answer: R) -> None:
        """Answer it; durable when this returns. Raises `RuntimeError` when it was answered
        already."""
        raw = Raw(codec.encode(answer))
        self._update.gives.read(raw)  # what no asker could read is not recorded
        await self._tell(Answered(self._n, raw))

    async def refuse(self, why: str | Exception) -> None:
        """Refuse it: whoever asked gets `UpdateRefused` with `why`; durable when this returns.

        `why`: at most 2000 characters; of an exception its type and message.
        """
        kind = "Refused" if isinstance(why, str) else type(why).__name__
        code = getattr(why, "code", "")
        message = getattr(why, "detail", "") or str(why)
        failure = Failure(
            kind, message[:REFUSAL_CHARACTERS_MAX], code if isinstance(code, str) else "", False
        )
        await self._tell(Answered(self._n, error=failure))

    async def _tell(self, answered: Answered) -> None:
        if self._done:
            raise RuntimeError(f"the update {self._update.name} was answered already")
        self._done = True
        activation = self._run._activation
        heard = activation.journal.heard
        assert heard is not None
        known = heard.answers.get(self._n)
        if known is None:
            if activation.shielded:
                raise Discarded  # the body has failed: what it does beside that does not count
            if self._run._course.closed:
                raise asyncio.CancelledError
            if activation.halted:
                activation.check()
            await activation.record(answered)
        elif (known.error is None) != (answered.error is None):
            was = "answered" if known.error is None else "refused"
            await activation.drift(f"the update {self._update.name} is recorded as {was}")


async def wait(run: Run, update: Update[A, R], within: float | None) -> Asked[A, R]:
    """See `Run.wait_update`."""
    declared = run._activation.definition.updates
    if declared.get(update.name) is not update:
        raise ValueError(f"the update {update.name} is not declared for this process: updates=[…]")
    n = await run._take(wait_for_update(update.name), within)
    journal = run._activation.journal
    heard = journal.heard
    assert heard is not None
    key = next(key for (_, key), place in heard.asked.items() if place == n)
    return Asked(run, update, n, update.takes.read(journal.signals[n].payload), key)
