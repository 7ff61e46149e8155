"""How every page is made: one set of templates, one policy, and what each page is given.

Every page is whole without JavaScript, and its address says what it shows. htmx fetches the same
page again when something happened and takes the part called `live` out of it, so no page has a
second form. Nothing is loaded from elsewhere and nothing inline is run: `POLICY` says so to the
browser, and every value goes through the templates' escaping.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import jinja2
import msgspec
from msgspec import Struct

from outlive.access import Visitor
from outlive.clock import Clock, rfc3339
from outlive.dashboard.times import ago, duration
from outlive.kinds.processes import FINAL
from outlive.kinds.processes.census import TROUBLED, Census

if TYPE_CHECKING:
    from outlive.app import Outlive

JSON_CHARACTERS_MAX = 20_000
OWNERS_COLOURED = 6
CENSUS_SECONDS = 1.0
"""For so long one census serves every page of this instance."""

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
ASSETS = {
    "outlive.css": "text/css; charset=utf-8",
    "outlive.js": "text/javascript; charset=utf-8",
    "theme.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "htmx.LICENSE": "text/plain; charset=utf-8",
}
NAVIGATION = (
    ("overview", "", "Overview"),
    ("processes", "/processes", "Processes"),
    ("types", "/types", "Types"),
    ("nodes", "/nodes", "Nodes"),
    ("activity", "/activity", "Activity"),
    ("health", "/health", "Health"),
)
"""The pages: name, path below ours, title."""

STATES = (
    ("sessions", "/sessions", "Sessions"),
    ("requests", "/requests", "Requests"),
    ("limits", "/limits", "Limits"),
    ("breakers", "/breakers", "Breakers"),
    ("caches", "/caches", "Caches"),
)
"""The pages of other kinds of state; those stand beside that the application declares."""

_HERE = Path(__file__).parent


class Sight(Struct, frozen=True):
    """Who looks, from where: what every page is rendered for."""

    root: str = ""
    """The prefix that the service is mounted under."""
    path: str = "/outlive"
    query: str = ""
    visitor: Visitor = Visitor("dashboard", "operator")
    seal: str = ""
    """What forms carry (web/signing.py)."""
    base: str = "http://127.0.0.1:8000"
    """Scheme and host as this visitor reaches us, for commands that are copied."""
    signed_in: bool = False
    """Whether there is something to sign out of."""

    @property
    def here(self) -> str:
        """The address of the page."""
        return f"{quote(self.root + self.path)}{'?' if self.query else ''}{self.query}"

    @property
    def home(self) -> str:
        """Where our pages begin."""
        return f"{quote(self.root)}/outlive"


class Desk:
    """What pages are made with: the application, the clock, the templates."""

    def __init__(self, app: Outlive, clock: Clock) -> None:
        self.app = app
        self.clock = clock
        self.assets = {name: (_HERE / "assets" / name).read_bytes() for name in ASSETS}
        self._templates = environment()
        self.stamp = hashlib.blake2b(b"".join(self.assets.values()), digest_size=6).hexdigest()
        self._census: tuple[float, Census] | None = None

    async def census(self) -> Census:
        """How many of what there are; a second old at most."""
        now = self.clock.boot()
        if self._census is None or now - self._census[0] > CENSUS_SECONDS:
            self._census = now, await self.app.census()
        return self._census[1]

    def declares(self, kind: str) -> bool:
        """Whether the application has something of a kind of `STATES`."""
        app = self.app
        if kind == "breakers":
            return bool(app.dependencies)
        if kind == "caches":
            return bool(app.caches)
        return bool(app.declared(kind)) or (kind == "limits" and bool(app.declared("slots")))

    def render(self, template: str, sight: Sight, **context: Any) -> str:
        """A page, for whoever looks."""
        return self._templates.get_template(template).render(
            sight=sight, root=quote(sight.root), home=sight.home, app=self.app,
            now=self.clock.wall(), operates=sight.visitor.operates, stamp=self.stamp,
            states=[state for state in STATES if self.declares(state[0])], **context,
        )  # fmt: skip


@cache
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
    made.filters |= {
        "rfc3339": rfc3339, "duration": duration, "words": words, "node": short_node,
        "plain": plain_time, "bytes": size,
        "count": "{:,}".format, "device": device,
    }  # fmt: skip
    made.globals |= {
        "navigation": NAVIGATION,
        "ago": ago,
        "final": FINAL,
        "troubled": TROUBLED,
        "query": query,
    }
    return made


def query(given: dict[str, str], **changed: Any) -> str:
    """The query of an address, with some of it changed; None takes a part out."""
    merged = {**given, **changed}
    kept = {name: value for name, value in merged.items() if value not in (None, "")}
    return f"?{urlencode(kept)}" if kept else ""


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
    return "no worker" if status == "no_worker_for_version" else status.replace("_", " ")


def size(number: int) -> str:
    """So many bytes as people read them: `812 B`, `3.4 KiB`, `64 MiB`."""
    amount, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:.0f} {unit}"


def device(agent: str) -> str:
    """A browser's long name for itself in the words that tell devices apart: `Firefox on Linux`;
    as it is when nothing in it is known."""
    browser = next((name for mark, name in _BROWSERS if mark in agent), "")
    system = next((name for mark, name in _SYSTEMS if mark in agent), "")
    return f"{browser} on {system}" if browser and system else browser or agent


_BROWSERS = (
    ("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)  # fmt: skip
_SYSTEMS = (
    ("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("Windows", "Windows"),
    ("Mac OS", "Mac"), ("CrOS", "ChromeOS"), ("Linux", "Linux"),
)  # fmt: skip
"""What stands in a browser's name for itself, the more particular before the common."""


def short_node(node: str) -> str:
    """A node's id without the host: its process id and its boot, enough to tell nodes apart."""
    return "-".join(node.split("-")[-2:])


def plain_time(micros: int) -> str:
    """A time in UTC as people write it: `2026-11-22 10:04:41`."""
    return rfc3339(micros)[:19].replace("T", " ")
