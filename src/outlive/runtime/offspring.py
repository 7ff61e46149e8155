"""Children from their parent's side: told to cancel, waited for, taken back.

    cancel down     what rolls a parent back, or ends a part of its body, names the children that
                    have not ended in its record; the commands to cancel them go with that commit
    wait            then their ends are waited for, each a record of the parent's (`ChildEnded`)
    take back       only then are steps undone; a child that was done is undone as `undo=` says, in
                    its place among the steps by when it ended

A child past its pivot finishes first, and one that is stuck waits for an operator; the parent
waits for it, visibly: `compensating`, with that child shown as `cancelling`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from outlive import codec, steps
from outlive.errors import ChildFailed
from outlive.kinds.processes import FINAL, Command, Head, Unknown
from outlive.kinds.processes.vocabulary import Armed, ChildEnded, ChildStarted, Ended
from outlive.runtime.mail import Mail

if TYPE_CHECKING:
    from outlive.runtime.activation import Activation

_ended = msgspec.json.Decoder(Ended).decode


class Offspring:
    """Who in one activation waits for which child."""

    __slots__ = ("asked", "count", "waits")

    def __init__(self) -> None:
        self.asked: set[str] = set()
        """Children whose end its code has asked for."""
        self.count = 0
        self.waits: dict[str, set[str]] = {}
        """What is parked for each child."""

    @property
    def first(self) -> str:
        """A child that is waited for; empty when none is."""
        return next(iter(self.waits), "")


def of(activation: Activation) -> Offspring:
    """Who in `activation` waits for which child."""
    if activation.offspring is None:
        activation.offspring = Offspring()
    return activation.offspring


# --- waiting --------------------------------------------------------------------------------------


async def end_of(activation: Activation, child: str) -> ChildEnded:
    """Wait until the end of `child` is recorded; nothing is recorded for the wait itself."""
    family = activation.journal.family
    assert family is not None
    if child not in family.ends:
        waits = of(activation)
        waits.count += 1
        id = f"child {child} {waits.count}"
        waits.waits.setdefault(child, set()).add(id)
        activation.joins += 1
        try:
            await activation.park(id, None)
        finally:
            activation.joins -= 1
            waits.waits[child].discard(id)
            if not waits.waits[child]:
                del waits.waits[child]
    return family.ends[child]


async def ended(activation: Activation, children: Collection[str]) -> None:
    """Wait for the ends of `children`."""
    for child in children:
        await end_of(activation, child)


async def ended_for_good(activation: Activation, children: Collection[str]) -> None:
    """Wait for the ends of `children`, whose part of the body is over."""
    await ended(activation, children)
    family = activation.journal.family
    assert family is not None
    activation.journal.closed.difference_update(family.children[child].id for child in children)


async def stay(activation: Activation) -> None:
    """The body has returned: its process does not end before its attached children have.

    Raises `ChildFailed` for one that its code never asked for and that has not ended well.
    """
    family, asked = activation.journal.family, of(activation).asked
    assert family is not None
    for child in list(family.children.values()):
        if child.detached:
            continue
        found = await end_of(activation, child.child)
        if found.status != "done" and child.child not in asked | family.let_go:
            raise failed(found)


def failed(ended: ChildEnded) -> ChildFailed:
    """What is raised to who asked for a child that has not ended well."""
    return ChildFailed(ended.child, ended.status, ended.error)


class News(Struct):
    """The end of a child, taken into its parent's journal."""

    activation: Any
    event: ChildEnded
    head: Head | None

    def let_go_on(self, time: int) -> None:
        """It is durable since `time`: whoever waits for it goes on."""
        self.activation.journal.times[self.event.child] = time
        for id in tuple(of(self.activation).waits.get(self.event.child, ())):
            self.activation.settle(id)


def take_news(activation: Activation, command: Command) -> News | None:
    """What is to be recorded of the end of a child; None when it is known, or nobody's business."""
    family, child = activation.journal.family, command.name
    known = family is None or child not in family.children or child in family.ends
    if known or activation.head.status in FINAL:
        return None
    said = _ended(bytes(command.payload))
    head, running = None, activation.task is not None
    if activation.head.status == "waiting" and (not running or child in of(activation).waits):
        head = activation.with_status("running")
        if not running:  # perhaps it waits for something else: then it may leave memory again
            activation.joins += 1
    return News(activation, ChildEnded(child, said.status, said.result, said.error), head)


# --- cancelling -----------------------------------------------------------------------------------


def cancel_open(activation: Activation) -> tuple[tuple[str, ...], Mail | None]:
    """The children that have not ended, and what tells them to cancel because their parent is
    rolled back."""
    family = activation.journal.family
    children = [] if family is None else family.open()
    if not children:
        return (), None
    reason = f"its parent {activation.id} is rolled back"
    return tuple(child.child for child in children), _cancel(activation, children, reason)


def let_go(
    activation: Activation, inside: Callable[[str], bool]
) -> tuple[tuple[str, ...], Mail | None]:
    """The children that were started `inside` a part that is over, and what tells those that have
    not ended to cancel."""
    family = activation.journal.family
    assert family is not None
    children = [
        child
        for child in family.children.values()
        if inside(child.id) and not child.detached and child.child not in family.let_go
    ]
    under_way = [child for child in children if child.child not in family.ends]
    reason = f"its part of its parent {activation.id} is over"
    mail = _cancel(activation, under_way, reason) if under_way else None
    return tuple(child.child for child in children), mail


def _cancel(activation: Activation, children: Collection[ChildStarted], reason: str) -> Mail:
    mail = Mail(activation.node, activation.journal.times.get("", 0))
    for child in children:
        mail.send(Command("cancel", child.child, who=activation.id, reason=reason))
    return mail


# --- taking back ----------------------------------------------------------------------------------


def to_take_back(
    activation: Activation, children: Collection[str], undo: Callable[[str], bool]
) -> tuple[str, ...]:
    """Those of `children` under way that are undone if they are done before they hear of it."""
    family = activation.journal.family
    assert family is not None
    found = (family.children[child] for child in children if child not in family.ends)
    return tuple(child.id for child in found if child.undo and undo(child.id))


def taking_back(activation: Activation, armed: Armed) -> tuple[steps.Spec, tuple[Any, ...]]:
    """The function that takes a child back, and what it is given. Raises `LookupError` when it is
    not declared here."""
    module = activation.definition.body.__module__
    spec = steps.spec_named(armed.undo, module)
    if spec is None:
        function = getattr(sys.modules[module], armed.undo, None)
        if not callable(function):
            raise LookupError(f"{armed.undo}, the undo of {armed.id}, is not declared here")
        spec = steps.spec_of(function)
    family = activation.journal.family
    version = family.children[armed.child].version if family is not None else 0
    made = activation.node.definitions.get((armed.name, version))
    given, result = (made.input_type, made.output_type) if made else (codec.ANYTHING,) * 2
    outcome = Unknown() if armed.result is None else result.read(armed.result)
    return spec, (given.read(armed.given), outcome)
