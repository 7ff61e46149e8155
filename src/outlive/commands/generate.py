"""`outlive generate`: the files of a deployment, worked out from the app itself.

    compose      one host: compose.yaml, Dockerfile; with PostgreSQL its database and migrations
    k8s          SQLite: a StatefulSet of one with its volume; PostgreSQL: a Deployment, a Job that
                 migrates, a disruption budget
    systemd      a unit for one host without containers
    dockerfile   grafana   alerts       each for itself

Printed unless `-o` names a folder. Secrets are referred to, never written. Everything runs as a
user without rights on a file system that is read only. How long an instance gets to leave is
reckoned from the longest time limit of a step (generating/facts.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from cyclopts import Parameter, validators

from outlive.commands.exits import MISUSED, CommandFailed
from outlive.commands.generating.facts import Asked, Database, Facts, facts_of
from outlive.commands.generating.files import rendered, write
from outlive.commands.generating.grafana import dashboard
from outlive.commands.generating.watching import ALERTS, for_job
from outlive.commands.output import lines

What = Literal["compose", "k8s", "systemd", "dockerfile", "grafana", "alerts"]
REPLICAS_MAX = 100

Folder = Annotated[Path | None, Parameter(name=["--output", "-o"])]
Force = Annotated[bool, Parameter(negative="")]
Port = Annotated[int, Parameter(validator=validators.Number(gte=1024, lte=65535))]
Replicas = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=REPLICAS_MAX))]


def generate(
    what: What,
    target: str,
    /,
    *,
    output: Folder = None,
    force: Force = False,
    database: Database | None = None,
    name: str = "",
    image: str = "",
    port: Port = 8000,
    replicas: Replicas = 2,
    volume: str = "10Gi",
    python: str = "3.13",
    folder: str = "",
) -> None:
    """Write the files of a deployment, worked out from the app.

    Parameters
    ----------
    what
        compose, k8s, systemd, dockerfile, grafana or alerts.
    target
        MODULE:APP, an Outlive or an ASGI app with one in it.
    output
        The folder that the files are written to; without it they are printed.
    force
        Write over files that are there.
    database
        sqlite or postgres; otherwise what the app or OUTLIVE_STORE names.
    name
        The service's name; otherwise the module's.
    image
        The container image; otherwise NAME:latest.
    port
        The port it listens on (1024 to 65535).
    replicas
        How many instances, on PostgreSQL (1 to 100).
    volume
        The size of the volume, on SQLite.
    python
        The version of Python in the image.
    folder
        Where the service is installed, for systemd; otherwise /opt/NAME.
    """
    if what not in get_args(What):
        raise CommandFailed(f"{what!r} cannot be generated: one of {get_args(What)}", MISUSED)
    asked = Asked(target, database, name, image, port, replicas, volume, python, folder)
    files = files_of(what, facts_of(asked))
    if output is not None:
        lines(write(output, files, force=force))
        return
    for number, (file, text) in enumerate(files.items()):
        if len(files) > 1:
            sys.stdout.write(f"{chr(10) * bool(number)}# --- {file}\n")
        sys.stdout.write(text)


def files_of(what: What, facts: Facts) -> dict[str, str]:
    """The files of one kind of deployment, by name."""
    told = msgspec.structs.asdict(facts)

    def made(template: str) -> str:
        return rendered(f"deploy/{template}.jinja", told)

    image = {"Dockerfile": made("Dockerfile"), ".dockerignore": made("dockerignore")}
    match what:
        case "compose":
            return {"compose.yaml": made("compose.yaml"), **image}
        case "k8s":
            return {"kubernetes.yaml": made("kubernetes.yaml"), **image}
        case "systemd":
            return {f"{facts.name}.service": made("systemd.service")}
        case "dockerfile":
            return image
        case "grafana":
            text = json.dumps(dashboard(facts.name), indent=2, ensure_ascii=False)
            return {"dashboard.json": text + "\n"}
        case "alerts":
            told["alerts"] = [
                msgspec.structs.replace(rule, expr=for_job(rule.expr, facts.name))
                for rule in ALERTS
            ]
            return {"alerts.yaml": made("alerts.yaml")}
