"""What `outlive dev` prints: what was found, what has changed, what a kill has cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from outlive.commands.developing.checking import Looked
from outlive.doors.declared import DeclaredStep, DeclaredType
from outlive.kinds.processes.difference import Difference

FILES_SHOWN, DIFFERENCES_SHOWN, STEPS_SHOWN = 3, 10, 12
KEYS = (
    ("r", "reload now"),
    ("k", "kill -9 the worker, and see what becomes of its work"),
    ("p", "prove it: a minute's worth of kills in seconds, on a store of its own"),
    ("d", "open the dashboard"),
    ("?", "this help"),
    ("q", "end in order (so does Ctrl-C)"),
)


def found(looked: Looked) -> Iterator[str]:
    """What the code declares, and what its store promises."""
    if looked.declared is None:
        yield "  there is no Outlive in it: it is reloaded, and nothing else is known of it"
        return
    for each in looked.declared.types:
        yield from _type(each)
    if not looked.declared.types:
        yield "  no process is declared yet"
    kinds = [
        f"{name} ({', '.join(names)})" if names else name
        for name, names in looked.declared.kinds.items()
    ]
    if kinds:
        yield f"  also        {', '.join(kinds)}"
    yield f"  store       {looked.store}"
    if looked.promise:
        yield f"  promises    {looked.promise}"


def _type(each: DeclaredType) -> Iterator[str]:
    versions = ", ".join(f"v{version}" for version in each.versions)
    begun = f"POST {each.path}" if each.path else "only code starts it"
    yield f"  process     {each.name} {versions} · {begun}"
    if each.steps:
        shown = [_step(step) for step in each.steps[:STEPS_SHOWN]]
        more = ["…"] * (len(each.steps) > STEPS_SHOWN)
        yield f"              steps    {' → '.join([*shown, *more])}"
    if each.signals:
        yield f"              signals  {', '.join(each.signals)}"


def _step(step: DeclaredStep) -> str:
    return f"{step.name} (undo {step.undo})" if step.undo else step.name


def changes(files: Sequence[str]) -> str:
    """Which files have changed, in a line."""
    here = Path.cwd()
    names = []
    for file in files[:FILES_SHOWN]:
        path = Path(file)
        names.append(str(path.relative_to(here)) if path.is_relative_to(here) else file)
    if len(files) > FILES_SHOWN:
        names.append(f"{len(files) - FILES_SHOWN} more")
    return f"changed: {', '.join(names)}"


def differences(looked: Looked) -> Iterator[str]:
    """What would become of what is under way with this code, each with what is recorded."""
    if looked.unread:
        yield f"what is under way was not compared: {looked.unread}"
    unfit = looked.differences
    if not unfit:
        if looked.compared:
            yield f"{looked.compared} under way, all of them go on with this code"
        return
    types = sorted({f"{one.type} v{one.version}" for one in unfit})
    yield (
        f"DRIFT: {len(unfit)} of {looked.compared} under way do not go on with this code "
        f"({', '.join(types)}); they would pause, and nothing is lost"
    )
    for one in unfit[:DIFFERENCES_SHOWN]:
        yield from difference(one)
    if len(unfit) > DIFFERENCES_SHOWN:
        yield f"  … and {len(unfit) - DIFFERENCES_SHOWN} more"
    yield "  keep the old body under its version, declare the new one beside it: docs/versions.md"


def difference(one: Difference) -> Iterator[str]:
    """One process that would not go on."""
    yield f"  {one.verdict}  {one.id}  {one.type} v{one.version}  {one.status}"
    for line in one.detail.splitlines():
        yield f"      {line}"


def keys(address: str) -> Iterable[str]:
    """The keys, each with what it does."""
    yield f"  {address} · dashboard {address}/outlive"
    for key, told in KEYS:
        yield f"  {key}  {told}"


def short_keys() -> str:
    """The keys in one line."""
    return "r reload · k kill -9 · p prove · d dashboard · ? help · q end"
