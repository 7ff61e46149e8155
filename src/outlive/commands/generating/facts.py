"""What a deployment is worked out from: the app's name, its store, and its longest step.

How long a leaving instance gets is reckoned, not guessed:

    longest time limit of a step   ÷ 0.8 (the part of the grace time that steps get)
                                   + 2 s  = --grace-seconds, at least 20 and at most 3600
    + 5 s  until the balancers know that it leaves
    + 10 s for what hangs          = when the platform may kill it

A step without a time limit can last longer than that. It is then cut off, and run again elsewhere
with the same key; the files name such steps.
"""

from __future__ import annotations

import math
import re
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from msgspec import Struct

from outlive.commands.exits import MISUSED, CommandFailed
from outlive.commands.target import service
from outlive.commands.worker import DRAIN_SHARE
from outlive.doors.declared import Declared, declared_by

if TYPE_CHECKING:
    from outlive.app import Outlive

Database = Literal["sqlite", "postgres"]

GRACE_SECONDS_MIN, GRACE_SECONDS_MAX, GRACE_MARGIN_SECONDS = 20, 3600, 2
SETTLE_SECONDS, HANGING_SECONDS = 5, 10
NAME_CHARACTERS_MAX, LABEL_CHARACTERS_MAX = 40, 60
NO_NAMES = frozenset("y n yes no on off true false null".split())
UID = 10_001
STORE = "sqlite:////data/store.db"
ROLE = "outlive"
STEPS_NAMED = 5
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._/:@-]{0,254}\Z")
_VOLUME = re.compile(r"[1-9][0-9]{0,5}[KMGT]i\Z")
_PYTHON = re.compile(r"3\.[0-9]{1,2}\Z")
_FOLDER = re.compile(r"(/[A-Za-z0-9._-]+)+\Z")
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?\Z")


class Asked(Struct, frozen=True):
    """What the command line says; empty or 0: it is worked out."""

    target: str
    database: Database | None = None
    name: str = ""
    image: str = ""
    port: int = 8000
    replicas: int = 2
    volume: str = "10Gi"
    python: str = "3.13"
    folder: str = ""


class Facts(Struct, frozen=True):
    """What the templates are filled with."""

    target: str
    name: str
    image: str
    job: str
    sqlite: bool
    store: str
    role: str
    port: int
    replicas: int
    volume: str
    python: str
    folder: str
    uid: int
    grace_seconds: int
    settle_seconds: int
    stop_seconds: int
    grace_why: str
    requires: str
    """The file that names the packages: requirements.txt, pyproject.toml, or empty."""
    command: list[str]
    migrate: list[str]


def facts_of(asked: Asked, here: Path | None = None) -> Facts:
    """Load the app and work everything out. Raises `CommandFailed` for what cannot be deployed."""
    app = cast("Outlive", service(asked.target))
    address = app.store_address
    if address.startswith("memory:"):
        raise CommandFailed(
            "the app names a store in memory, which no deployment keeps: "
            "leave it out and set OUTLIVE_STORE",
            MISUSED,
        )
    found: Database = "postgres" if address.startswith("postgres") else "sqlite"
    database = asked.database or found
    name = asked.name or name_of(asked.target)
    image = asked.image or f"{name}:latest"
    _demand(asked, name, image)
    declared = declared_by(app)
    grace, why = grace_of(declared)
    if declared.gives_store:
        why += " The app gives its store itself: let it come from OUTLIVE_STORE."
    listen = ["--host", "0.0.0.0", "--port", str(asked.port)]
    return Facts(
        target=asked.target,
        name=name,
        image=image,
        job=_whole_label(f"{name}-migrate-{_tag(image)}"),
        sqlite=database == "sqlite",
        store=STORE,
        role=ROLE,
        port=asked.port,
        replicas=1 if database == "sqlite" else asked.replicas,
        volume=asked.volume,
        python=asked.python,
        folder=asked.folder or f"/opt/{name}",
        uid=UID,
        grace_seconds=grace,
        settle_seconds=SETTLE_SECONDS,
        stop_seconds=grace + SETTLE_SECONDS + HANGING_SECONDS,
        grace_why=why,
        requires=_requires(here or Path.cwd()),
        command=["outlive", "serve", asked.target, *listen, "--grace-seconds", str(grace)],
        migrate=["outlive", "db", "migrate", asked.target],
    )


