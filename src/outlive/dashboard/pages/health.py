"""How this service is set up, and what the doctor says; no secret stands here."""

from __future__ import annotations

import platform
import re
from typing import TYPE_CHECKING

from outlive import __version__
from outlive.dashboard.rendering import STATES
from outlive.dashboard.times import duration

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.dashboard.rendering import Desk, Sight

_SECRET = re.compile(
    r"(?<=://)([^:/?#@]*)(:[^/?#]*)?@|(?<=[?&])([^=&]*(?:pass|secret|sslkey)[^=&]*)=[^&]*"
)


async def health(desk: Desk, sight: Sight, examine: bool = False) -> str:
    """The page; `examine`: with what the doctor finds, which reads the whole store."""
    findings = await desk.app.examine() if examine else None
    return desk.render(
        "health.html", sight, findings=findings, settings=settings_of(desk.app),
        stats=desk.app.stats(), kinds=STATES,
    )  # fmt: skip


def settings_of(app: Outlive) -> list[tuple[str, str]]:
    """What somebody who did not write the service wants to know of it."""
    access = app.access
    if access is None:
        who = "this machine only, as an operator (unless something in front decides)"
    else:
        who = "who has a token" if access.has_tokens else "whom the service logs in"
    kept = round(app.retention_seconds * 1_000_000)
    return [
        ("Store", without_secrets(app.store_address)),
        ("This node", f"{app.node or 'none'}, {app.phase}"),
        ("outlive", f"{__version__} on Python {platform.python_version()}"),
        ("Ended processes are kept", f"{duration(kept)}, unless their type says otherwise"),
        ("Archive", app.archive_folder or "none: what is past its retention is dropped"),
        ("Payloads sealed", "yes" if app.sealed else "no"),
        ("Redacted members", ", ".join(sorted(app.redacts)) or "none"),
        ("Reached from outside at", app.public_url or "not said"),
        ("Ends are told by webhooks", "no" if app.webhooks is None else "yes"),
        ("The dashboard is shown to", who),
    ]


def without_secrets(address: str) -> str:
    """An address without what opens the database."""
    return _SECRET.sub(lambda found: f"{found[3]}=…" if found[3] else f"{found[1]}:…@", address)
