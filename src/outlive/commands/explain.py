"""`outlive explain CODE`: what an error means, what was and was not done, and what to do.

The text is the docstring of the error's class, so it cannot differ from what the code does. The
errors that only HTTP knows are in the same tree and listed with the others.
"""

from __future__ import annotations

import difflib
import importlib
import inspect

from outlive import errors
from outlive.commands.exits import NOT_FOUND, CommandFailed
from outlive.commands.listing import Listing, listed
from outlive.commands.options import ListFormat
from outlive.commands.output import document, lines

NEAREST_MAX = 3
"""Suggestions for a code that does not exist."""


def explain(code: str | None = None, /, *, output: ListFormat = "table") -> None:
    """Explain an error code, or list them all.

    Parameters
    ----------
    code
        A code such as OL2004, or its name, such as past-pivot.
    """
    known = catalogue()
    if code is None:
        _list(known, output)
        return
    wanted = code.strip().lower()
    for error in known:
        if wanted in (error.code.lower(), error.slug):
            _show(error, output)
            return
    names = [name for error in known for name in (error.slug, error.code.lower())]
    near = difflib.get_close_matches(wanted, names, NEAREST_MAX, 0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; `outlive explain` lists them all"
    raise CommandFailed(f"there is no error {code!r}{hint}", NOT_FOUND)


def catalogue() -> list[type[errors.OutliveError]]:
    """Every error of outlive with a code of its own, those of HTTP included, by code."""
    # Its errors join the tree when it is loaded.
    importlib.import_module("outlive.web.problems")
    found: dict[str, type[errors.OutliveError]] = {}
    for error in errors.catalogue():
        if error.__module__.startswith("outlive."):
            found.setdefault(error.code, error)
    return [found[code] for code in sorted(found)]


def meaning(error: type[errors.OutliveError]) -> str:
    """What the docstring says after its title, each paragraph on one line."""
    _, _, rest = inspect.cleandoc(error.__doc__ or "").partition("\n")
    return "\n\n".join(" ".join(part.split()) for part in rest.split("\n\n") if part.strip())


def _document(error: type[errors.OutliveError]) -> dict[str, object]:
    return {
        "code": error.code,
        "name": error.slug,
        "title": error.title(),
        "meaning": meaning(error),
        "remedy": error.remedy,
        "status": error.status,
        "retryable": error.retryable,
    }


def _list(known: list[type[errors.OutliveError]], output: str) -> None:
    rows = [(error.code, error.slug, error.title()) for error in known]
    codes, things = [error.code for error in known], [_document(error) for error in known]
    listed(Listing(("code", "name", "what happened"), rows, codes, things), output)


def _show(error: type[errors.OutliveError], output: str) -> None:
    if output == "json":
        document(_document(error))
        return
    retry = "safe to retry" if error.retryable else "not to be retried as it is"
    lines(
        (
            f"{error.code} {error.slug} · {error.title()}",
            *(("", meaning(error)) if meaning(error) else ()),
            "",
            f"What to do: {error.remedy}",
            f"Over HTTP:  {error.status}, {retry}",
        )
    )
