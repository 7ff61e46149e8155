"""Files that a command makes: none over another one unless that is asked for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from errno import EISDIR
from pathlib import Path
from typing import Any

from outlive.commands.exits import FORBIDDEN, CommandFailed


def rendered(template: str, facts: Mapping[str, Any]) -> str:
    """A template below commands/templates, filled in; a fact that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # What is made is no page: it is read by programs that know no HTML, and quoted for them.
    made = Environment(
        loader=PackageLoader("outlive.commands"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    made.filters["tojson"] = _json
    return made.get_template(template).render(facts)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def write(folder: Path, files: Mapping[str, str], *, force: bool) -> Iterator[str]:
    """Write `files` below `folder`; gives a line for each. Raises `CommandFailed` before anything
    is written when one is there and `force` is not given.

    All are written beside their places before the first is put there: a full disk or a kill leaves
    what was there as it was."""
    there = [name for name in files if os.path.lexists(folder / name)]
    if there and not force:
        raise CommandFailed(
            f"{folder / there[0]} is there already; nothing was written (--force writes over it)",
            FORBIDDEN,
        )
    beside: dict[Path, Path] = {}
    path = folder
    try:
        for name, text in files.items():
            path = folder / name
            if path.is_dir():
                raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
            place = path.resolve()  # a link stays one
            place.parent.mkdir(parents=True, exist_ok=True)
            beside[path] = place.with_name(f".{place.name}.new")
            beside[path].write_text(text, "utf-8")
            if place.exists():
                shutil.copymode(place, beside[path])
        for path, new in beside.items():
            new.replace(path.resolve())
    except OSError as error:
        raise CommandFailed(f"{path} cannot be written: {error.strerror}") from error
    finally:
        for new in beside.values():
            with suppress(OSError):
                new.unlink(missing_ok=True)
    yield from map(str, beside)
