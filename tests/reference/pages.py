"""The pages of docs/reference, each written from what it describes.

    cli.md        the parser of the command line
    http-api.md   the OpenAPI document of examples/signup, and the operations of `--context`
    errors.md     the catalogue of errors: what `outlive explain` says
    metrics.md    what /metrics answers, asked of an application with a dependency and a cache
    api.md        the public names; their docstrings are put in when the site is built

`python -m tests.reference` writes them; a test says whether they are as they would be written.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

import outlive
from outlive import Outlive
from outlive.commands import command_line
from outlive.commands.explain import catalogue, meaning
from outlive.doors.operations import OPERATIONS
from outlive.kinds.caches.rule import best_effort
from outlive.web.metrics import Metrics
from outlive.web.openapi import document

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Written by `python -m tests.reference`; do not edit. -->"
SECTIONS = {
    "Applications and processes": "app handle runtime.run runtime.children runtime.callbacks"
    " runtime.updates steps doors.blocking runtime.blocking",
    "What a declaration takes": "kinds.processes.limits kinds.processes.updates"
    " kinds.processes.webhooks kinds.processes.seen kinds.breakers.rule kinds.caches.rule"
    " kinds.ratelimits.quotas kinds.ratelimits.slots kinds.sessions.cookies stores.keys access"
    " doors.sealed logs",
}


def cli() -> str:
    """Every command, from the parser."""
    text = command_line().generate_docs(
        output_format="markdown", recursive=True, usage_name="outlive"
    )
    text = text.partition("**Commands**:")[2].partition("\n## ")[2]
    # It says how this very process was started in the usage of what is nested.
    text = re.sub(r"^(outlive[a-z ]*?)(?: -m \S+)( .*)?$", r"\1\2", text, flags=re.MULTILINE)
    text = re.sub(r"^```console\noutlive", "```text\noutlive", f"## {text}", flags=re.MULTILINE)
    shared = "Exit codes, `--store`, `--context` and formats: [the command line](../cli.md)."
    return f"# Every command\n\n{NOTE}\n\n{shared}\n\n{text.strip()}\n"


def errors() -> str:
    """Every error, by code."""
    parts = [
        f"# Errors\n\n{NOTE}\n\nEach has a code that never changes. Over HTTP it is "
        "`application/problem+json`; in Python a class of `outlive.errors`; on the command line "
        "`outlive explain CODE` prints the same."
    ]
    for error in catalogue():
        place = "only over HTTP" if error.__module__.startswith("outlive.web") else error.__name__
        retry = "yes" if error.retryable else "no"
        said = meaning(error)
        parts.append(
            f"## {error.code} {error.slug}\n\n**{error.title()}.**"
            + (f" {said}" if said else "")
            + f"\n\n*What to do:* {error.remedy}\n\n"
            f"`{place}` · status {error.status} · safe to retry as it is: {retry}"
        )
    return "\n\n".join(parts) + "\n"


def metrics() -> str:
    """Every metric, as it is scraped."""

    async def scraped() -> str:
        app = Outlive("memory://")
        app.dependency("partner")

        @app.cache(best_effort(), name="prices")
        async def price(what: str) -> int:
            return len(what)

        async with app:
            answer = await Metrics(app).show(None)  # type: ignore[arg-type]  # it looks at nothing
        return answer.body.decode()

    text = asyncio.run(scraped())
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    told = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    rows = [f"| `{name}` | {kinds[name]} | {told.get(name, '')} |" for name in kinds]
    return (
        f"# Metrics\n\n{NOTE}\n\n`GET /metrics`, OpenMetrics text; a counter's sample ends in "
        "`_total`. Counted by one instance since it started. No label has an id in it.\n\n"
        "| name | type | what |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def http_api() -> str:
    """What every service answers, from the document of one."""
    app = importlib.import_module("examples.signup.app").app
    described = document(app, None)
    parts = [
        f"# HTTP, path by path\n\n{NOTE}\n\nFrom the OpenAPI document of `examples/signup`, whose "
        "one type of process is at `/registrations`; each service serves its own at "
        "`/openapi.json`. How requests are made and read: [HTTP](../http.md).",
    ]
    components = described["components"]
    for path, methods in described["paths"].items():
        shared = methods.get("parameters", [])
        for method, one in methods.items():
            if method == "parameters":
                continue
            one = {**one, "parameters": [*shared, *one.get("parameters", ())]}
            parts.append("\n".join(_described(method.upper(), path, one, components)))
    parts.append("\n".join(_operations()))
    return "\n\n".join(parts) + "\n"


def _described(
    method: str, path: str, one: Mapping[str, Any], components: Mapping[str, Any]
) -> Iterator[str]:
    def found(value: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
        reference = value.get("$ref")
        return components[kind][reference.rpartition("/")[2]] if reference else value

    yield f"## {method} {path}\n\n{one.get('summary', '')}"
    given = [found(value, "parameters") for value in one.get("parameters", ())]
    if given:
        yield "\n| parameter | in | |\n|---|---|---|"
    for value in given:
        yield f"| `{value['name']}` | {value['in']} | {value.get('description', '')} |"
    yield "\n| answer | |\n|---|---|"
    for status, value in one["responses"].items():
        yield f"| {status} | {found(value, 'responses').get('description', '')} |"


def _operations() -> Iterator[str]:
    yield (
        "## /outlive/operations/{name}\n\nWhat `outlive --context` asks. Served to this machine "
        "only, or to whom `Outlive(dashboard=Access(…))` names. What looks is `GET` with "
        "`?arguments={…}`, what changes something `POST` with the same as JSON.\n"
    )
    yield "| name | method | takes |\n|---|---|---|"
    for one in OPERATIONS.values():
        fields = msgspec.structs.fields(one.asks)
        takes = ", ".join(f"`{field.name}`" + "*" * field.required for field in fields)
        method = "POST" if one.changes else "GET"
        yield f"| `{one.name}` | {method} | {takes.replace('*', ' (needed)') or '–'} |"


def api() -> str:
    """The public names, each with the directive that puts its docstrings there."""
    homes: dict[str, list[str]] = {title: [] for title in (*SECTIONS, "Errors", "Functions")}
    for name in outlive.__all__:
        value = getattr(outlive, name)
        if name.startswith("__") or not hasattr(value, "__module__"):
            continue
        home = value.__module__.removeprefix("outlive.")
        title = next((t for t, parts in SECTIONS.items() if home in parts.split()), None)
        if inspect.isclass(value) and issubclass(value, BaseException):
            title = "Errors"
        elif title is None or inspect.isfunction(value):
            title = "Functions"
        homes[title].append(f"::: outlive.{home}.{name}")
    parts = [f"# Python\n\n{NOTE}\n\nEverything that `outlive` exports."]
    for title, names in homes.items():
        parts.append(f"## {title}\n\n" + "\n\n".join(names))
    return "\n\n".join(parts) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "api.md": api,
    "cli.md": cli,
    "errors.md": errors,
    "http-api.md": http_api,
    "metrics.md": metrics,
}
