"""What must be true of a service's state, whatever was done to it: one oracle for each promise.

An oracle is a pure function over facts: what is in the store, what clients were told, what the
outside world counted. It gives the violations it found, each as one sentence; an empty list says
that *this search* found none. Every layer of proof asks the same oracles.

    P1   acknowledged is durable            P6    work ends, once
    P2   rows and record agree              P7    a journal obeys its grammar
    P4   one effective holder               P8    nothing is stuck
    P5   one answer, one effect per key     P9    a tail is dense      P10   the chain verifies

`facts_of` reads all of a store, so it is for stores of the size of a test. Nothing here promises
anything about a service that still writes while it is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain, pairwise
from typing import Any

import msgspec
from msgspec import Struct

from outlive.kinds.processes import FINAL
from outlive.kinds.processes.cells import Head, read_head, space_of
from outlive.kinds.processes.vocabulary import GONE
from outlive.model import Event, Hold, Shard
from outlive.store import Store
from outlive.stores.chain import verify

PAGE = 1000
HOLDS_MAX = 1_000_000
Writer = Callable[[Event], str | None]


class Process(Struct, frozen=True):
    """The cell of a process, and everything in its journal."""

    id: str
    head: Head
    due: int | None
    journal: tuple[Event, ...]


class Facts(Struct, frozen=True):
    """All that a store says: who owns what, who owned it, what happened and what is true."""

    shards: tuple[Shard, ...]
    holds: tuple[Hold, ...]
    tails: dict[int, tuple[Event, ...]]
    processes: dict[str, Process]

    def ended_as(self, *statuses: str) -> set[str]:
        """The ids of the processes that have one of `statuses`."""
        return {found.id for found in self.processes.values() if found.head.status in statuses}


class Effect(Struct, frozen=True):
    """What somebody outside did under one key."""

    key: str
    count: int
    undone: bool = False


async def facts_of(store: Store) -> Facts:
    """Everything in `store`, which must be open. Raises what reading raises."""
    shards = await store.owners()
    tails: dict[int, tuple[Event, ...]] = {}
    streams: dict[str, list[Event]] = {}
    processes: dict[str, Process] = {}
    for shard in shards:
        tail: list[Event] = []
        while page := await store.tail(shard.id, tail[-1].seq if tail else 0, PAGE):
            tail += page
        tails[shard.id] = tuple(tail)
        for event in tail:
            streams.setdefault(event.stream, []).append(event)
    for shard in shards:
        after = ""
        while cells := await store.scan(space_of(shard.id), after, PAGE):
            after = cells[-1].key
            for cell in cells:
                head = read_head(cell.value)
                if head.status != GONE:
                    journal = await _whole(store, streams.get(head.stream, ()))
                    processes[cell.key] = Process(cell.key, head, cell.due, journal)
    holds = await store.ledger(limit=HOLDS_MAX)
    return Facts(tuple(shards), tuple(holds), tails, processes)


async def _whole(store: Store, events: Iterable[Event]) -> tuple[Event, ...]:
    """A journal with its payloads: one too large for its row is the blob that it names there.

    Raises `KeyError` when such a blob is not there."""
    found = []
    for event in events:
        if event.data[:1] == b"@":
            data = await store.blobs.get(event.data[1:].decode())
            found.append(msgspec.structs.replace(event, data=data))
        else:
            found.append(event)
    return tuple(found)


# --- what clients and the outside world were told -------------------------------------------------


def p1_acknowledged_is_durable(facts: Facts, acknowledged: Collection[str]) -> list[str]:
    """Every id that a client was given names a process that is there."""
    lost = sorted(set(acknowledged) - facts.processes.keys())
    return [f"P1: {id} was acknowledged and is not stored" for id in lost]


def p2_rows_agree(rows: Iterable[tuple[str, str]], wanted: Mapping[str, str]) -> list[str]:
    """The caller's own rows (key, what it says) are exactly those that the records speak of."""
    rows = list(rows)
    found = [
        f"P2: {key} has {count} rows"
        for key, count in Counter(key for key, _ in rows).items()
        if count > 1
    ]
    said = dict(rows)
    for key in sorted(said.keys() | wanted.keys()):
        if said.get(key) != wanted.get(key):
            found.append(f"P2: the row of {key} says {said.get(key)}, not {wanted.get(key)}")
    return found


