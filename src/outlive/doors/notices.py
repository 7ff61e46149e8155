"""Who is told that a process has ended: asked for at its start, looked at, and told once more."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from outlive.doors.telling import Telling
from outlive.errors import NothingToNotify, NotifyRefused
from outlive.kinds.processes import FINAL, Command, Summary, View, summary_of
from outlive.kinds.processes.cells import space_of
from outlive.kinds.processes.redaction import shown
from outlive.kinds.processes.view import notice_view
from outlive.kinds.processes.vocabulary import NOTICE, UNDELIVERED
from outlive.kinds.processes.webhooks import NoticeView, Webhooks, masked

if TYPE_CHECKING:
    from outlive.app import Outlive

UNDELIVERED_MAX = 1000


class Notices(Telling):
    """Telling the outside that a process has ended."""

    webhooks: Webhooks | None = None

    async def notify(self, id: str, *, who: str = "") -> None:
        """Tell the end of a process once more, with all its attempts; durable when this returns.

        The receiver knows it again by its `webhook-id`. Raises `NoSuchProcess`, `ProcessGone`, and
        `NothingToNotify` when it has not ended or nobody is to be told.
        """
        head = await self._head(id)
        made = self._all.get((head.type, head.version))
        named = head.notice is not None or made is None or made.notify
        if head.status not in FINAL or not named:
            raise NothingToNotify(f"Nobody is to be told of {id}, which is {head.status}.")
        await self._tell(Command("notify", id, who=who[:200]))

    async def notice(self, id: str) -> NoticeView:
        """How it stands with telling the end of a process. Raises `NoSuchProcess`, `ProcessGone`,
        and `NothingToNotify` when nobody is to be told."""
        head = await self._head(id)
        if head.notice is not None:
            return notice_view(head.notice)
        made = self._all.get((head.type, head.version))
        if head.status in FINAL or made is None or not made.notify:
            raise NothingToNotify(f"Nobody is to be told of {id}, which is {head.status}.")
        return NoticeView(masked(made.notify), "planned", 0, "", None)

    async def unnotified(self, limit: int = 50) -> list[Summary]:
        """Processes whose end could not be told, the newest first. `limit`: 1 to 1000."""
        if not 1 <= limit <= UNDELIVERED_MAX:
            raise ValueError(f"limit is {limit}; it must be 1 to {UNDELIVERED_MAX}")
        spaces = [space_of(shard) for shard in range(self.store.shards)]
        low, high = f"{UNDELIVERED} ", f"{UNDELIVERED} ~"
        found = await self.store.select(spaces, NOTICE, low, high, limit, newest=True)
        return [summary_of(cell) for _, cell in found]

    def _may_notify(self, url: str) -> str:
        """`url`, if an end may be told there. Raises `NotifyRefused`."""
        if url and self.webhooks is None:
            raise NotifyRefused(
                "This service tells nobody of an end: it has no secret to sign with; "
                "Outlive(webhooks=Webhooks([…]))."
            )
        if url and self.webhooks is not None:
            self.webhooks.target(url)
        return url

    def _describe(self, view: View) -> bytes:
        """The public representation of a process, as GET gives it."""
        from outlive.web.processes import representation

        app = cast("Outlive", self)
        view = shown(view, self._redact) if self._redact else view
        found = next((made.path for made in self._all.values() if made.name == view.type), "")
        path = found or "/outlive/processes"  # one that has no path has its page
        return representation(view, f"{app.public_url}{path}/{view.id}", app.public_url)
