"""Published events, on their way to whoever hears of them.

    publish    a record of the publisher (or nothing, from outside) and, in the same commit, a
               command `publish` in the inbox of the event's shard
    deliver    the owner of that shard asks who subscribes, and makes one commit of it all: every
               process to start, every signal to send, and the end of the command

Because the command is dropped, at its version, by the very commit that holds what it leads to, an
event that is taken up twice is delivered once; signals have a key besides (event and subscriber).
What cannot be delivered is kept by the same commit (`undelivered.py`).
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from outlive import codec, ids
from outlive.errors import ProcessError
from outlive.kinds.processes import FINAL, Command
from outlive.kinds.processes.cells import read_head, ref_of
from outlive.kinds.processes.definition import any_payload, input_error
from outlive.kinds.processes.pending import told
from outlive.kinds.processes.subscriptions import Subscriber, name_of
from outlive.kinds.processes.undelivered import undelivered
from outlive.kinds.processes.vocabulary import GONE, Published
from outlive.model import Batch, Put, Require
from outlive.runtime.mail import Mail

if TYPE_CHECKING:
    from outlive.runtime.activations import Activations
    from outlive.runtime.run import Run

EVENT_BYTES_MAX = 64 * 1024
"""Bytes of one event: it is kept once for each process that it starts or signals."""
PREFIX = "evt"


def packed(event: Any) -> tuple[str, Raw]:
    """The name of an event and its JSON. Raises `TypeError`, `ValueError` for one too large."""
    name, data = name_of(type(event)), codec.encode(event)
    if len(data) > EVENT_BYTES_MAX:
        raise ValueError(f"the event has {len(data)} bytes; at most {EVENT_BYTES_MAX} are taken")
    return name, Raw(data)


def publish(run: Run, event: Any) -> Coroutine[Any, Any, str]:
    """See `Run.publish`."""
    name, raw = packed(event)
    return _publish(run, run._identify(f"publish {name}"), name, raw)


async def _publish(run: Run, id: str, name: str, raw: Raw) -> str:
    activation = run._activation
    hashed = codec.fingerprint(codec.ANYTHING.read(raw))
    if activation.loaded:
        record, against = activation.journal.find(id, Published, hashed, run._branch())
        if against:
            await activation.drift(against)
        if record is not None:
            run._pass(id)
            return str(record.event)
    if activation.halted:
        activation.check()
    node = activation.node
    event = ids.public_id(PREFIX, node.store.shards, activation.lease.shard)
    mail = Mail(node, activation.journal.times.get("", 0))
    mail.send(Command("publish", event, name, raw, who=activation.id))
    waiting = activation.head.status == "waiting"
    head = activation.with_status("running") if waiting else None
    published = Published(id, run._ask(id), event, name, hashed)
    activation.journal.times[id] = await activation.record(published, head=head, mail=mail)
    run._pass(id)
    return event


async def deliver(node: Activations, command: Command, done: tuple[Require, ...]) -> None:
    """Let everybody who subscribes hear of an event, in one commit that also ends `command`.

    Raises what the store raises; then nobody has heard of it.
    """
    mail = Mail(node, await node.store.now())
    kept: list[Put] = []
    for subscriber in node.subscriptions.of(command.name):
        key = f"{command.id}/{subscriber.name}"
        said = Command(
            "signal", "", subscriber.signal, command.payload, key, command.who, "", command.id
        )
        try:
            if subscriber.signal:
                await _signal(node, subscriber, said, command.name, mail)
            else:
                _start(node, subscriber, command, mail)
        except (ProcessError, _Unreadable) as error:
            why = error.detail if isinstance(error, ProcessError) else str(error)
            kept += undelivered(said, why, node.clock.wall(), node.retention)
    drop = tuple(cell.ref for cell in done)
    await mail.post(Batch(require=done, drop=drop, put=(*kept, *mail.puts)))


class _Unreadable(Exception):
    """The subscriber's own code cannot say whom the event is for, or that is nobody."""


def _start(node: Activations, subscriber: Subscriber, command: Command, mail: Mail) -> None:
    made = subscriber.made
    try:
        made.input_type.read(command.payload)
    except ValueError as error:
        raise input_error(bytes(command.payload), error) from None
    try:
        mail.start(made, ids.public_id(made.prefix, node.store.shards), command.payload)
    except ProcessError:
        raise
    except Exception as error:  # the function that its limit is declared with
        raise _Unreadable(f"its start raised {type(error).__name__}: {error}") from error


async def _signal(
    node: Activations, subscriber: Subscriber, said: Command, name: str, mail: Mail
) -> None:
    assert subscriber.to is not None
    try:
        target = subscriber.to(node.subscriptions.shape(name).read(said.payload))
        if not isinstance(target, str | None):
            raise TypeError(f"it gave a {type(target).__name__}, not the id of a process")
    except Exception as error:
        raise _Unreadable(f"`to` raised {type(error).__name__}: {error}") from error
    if not target:
        return
    found = (await node.store.read((ref_of(target, node.store.shards),)))[0]
    head = None if found is None else read_head(found.value)
    if head is None or head.status == GONE or head.type != subscriber.made.name:
        raise _Unreadable(f"there is no {subscriber.made.name} {target[:64]}")
    if head.status in FINAL:
        raise _Unreadable(f"{target} has ended: {head.status}")
    made = node.definitions.get((head.type, head.version))
    payload = bytes(said.payload)
    raw = any_payload(payload) if made is None else made.signal_payload(said.name, payload)
    mail.send(
        Command("signal", target, said.name, raw, said.key, said.who, "", said.event)
    )  # fmt: skip


def letter(event: Any, shards: int, now: int) -> tuple[str, Put]:
    """The id of an event that is published from outside, and the cell that publishes it."""
    name, raw = packed(event)
    id = ids.public_id(PREFIX, shards)
    return id, told(Command("publish", id, name, raw), now, shards)
