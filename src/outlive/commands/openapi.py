"""`outlive openapi MODULE:APP`: the API's description, from the declarations alone.

No store is opened and nothing is started: it runs in a build, before there is a machine to run on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from outlive.commands.exits import MISUSED, CommandFailed
from outlive.commands.output import document
from outlive.commands.target import Service, behind, load

if TYPE_CHECKING:
    from outlive.app import Outlive


def openapi(target: str, /) -> None:
    """Print an app's OpenAPI document; needs no store.

    Parameters
    ----------
    target
        MODULE:APP, an Outlive or the ASGI app made by one.
    """
    from outlive.web.openapi import document as described

    found = load(target)
    service = found if isinstance(found, Service) else behind(found)
    if service is None:
        raise CommandFailed(f"{target} is an ASGI app of its own, not made by an Outlive", MISUSED)
    document(described(cast("Outlive", service), getattr(found, "_wrapped", None)))
