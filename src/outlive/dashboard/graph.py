"""The steps of a type as a graph, as its recorded journals tell: pure layout.

Nobody declares the steps of a process; its body is code. So the graph is drawn from what the newest
processes did: one box for each step, in the order in which they came on average, an arrow from each
step to the one that began next. What none of them did is not drawn.

    name#2, name:key      are the step `name` again
    right of the boxes    steps that were left out; left of them, loops
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec import Struct

from outlive.dashboard.times import duration

if TYPE_CHECKING:
    from outlive.kinds.processes import StepView, View

BOXES_MAX = 40
"""Steps that are drawn, those that were seen most."""
WIDTH, BOX_WIDTH, BOX_HEIGHT, PITCH, LEFT, MARGIN = 640, 260, 40, 66, 190, 6
NAME_CHARACTERS_MAX = 34
FAILED = ("failed", "stuck", "timeout")


class Box(Struct, frozen=True):
    """One step, at its place."""

    name: str
    x: int
    y: int
    look: str
    label: str
    told: str
    title: str


class Arrow(Struct, frozen=True):
    """From one step to the next one, as a path."""

    path: str
    title: str
    label: str
    x: int
    y: int


class Graph(Struct, frozen=True):
    """Everything the page draws; no boxes: no process has a step."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    width: int
    height: int
    processes: int
    hidden: int
    """Steps that are not drawn."""
    left: int = 0
    """Where the drawing begins: on the left of the boxes there is room for arrows that lead back,
    if there are any."""


class _Seen:
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.places: list[float] = []
        self.took: list[int] = []
        self.failed = 0
        self.number = 0

    def add(self, place: float, step: StepView) -> None:
        self.places.append(place)
        self.number += 1
        if step.ended is not None:
            self.took.append(step.ended - step.began)
        self.failed += step.outcome in FAILED

    @property
    def place(self) -> float:
        return sum(self.places) / len(self.places)


def graph_of(views: Iterable[View]) -> Graph:
    """Lay out the steps of some processes of one type."""
    seen: dict[str, _Seen] = {}
    arrows: Counter[tuple[str, str]] = Counter()
    processes = 0
    for view in views:
        processes += 1
        steps = sorted(view.steps, key=lambda step: step.began)
        names = [name_of(step) for step in steps]
        for number, (name, step) in enumerate(zip(names, steps, strict=True)):
            kept = seen.setdefault(name, _Seen(step.kind))
            kept.add(number / len(steps) + (1.0 if step.kind == "undo" else 0.0), step)
        arrows.update(pairwise(names))
    most = sorted(seen, key=lambda name: (-seen[name].number, seen[name].place))[:BOXES_MAX]
    drawn = sorted(most, key=lambda name: (seen[name].place, name))
    rows = {name: row for row, name in enumerate(drawn)}
    leads_back = any(rows[b] <= rows[a] for a, b in arrows if a in rows and b in rows)
    return Graph(
        tuple(_box(name, row, seen[name]) for name, row in rows.items()),
        tuple(
            _arrow(rows[a], rows[b], number, f"{a} → {b}: {number}")
            for (a, b), number in sorted(arrows.items())
            if a in rows and b in rows
        ),
        WIDTH,
        PITCH * len(drawn) + 10,
        processes,
        len(seen) - len(drawn),
        0 if leads_back else LEFT - MARGIN,
    )


def name_of(step: StepView) -> str:
    """The step's name, whichever use of it and under whichever key."""
    prefix = "undo " if step.kind == "undo" and not step.name.startswith("undo ") else ""
    return prefix + step.name.partition("#")[0].partition(":")[0].rstrip()


def _box(name: str, row: int, seen: _Seen) -> Box:
    told = ["once" if seen.number == 1 else f"{seen.number} times"]
    if seen.took:
        told.append(f"{duration(sorted(seen.took)[len(seen.took) // 2])} median")
    if seen.failed:
        told.append(f"{seen.failed} failed")
    cut = name if len(name) <= NAME_CHARACTERS_MAX else name[: NAME_CHARACTERS_MAX - 1] + "…"
    look = f"{seen.kind}{' failing' if seen.failed else ''}"
    text = ", ".join(told)
    return Box(name, LEFT, 5 + row * PITCH, look, cut, text, f"{seen.kind} {name}: {text}")


def _arrow(a: int, b: int, number: int, title: str) -> Arrow:
    middle, right = LEFT + BOX_WIDTH // 2, LEFT + BOX_WIDTH
    top, bottom = 5 + b * PITCH, 5 + a * PITCH + BOX_HEIGHT
    half = BOX_HEIGHT // 2
    if b == a + 1:
        path = f"M{middle} {bottom}V{top - 1}"
        return Arrow(path, title, str(number), middle + 8, (top + bottom) // 2 + 4)
    begin, end = 5 + a * PITCH + half, top + half
    bow = min(150, 24 + 16 * abs(b - a))
    if b > a:
        path = f"M{right} {begin}C{right + bow} {begin} {right + bow} {end} {right + 1} {end}"
        return Arrow(path, title, str(number), right + bow * 3 // 4 + 6, (begin + end) // 2 + 4)
    if a == b:
        begin, end = begin - 8, end + 8
    path = f"M{LEFT} {begin}C{LEFT - bow} {begin} {LEFT - bow} {end} {LEFT - 1} {end}"
    return Arrow(path, title, str(number), LEFT - bow * 3 // 4 - 18, (begin + end) // 2 + 4)