def p5_one_answer_per_key(facts: Facts, answers: Mapping[str, Collection[str]]) -> list[str]:
    """All answers to one idempotency key name one process, and no process is nobody's.

    `answers`: for each key that was sent the ids that came back.
    """
    several = [(key, set(ids)) for key, ids in answers.items() if len(set(ids)) > 1]
    found = [f"P5: key {key} was answered with {sorted(ids)}" for key, ids in several]
    known = {id for ids in answers.values() for id in ids}
    stray = sorted(facts.processes.keys() - known)
    return found + [f"P5: {id} is stored and answers no key" for id in stray]


def p5_one_effect_per_key(
    effects: Iterable[Effect], wanted: Collection[str], spared: Collection[str] = ()
) -> list[str]:
    """Each `wanted` key has one standing effect, and no other key has one.

    `spared`: keys that may have one, because what was done under them cannot be undone.
    """
    standing = Counter[str]()
    for effect in effects:
        if effect.count and not effect.undone:
            standing[effect.key] += effect.count
    found = [f"P5: key {key} has {count} effects" for key, count in standing.items() if count > 1]
    found += [f"P5: key {key} has no effect" for key in sorted(set(wanted) - standing.keys())]
    stray = sorted(standing.keys() - set(wanted) - set(spared))
    return found + [f"P5: the effect of key {key} belongs to nothing that stands" for key in stray]


# --- what the store says of itself ----------------------------------------------------------------


def p4_one_effective_holder(facts: Facts, writer_of: Writer | None = None) -> list[str]:
    """Epochs rise with every hold of a shard, and each event was written by who held it then.

    `writer_of` tells which node wrote an event (None: the event does not say).
    """
    writer_of = writer_of or writer_in_journal
    found = []
    for shard in facts.shards:
        holds = sorted(
            (hold for hold in facts.holds if hold.shard == shard.id),
            key=lambda hold: (hold.head, hold.epoch),
        )
        for earlier, later in pairwise(holds):
            if later.epoch <= earlier.epoch or later.time < earlier.time:
                found.append(f"P4: shard {shard.id}: epoch {earlier.epoch}, then {later.epoch}")
        at, holder = 0, ""
        for event in facts.tails[shard.id]:
            while at < len(holds) and holds[at].head < event.seq:
                holder, at = holds[at].owner, at + 1
            writer = writer_of(event)
            if writer is not None and writer != holder:
                found.append(
                    f"P4: stale write: shard {shard.id} event {event.seq} ({event.kind}) was"
                    f" written by {writer} while {holder or 'nobody'} held it"
                )
    return found


def writer_in_journal(event: Event) -> str | None:
    """The node that an event names as its writer; most kinds name none."""
    if event.kind not in ("started", "admitted", "taken"):
        return None
    said: Any = msgspec.json.decode(event.data)
    return said.get("node") or None


def p6_work_ends_once(facts: Facts, accepted: Collection[str]) -> list[str]:
    """Every accepted process has reached a final state, its cell says which, and only once."""
    found = []
    for id in sorted(set(accepted) & facts.processes.keys()):
        process = facts.processes[id]
        ends = [event for event in process.journal if event.kind == "ended"]
        said = [msgspec.json.decode(event.data)["status"] for event in ends]
        if process.head.status not in FINAL or said != [process.head.status]:
            kinds = " ".join(event.kind for event in process.journal)
            found.append(f"P6: {id} is {process.head.status}, its journal says {said}: {kinds}")
    return found


def p7_journal_grammar(facts: Facts) -> list[str]:
    """A journal is a sentence: begun once, no step twice, no signal twice, undone in reverse, ended
    last."""
    found = []
    for process in facts.processes.values():
        found += [f"P7: {process.id}: {flaw}" for flaw in grammar_flaws(process.journal)]
    return found


