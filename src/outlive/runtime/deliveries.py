"""What is told to a process and waits to be taken by its body: signals, updates, callbacks.

    deliver    append it; if the body waits for just that, append the end of the wait beside it
    update     the same, once for each key; its answer is a record of the body's (updates.py)
    callback   the same, once at all, and not behind its time (callbacks.py)

Decided by the process's owner in one turn of the event loop, so what comes and a time-out are
decided by one commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outlive.errors import (
    CallbackExpired,
    CallbackUsed,
    KeyReused,
    NoSuchCallback,
    ProcessTerminal,
    TooManySignals,
)
from outlive.kinds.processes import FINAL, Command
from outlive.kinds.processes.callbacks import key_of
from outlive.kinds.processes.heard import same
from outlive.kinds.processes.vocabulary import (
    HALTED,
    Asked,
    CalledBack,
    WaitDone,
    wait_for_callback,
    wait_for_update,
)
from outlive.model import Require
from outlive.runtime.activation import Activation

if TYPE_CHECKING:
    from outlive.runtime.commands import Commands

UPDATES_WAITING_MAX = 1000
"""Updates and signals of one process that its body has not taken yet."""


async def deliver(
    to: Commands, activation: Activation, name: str, event: Any, done: tuple[Require, ...]
) -> None:
    """Record `event`, which waits under `name`; it ends the wait for that, if there is one."""
    journal = activation.journal
    n = journal.next_n
    if activation.head.status in HALTED:
        await to.append(activation, event, done=done)
        return
    wait = journal.open_wait(name)
    if wait is None or journal.compensating is not None:
        await to.append(activation, event, done=done)
    else:
        head = activation.with_status("running")
        time = await to.append(activation, event, WaitDone(wait.id, n), head=head, done=done)
        activation.settle(wait.id, time)
    activation.run()


async def update(
    to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
) -> None:
    """Accept an update; the same key again changes nothing."""
    journal, name = activation.journal, command.name
    known = None if journal.heard is None else journal.heard.asked.get((name, command.key))
    if known is None:
        _demand_open(activation, "The update was not kept.")
    payload = activation.definition.update_payload(name, bytes(command.payload))
    if known is not None:
        if not same(journal.signals[known].payload, payload):
            raise KeyReused("This key was used for another update; nothing was kept.")
        await to.only_drop(activation, done)
        return
    if journal.waiting_signals() >= UPDATES_WAITING_MAX:
        raise TooManySignals(
            f"{UPDATES_WAITING_MAX} updates and signals wait for {activation.id}; this one was "
            "not kept."
        )
    await deliver(to, activation, wait_for_update(name), Asked(name, payload, command.key), done)


async def callback(
    to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
) -> None:
    """Take what an outside system says to a callback; the same again changes nothing."""
    journal, of = activation.journal, command.name
    if command.key not in (of, key_of(of, activation.head.stream)):
        raise CallbackExpired  # it was made in an era that is over
    made = None if journal.heard is None else journal.heard.callbacks.get(of)
    if journal.heard is None or made is None:
        raise NoSuchCallback
    payload = activation.definition.callback_payload(made.name, bytes(command.payload))
    told = journal.heard.calls.get(of)
    if told is not None:
        if not same(told, payload):
            raise CallbackUsed
        await to.only_drop(activation, done)
        return
    late = made.until is not None and made.until <= activation.node.clock.wall()
    if late or activation.head.status in FINAL or journal.compensating is not None:
        raise CallbackExpired
    if any(wait.name == wait_for_callback(of) for wait in journal.timed_out()):
        raise CallbackExpired
    await deliver(to, activation, wait_for_callback(of), CalledBack(of, payload), done)


def _demand_open(activation: Activation, what: str) -> None:
    if activation.head.status in FINAL:
        raise ProcessTerminal(f"{activation.id} has ended: {activation.head.status}. {what}")
