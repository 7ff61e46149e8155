"""`outlive openapi MODULE:APP`: the API's description, from the declarations alone.

No store is opened and nothing is started: it runs in a build, before there is a machine to run on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from outlive.commands.output import document
from outlive.commands.target import load, service

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

    app, found = cast("Outlive", service(target)), load(target)
    document(described(app, getattr(found, "wrapped", None)))
