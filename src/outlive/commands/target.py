"""`MODULE:APP`: finds a service by the name a person types.

APP is an `Outlive`, or anything that speaks ASGI. The current folder is looked into first, as
Python itself does for a script. What goes wrong is said in one line that names the place to mend.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast, runtime_checkable

from outlive.commands.exits import MISUSED, CommandFailed

WRAPPINGS_MAX = 32
"""Layers of middleware that are looked through."""

ASGI = Callable[[Any, Any, Any], Awaitable[None]]


@runtime_checkable
class Service(Protocol):
    """What a command needs of an `Outlive`, so that it can be told from a bare ASGI callable."""

    @property
    def store_address(self) -> str: ...

    @property
    def phase(self) -> str: ...

    def asgi(self) -> ASGI: ...

    async def drain(self, grace_seconds: float = 20.0) -> None: ...


def load(target: str) -> Any:
    """The application that `target` names. Raises `CommandFailed` when there is none."""
    found = named(target)
    if not isinstance(found, Service) and not callable(found):
        kind = type(found).__name__
        raise CommandFailed(f"{target} is a {kind}: neither an Outlive nor an ASGI app", MISUSED)
    return found


def named(target: str) -> Any:
    """The object that `target` names. Raises `CommandFailed` when there is none."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise CommandFailed(
            f"{target!r} does not name an app: write MODULE:APP, as in shop.web:app", MISUSED
        )
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    found: Any = _import(module_name)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise CommandFailed(f"module {module_name} has no {attribute!r}", MISUSED)
        found = getattr(found, name)
    return found


def face(found: Any) -> tuple[ASGI, Service | None]:
    """The ASGI callable of what `load` gave, and the `Outlive` behind it where that is known."""
    if isinstance(found, Service):
        return found.asgi(), found
    return cast(ASGI, found), behind(found)


def behind(found: Any) -> Service | None:
    """The `Outlive` inside an ASGI app, through middleware that names what it wraps `app`."""
    for _ in range(WRAPPINGS_MAX):
        found = getattr(found, "app", None)
        if isinstance(found, Service):
            return found
    return None


def service(target: str) -> Service:
    """The `Outlive` that `target` names or contains. Raises `CommandFailed` when there is none."""
    found = load(target)
    inside = found if isinstance(found, Service) else behind(found)
    if inside is None:
        raise CommandFailed(f"{target} is an ASGI app of its own, not made by an Outlive", MISUSED)
    return inside


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            looked = f"looked in {os.getcwd()} and on Python's path"
            raise CommandFailed(f"there is no module {name!r} ({looked})", MISUSED) from error
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:  # the latter: a script that runs when it is imported
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> CommandFailed:
    """The error of a module that exists but does not load, with the line that raised it."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and "importlib" not in frame.filename
    ]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    message = f"module {name!r} does not load: {type(error).__name__}: {error}{place}"
    return CommandFailed(message, MISUSED)
