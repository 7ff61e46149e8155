"""One process: its life as a waterfall, what went in and out, and what may be asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from outlive.dashboard.copying import copies_of
from outlive.dashboard.rendering import pretty
from outlive.dashboard.timeline import Row, is_takeover, timeline
from outlive.kinds.processes.redaction import MASK

if TYPE_CHECKING:
    from outlive.dashboard.rendering import Desk, Sight
    from outlive.errors import OutliveError
    from outlive.kinds.processes import Entry, StepView, View

ENTRIES_SHOWN_MAX = 500
HEARD = frozenset(("signal", "asked", "answered", "called_back"))
"""The events by which the outside has told it something."""
DONE = {
    "signal": "The signal is durable; the process takes it when it waits for it.",
    "cancel": "The cancellation is durable; what was done is being undone.",
    "retry": "The process goes on.",
    "pause": "It stops at its next durable point.",
    "resume": "It goes on where it was.",
    "skip": "The step is declared settled.",
    "deadline": "The deadline is changed.",
    "fork": "This is the fork: it goes on from where the other one was.",
}
"""What a page says after an action, by the name of the action."""


async def process(
    desk: Desk, sight: Sight, id: str, refusal: OutliveError | None = None, done: str = ""
) -> str:
    """The page. `refusal` is why the last action was not done, `done` which one was.

    Raises `NoSuchProcess` and `ProcessGone`.
    """
    view = await desk.app.view(id)
    entries = await desk.app.journal(id)
    definition = desk.app.definitions.get(view.type)
    laid = timeline(view, desk.clock.wall())
    input = input_of(entries, view)
    return desk.render(
        "process.html",
        sight,
        view=view,
        timeline=laid,
        lanes=lanes_of(laid.rows),
        told=told_of(entries),
        takeovers=[past for past in view.history if is_takeover(past)],
        entries=list(reversed(entries[-ENTRIES_SHOWN_MAX:])),
        hidden_entries=max(0, len(entries) - ENTRIES_SHOWN_MAX),
        signals=[entry for entry in entries if entry.kind in HEARD][-ENTRIES_SHOWN_MAX:],
        input=pretty(input),
        masked=is_masked(input),
        data=pretty(view.data),
        result=None if view.result is None else pretty(view.result),
        declared=list(definition.signals or ()) if definition else [],
        step_names=list(dict.fromkeys(step.name for step in view.steps)),
        failing_step=failing(view.steps),
        copied=copies_of(sight, view, desk.app),
        refusal=refusal,
        done=DONE.get(done, ""),
    )


def lanes_of(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """What goes forward, and in a lane of its own what is undone."""
    forward = [row for row in rows if row.step.kind != "undo"]
    undone = [row for row in rows if row.step.kind == "undo"]
    return [("", forward), *([("Undo", undone)] if undone else [])]


def told_of(entries: Sequence[Entry]) -> dict[str, list[tuple[str, str]]]:
    """What is recorded of each step beside its attempts: what it gave, what its undo is given."""
    found: dict[str, list[tuple[str, str]]] = {}
    for entry in entries:
        if entry.kind != "step":
            continue
        said: dict[str, Any] = msgspec.json.decode(entry.data)
        told = [("Error" if "error" in said else "Result", said.get("error", said.get("result")))]
        if "given" in said:
            told.append(("Given to it and to its undo", said["given"]))
        found[said["id"]] = [(title, _text(value)) for title, value in told]
    return found


def input_of(entries: Sequence[Entry], view: View) -> Raw:
    """What the process was started with, as it may be shown."""
    if entries and entries[0].kind == "started":
        said: Mapping[str, Raw] = msgspec.json.decode(entries[0].data, type=dict[str, Raw])
        if "input" in said:
            return said["input"]
    return view.data


def is_masked(document: Raw) -> bool:
    """Whether something is redacted in it."""
    return _has_mask(msgspec.json.decode(document)) if bytes(document) else False


def _has_mask(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_mask(found) for found in value.values())
    if isinstance(value, list):
        return any(_has_mask(found) for found in value)
    return bool(value == MASK)


def failing(steps: Sequence[StepView]) -> str:
    """The step that somebody would skip: the last one that has failed and not ended."""
    found = [step.name for step in steps if step.ended is None and step.error is not None]
    return found[-1] if found else ""


def _text(value: Any) -> str:
    return pretty(Raw(msgspec.json.encode(value)))