def grace_of(declared: Declared) -> tuple[int, str]:
    """The grace time in seconds, and why it is that."""
    steps = {step.name: step for each in declared.types for step in each.steps}
    timed = {name: step.timeout for name, step in steps.items() if step.timeout is not None}
    untimed = [name for name, step in steps.items() if step.timeout is None]
    if timed:
        name = max(timed, key=lambda each: timed[each])
        needed = math.ceil(timed[name] / DRAIN_SHARE) + GRACE_MARGIN_SECONDS
        why = f"The longest time limit of a step is {timed[name]:g} s ({name})"
    else:
        needed, why = 0, "No step has a time limit"
    grace = min(GRACE_SECONDS_MAX, max(GRACE_SECONDS_MIN, needed))
    why += f": {grace} s to drain."
    if needed > GRACE_SECONDS_MAX:
        why += " That is the most there is: such a step is cut off, and run again elsewhere."
    if untimed:
        more = "" if len(untimed) <= STEPS_NAMED else f" and {len(untimed) - STEPS_NAMED} more"
        why += f" Without a limit: {', '.join(untimed[:STEPS_NAMED])}{more}."
    return grace, why


def name_of(target: str) -> str:
    """A name for the service, from MODULE:APP: the last telling part of the module's."""
    parts = [part for part in target.partition(":")[0].split(".") if part]
    telling = [part for part in parts if part not in ("app", "main", "service", "web", "asgi")]
    return _label((telling or parts)[-1]) or "service"


def _label(text: str) -> str:
    """`text` as a DNS label: a name that every platform takes."""
    plain = re.sub("[^a-z0-9]+", "-", text.lower())
    return plain.lstrip("-0123456789")[:LABEL_CHARACTERS_MAX].rstrip("-")


def _whole_label(text: str) -> str:
    """`text` as a DNS label that no other text has because both were cut."""
    if len(text) <= LABEL_CHARACTERS_MAX:
        return _label(text)
    check = f"-{sha256(text.encode()).hexdigest()[:8]}"
    return _label(text)[: LABEL_CHARACTERS_MAX - len(check)].rstrip("-") + check


def _tag(image: str) -> str:
    """What tells this image from the last one: its tag, or the start of its digest."""
    last = image.rpartition("/")[2]
    if "@" in last:
        return last.rpartition(":")[2][:12]
    return last.partition(":")[2] or "latest"


def _requires(here: Path) -> str:
    for name in ("requirements.txt", "pyproject.toml"):
        if (here / name).exists():
            return name
    return ""


def _demand(asked: Asked, name: str, image: str) -> None:
    """Raise `CommandFailed` for a word that would break the files it is written into."""
    tries = (
        ("--name", name, _NAME, "a-z, 0-9 and -, beginning with a letter"),
        ("--image", image, _IMAGE, "an image's name with its tag, such as shop:1.4"),
        ("--volume", asked.volume, _VOLUME, "a size such as 10Gi"),
        ("--python", asked.python, _PYTHON, "a version such as 3.13"),
        ("--folder", asked.folder or "/opt/x", _FOLDER, "an absolute path of plain words"),
        ("MODULE:APP", asked.target, re.compile(r"[\w.]+:[\w.]+\Z"), "names and dots"),
    )
    for option, value, pattern, wanted in tries:
        if not pattern.match(value):
            raise CommandFailed(f"{option} {value!r}: it is {wanted}", MISUSED)
    if name in NO_NAMES:
        raise CommandFailed(f"--name {name!r}: YAML takes that for another value", MISUSED)
    if len(name) > NAME_CHARACTERS_MAX:
        raise CommandFailed(f"--name has at most {NAME_CHARACTERS_MAX} characters", MISUSED)
