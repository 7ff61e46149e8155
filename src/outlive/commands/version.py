"""`outlive version`: what a report of a defect should begin with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from outlive.commands.output import Format, document, lines


def version(*, output: Format = "text") -> None:
    """Print the versions that matter in a report."""
    import apsw

    found = {
        "outlive": release("outlive"),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "apsw": apsw.apsw_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    if output == "json":
        document(found)
    else:
        lines(f"{name:<8} {what}" for name, what in found.items())


def release(package: str) -> str:
    """The installed release of a package; `source` for one that runs from its source tree."""
    try:
        return installed(package)
    except PackageNotFoundError:
        return "source"