def grammar_flaws(journal: Iterable[Event]) -> list[str]:
    """What is wrong with the journal of one process."""
    events = list(journal)
    kinds = [event.kind for event in events]
    flaws = []
    if [event.n for event in events] != list(range(len(events))):
        flaws.append("its events are not numbered 0, 1, 2 …")
    if events and (kinds[0] != "started" or kinds.count("started") != 1):
        flaws.append(f"it begins with {kinds[0]} and was started {kinds.count('started')} times")
    if "ended" in kinds and kinds.index("ended") != len(kinds) - 1:
        flaws.append(f"{kinds[kinds.index('ended') + 1]} stands behind its end")
    armed: dict[str, bool] = {}
    undone: list[str] = []
    parts: list[list[str]] = []
    branches: list[tuple[str, list[str]]] = []
    stuck, rolling, unknown = "", False, list[str]()
    taken = Counter[int]()
    children: dict[str, tuple[str, bool]] = {}
    for event in events:
        said: Any = msgspec.json.decode(event.data)
        match event.kind:
            case "step":
                if rolling:
                    flaws.append(f"step {said['id']} was recorded while rolling back")
                if said["id"] in armed:
                    flaws.append(f"step {said['id']} was recorded twice")
                armed[said["id"]] = bool(said.get("undo"))
            case "wait" | "waited" if said.get("signal") is not None:
                taken[said["signal"]] += 1
            case "child":
                children[said["child"]] = (said["id"], bool(said.get("undo")))
            case "child_ended":
                flaws += _child_ended(said, children, armed, parts)
            case "compensating":
                if rolling:
                    flaws.append("it was rolled back twice")
                rolling = True
                unknown = [step["id"] for step in said.get("unknown", ())]
            case "decided":
                left = [step["id"] for step in said.get("unknown", ())]
                armed.update(dict.fromkeys(left, True))
                branches.append((said.get("branch", ""), left))
                parts.append(list(said.get("undo", ())))
            case "undone" if not rolling:
                flaws += _undone_in_part(said["id"], parts)
                armed[said["id"]] = False
            case "undone":
                undone.append(said["id"])
            case "stuck":
                stuck = said.get("id", "")
            case "resumed" if not rolling:
                again = (left for branch, left in branches if branch and stuck.startswith(branch))
                for id in (stuck, *chain.from_iterable(again)):
                    armed.pop(id, None)
                stuck = ""
            case "cancel":
                armed.update(dict.fromkeys(said.get("kept", ()), False))
    flaws += [f"signal {n} was taken {count} times" for n, count in taken.items() if count > 1]
    wanted = [*(id for id, undoable in armed.items() if undoable), *unknown][::-1]
    if undone != (wanted if rolling and "ended" in kinds else wanted[: len(undone)]):
        flaws.append(f"undone were {undone}, not {wanted}")
    return flaws


def _child_ended(
    said: Any,
    children: dict[str, tuple[str, bool]],
    armed: dict[str, bool],
    parts: list[list[str]],
) -> list[str]:
    """What is wrong with the end of a child; its undo's turn is that of its end."""
    if said["child"] not in children:
        return [f"child {said['child']} ended twice, or was never started"]
    id, undoable = children.pop(said["child"])
    if undoable and said["status"] == "done":
        armed[id] = True
    for part in parts:
        if id in part:
            part.remove(id)
            if said["status"] == "done":
                part.insert(0, id)
    return []


def _undone_in_part(id: str, parts: list[list[str]]) -> list[str]:
    """What is wrong with undoing `id` while the process goes on; takes it from its part."""
    for part in parts:
        if part[:1] == [id]:
            part.pop(0)
            return []
    return [f"{id} was undone while the process went on, and its turn had not come"]


def p8_nothing_is_stuck(facts: Facts) -> list[str]:
    """Once there was time for it, every process has ended or waits for something that it names."""
    return [
        f"P8: {process.id} is {process.head.status} and nothing will wake it"
        for process in facts.processes.values()
        if process.head.status not in FINAL and not _waits(process)
    ]


def _waits(process: Process) -> bool:
    named = bool(process.head.waits_for) or process.due is not None
    return process.head.status == "waiting" and named


def p9_tails_are_dense(facts: Facts) -> list[str]:
    """The events of a shard are numbered 1, 2, 3 … up to its head, and time does not go back."""
    found = []
    for shard in facts.shards:
        tail = facts.tails[shard.id]
        if [event.seq for event in tail] != list(range(1, shard.head + 1)):
            found.append(
                f"P9: shard {shard.id} has {len(tail)} events and its head is {shard.head}"
            )
        times = [event.time for event in tail]
        if times != sorted(times):
            found.append(f"P9: in shard {shard.id} time goes back")
    return found


def p10_chain_verifies(facts: Facts) -> list[str]:
    """No event was altered since it was committed."""
    broken = {shard: verify(tail) for shard, tail in facts.tails.items()}
    return [
        f"P10: shard {shard} is altered from event {seq} on"
        for shard, seq in broken.items()
        if seq is not None
    ]
