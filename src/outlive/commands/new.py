"""`outlive new NAME`: a small project that runs, with its tests; no questions asked.

    starlette   the processes over HTTP, beside pages of one's own
    fastapi     routes of one's own that start processes
    django      plain views that start processes, without an event loop
    script      no server: a program that may be killed and started again

Each is a few short files, said one by one as they are written. A folder that holds anything is left
alone.
"""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from typing import Literal, get_args

from outlive.commands.exits import FORBIDDEN, MISUSED, CommandFailed
from outlive.commands.generating.files import rendered, write
from outlive.commands.output import lines

Template = Literal["starlette", "fastapi", "django", "script"]

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")
EVERY = {
    "orders.py": "a process: its steps, what undoes them, a signal it waits for",
    "test_orders.py": "its tests: a clock that they move, and a kill at every commit",
    "pytest.ini": "which application the tests mean",
    "requirements.txt": "what to install",
    "README.md": "how to run it, and what to try",
    ".gitignore": "what git leaves alone",
}
OWN: dict[str, dict[str, str]] = {
    "starlette": {
        "app.py": "the service: the process over HTTP, and a page of its own",
        "test_app.py": "the service over HTTP",
    },
    "fastapi": {
        "app.py": "the service: a FastAPI route that starts the process",
        "test_app.py": "the service over HTTP",
    },
    "django": {
        "app.py": "the service: Django and the process together",
        "urls.py": "views that start it, ask for it and let it go",
        "settings.py": "Django's settings",
        "manage.py": "Django's own commands",
        "test_app.py": "the views over HTTP",
    },
    "script": {
        "app.py": "the program: starts the process, waits for its end",
        "test_app.py": "the program, run twice",
    },
}
_TESTS = ("httpx", "pytest", "pytest-asyncio")
REQUIRES = {
    "starlette": ("outlive[fast]", *_TESTS),
    "fastapi": ("outlive[fast,fastapi]", *_TESTS),
    "django": ("outlive[fast]", "django", *_TESTS),
    "script": ("outlive", "pytest", "pytest-asyncio"),
}
_POST = (
    "curl -i http://127.0.0.1:8000{path} -H 'Content-Type: application/json' \\\n     -d '{body}'"
)
_ORDER = '{"article":"tea","cents":300}'
TRY = {
    "starlette": _POST.format(path="/orders", body=_ORDER),
    "fastapi": _POST.format(path="/shop/orders", body=_ORDER),
    "django": _POST.format(path="/shop/orders", body=_ORDER),
    "script": "outlive process list",
}


def new(name: str, /, *, template: Template = "starlette") -> None:
    """Make a small project that runs, with its tests.

    Parameters
    ----------
    name
        The project's name, and the folder that is made for it.
    template
        starlette, fastapi, django or script.
    """
    if template not in get_args(Template):
        raise CommandFailed(f"there is no template {template!r}: {get_args(Template)}", MISUSED)
    _demand(name)
    folder = Path(name)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CommandFailed(f"{folder} is not empty; nothing was written", FORBIDDEN)
    except OSError as error:
        raise CommandFailed(f"{folder} cannot be read: {error.strerror}") from error
    run = "python app.py tea 300" if template == "script" else "outlive dev app:service"
    facts = {
        "name": name,
        "run": run,
        "try": TRY[template],
        "requires": REQUIRES[template],
        "target": "orders:app",
    }
    told = {**OWN[template], **EVERY}
    files = {
        file: rendered(f"new/{template if file in OWN[template] else 'every'}/{_kept(file)}", facts)
        for file in told
    }
    width = max(map(len, told)) + len(name) + 3
    for path, what in zip(write(folder, files, force=False), told.values(), strict=True):
        lines((f"{path.ljust(width)}{what}",))
    lines((f"\ncd {name} && {run}",))


def _kept(file: str) -> str:
    """Under which name a file's template lies: no hidden files among the package's."""
    return f"{file.removeprefix('.')}.jinja"


def _demand(name: str) -> None:
    """Raise `CommandFailed` for a name that would not do."""
    if not NAME.match(name):
        raise CommandFailed(
            f"{name!r} is no name for a project: letters, digits, _ and -, beginning with a "
            "letter, at most 64",
            MISUSED,
        )
    plain = name.lower().replace("-", "_")
    if keyword.iskeyword(plain) or plain in sys.stdlib_module_names or plain == "outlive":
        raise CommandFailed(f"{name!r} is taken: Python or outlive has a module of it", MISUSED)
