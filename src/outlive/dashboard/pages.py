"""The pages under /outlive, as text: what goes on here, one process live, what a problem means.

Every page is whole without JavaScript. The script only fetches the part that changes (a *fragment*)
when something happened, and nothing else on the page moves. Nothing is loaded from elsewhere and
nothing inline is run: `POLICY` says so to the browser.

Who may see a page, its status and its header fields are `web/pages.py`'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import jinja2
import msgspec

from outlive.clock import Clock, rfc3339
from outlive.dashboard.timeline import is_takeover, timeline
from outlive.dashboard.times import ago, duration
from outlive.kinds.processes import FINAL, STATUSES

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.errors import OutliveError

HOLDS_SHOWN = 8
ENTRIES_SHOWN_MAX = 500
JSON_CHARACTERS_MAX = 20_000
OWNERS_COLOURED = 6

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
ASSETS = {"outlive.css": "text/css; charset=utf-8", "outlive.js": "text/javascript; charset=utf-8"}
DONE = {
    "signal": "The signal is durable; the process takes it when it waits for it.",
    "cancel": "The cancellation is durable; what was done is being undone.",
    "retry": "The process goes on.",
}
"""What a page says after an action, by the name of the action."""

_HERE = Path(__file__).parent


class Asked(msgspec.Struct, frozen=True):
    """What the overview is asked for: filters, and where to go on."""

    status: str | None = None
    type: str | None = None
    limit: int = 50
    cursor: str = ""


class Pages:
    """Renders every page; `root` is the prefix the service is mounted under."""

    def __init__(self, app: Outlive, clock: Clock, kinds_of_events: Iterable[str] = ()) -> None:
        self._app = app
        self._clock = clock
        self._kinds = " ".join(sorted({"end", *kinds_of_events}))
        self._templates = environment()
        self.assets = {name: (_HERE / "assets" / name).read_bytes() for name in ASSETS}

    async def overview(
        self,
        root: str,
        asked: Asked,
        lessons: Callable[[], list[str]] = list,
        *,
        fragment: bool = False,
    ) -> str:
        """The list of processes and who serves them; `lessons` are commands for an empty one."""
        items, cursor = await self._app.processes(
            status=asked.status, type=asked.type, limit=asked.limit, cursor=asked.cursor
        )
        nodes, shards = await self._app.nodes(), await self._app.shards()
        owners = [node.id for node in nodes]
        more = {"status": asked.status, "type": asked.type, "cursor": cursor}
        return self._render(
            "list.html" if fragment else "overview.html",
            root,
            items=items,
            counts=sorted(Counter(item.status for item in items).items(), key=by_status),
            more=f"?{urlencode({k: v for k, v in more.items() if v})}" if cursor else "",
            first=not asked.cursor,
            status=asked.status or "",
            type=asked.type or "",
            types=sorted(self._app.definitions),
            statuses=STATUSES,
            nodes=nodes,
            shards=[(shard, colour(shard.owner, owners)) for shard in shards],
            colours={owner: colour(owner, owners) for owner in owners},
            holds=await self._app.holds(limit=HOLDS_SHOWN),
            lessons=[] if items else lessons(),
        )

    async def process(
        self,
        root: str,
        id: str,
        *,
        fragment: bool = False,
        refusal: OutliveError | None = None,
        done: str = "",
    ) -> str:
        """One process. `refusal` is why the last action was not done, `done` which one was.

        Raises `NoSuchProcess` and `ProcessGone`.
        """
        view = await self._app.view(id)
        entries = await self._app.journal(id)
        definition = self._app.definitions.get(view.type)
        events = f"{quote(root + definition.path)}/{quote(view.id)}" if definition else ""
        return self._render(
            "live.html" if fragment else "process.html",
            root,
            view=view,
            final=view.status in FINAL,
            timeline=timeline(view, self._clock.wall()),
            takeovers=[past for past in view.history if is_takeover(past)],
            entries=list(reversed(entries[-ENTRIES_SHOWN_MAX:])),
            hidden_entries=max(0, len(entries) - ENTRIES_SHOWN_MAX),
            data=pretty(view.data),
            result=None if view.result is None else pretty(view.result),
            events=events,
            kinds=self._kinds,
            signals=list(definition.signals or ()) if definition else [],
            refusal=refusal,
            done=DONE.get(done, ""),
        )

    def problem(self, root: str, kind: type[OutliveError]) -> str:
        """What one kind of problem means and what to do."""
        told = (kind.__doc__ or "").strip().split("\n\n")[1:]
        paragraphs = [" ".join(text.split()) for text in told]
        return self._render("problem.html", root, kind=kind, paragraphs=paragraphs)

    def problems(self, root: str, kinds: Iterable[type[OutliveError]]) -> str:
        """The list of every kind of problem."""
        return self._render("problems.html", root, kinds=sorted(kinds, key=lambda kind: kind.code))

    def _render(self, template: str, root: str, **context: Any) -> str:
        return self._templates.get_template(template).render(
            root=quote(root), app=self._app, now=self._clock.wall(), **context
        )


def environment() -> jinja2.Environment:
    """The templates, escaping everything they are given."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"rfc3339": rfc3339, "duration": duration, "words": words, "node": short_node}
    made.globals |= {"ago": ago}
    return made


def by_status(pair: tuple[str, int]) -> int:
    """The order of statuses: that of their declaration."""
    return STATUSES.index(pair[0]) if pair[0] in STATUSES else len(STATUSES)


def colour(owner: str, owners: list[str]) -> str:
    """A class for a shard's owner; `none`: it has none, `gone`: its node is not there."""
    if not owner:
        return "none"
    return str(owners.index(owner) % OWNERS_COLOURED) if owner in owners else "gone"


def pretty(value: msgspec.Raw) -> str:
    """Stored JSON, indented, up to a length a page can bear."""
    text = bytes(value) or b"null"
    shown = msgspec.json.format(text, indent=2).decode()
    if len(shown) <= JSON_CHARACTERS_MAX:
        return shown
    return f"{shown[:JSON_CHARACTERS_MAX]}\n… {len(shown) - JSON_CHARACTERS_MAX} characters more"


def words(status: str) -> str:
    """A status in words."""
    return status.replace("_", " ")


def short_node(node: str) -> str:
    """A node's id without the host: its process id and its boot, enough to tell nodes apart."""
    return "-".join(node.split("-")[-2:])
