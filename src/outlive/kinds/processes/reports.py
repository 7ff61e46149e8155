"""What people and programs are told about processes and nodes: values, and nothing that acts."""

from __future__ import annotations

from msgspec import Raw, Struct

from outlive.codec import NULL
from outlive.kinds.processes import vocabulary as words
from outlive.kinds.processes.limits import Standing
from outlive.kinds.processes.tags import Tags
from outlive.kinds.processes.vocabulary import Failure
from outlive.kinds.processes.webhooks import NoticeView


class PastState(Struct, frozen=True, omit_defaults=True):
    """A status the process has had, since when, and why."""

    status: str
    at: int
    why: str = ""


class AttemptView(Struct, frozen=True):
    """One try of a step: `interrupted` when its node died during it."""

    number: int
    began: int
    ended: int | None
    outcome: str
    error: Failure | None = None
    node: str = ""


class StepView(Struct, frozen=True):
    """One durable point of a process: a step, transaction, wait, sleep or undo."""

    name: str
    kind: str
    began: int
    ended: int | None
    outcome: str
    attempts: tuple[AttemptView, ...] = ()
    error: Failure | None = None


class ChildView(Struct, frozen=True):
    """A process that was started by this one, as this one's journal knows it."""

    id: str
    name: str
    """What it is called in the journal of its parent: `start ship`."""
    type: str
    version: int
    status: str
    """`open`, `cancelling` (told to, and not ended), the status of its end, or `detached`."""
    detached: bool
    began: int
    ended: int | None = None


class View(Struct, frozen=True):
    """Everything there is to say about a process at position `seq` of its journal."""

    id: str
    type: str
    version: int
    status: str
    seq: int
    data: Raw
    result: Raw | None
    failure: Failure | None
    started: int
    changed: int
    ended: int | None
    waits_for: str
    due: int | None
    history: tuple[PastState, ...]
    steps: tuple[StepView, ...]
    node: str
    epoch: int
    takeovers: int
    cancel_requested: bool
    notice: NoticeView | None = None
    """Who is told of its end, and how that stands; None: nobody."""
    era: int = 1
    parent: str = ""
    """The process that has started it; empty when it was started from outside."""
    children: tuple[ChildView, ...] = ()
    standing: Standing | None = None
    """Where it stands in its line, while it is queued for a place."""
    forked_from: str = ""
    """The process that has done the first part of it; empty: none."""
    forks: tuple[str, ...] = ()
    """The processes that go on from a part of it."""
    tags: dict[str, str] = {}
    """What it is found by (tags.py)."""

    @property
    def final(self) -> bool:
        return self.status in words.FINAL


class Summary(Struct, frozen=True):
    """One line of a list of processes."""

    id: str
    type: str
    version: int
    status: str
    started: int
    changed: int
    waits_for: str
    due: int | None
    tags: dict[str, str] = {}


class Begun(Struct, frozen=True):
    """The answer to a start: `replayed` when the key had been used for the same request before."""

    id: str
    seq: int
    replayed: bool
    time: int = 0
    """When it was started by this call, on the store's clock; 0 when it is queued or replayed."""
    data: Raw = NULL
    """What it was started with, if this call started it."""
    tags: Tags = ()


class Node(Struct, frozen=True):
    """One process of the operating system that serves the store."""

    id: str
    host: str
    pid: int
    since: int
    expires: int
    phase: str
    shards: int
    runs: tuple[str, ...]


COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Stats(Struct):
    """Counters of one node since it started; seconds and counts."""

    started: int = 0
    ended: dict[str, int] = {}
    steps: int = 0
    attempts_failed: int = 0
    takeovers: int = 0
    crashes: int = 0
    commits: int = 0
    batches: int = 0
    refused: int = 0
    fenced: int = 0
    active: int = 0
    shards: int = 0
    commit_seconds: float = 0.0
    commit_latency: tuple[int, ...] = ()
    """How many commits took up to each of `COMMIT_SECONDS`, and how many took longer."""
    pending: int = 0
    pending_bytes: int = 0
    turns: int = 0
    starts_refused: dict[str, int] = {}
    """By why: memory, commits, backlog, quota."""
