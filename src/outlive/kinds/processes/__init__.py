"""Processes: long-running work that survives its worker.

A process is a journal (what happened: steps, attempts, signals, timers, undos) and one cell (what
is true now, and when it must be woken). Its body is ordinary Python that is run again from the
start after a crash; what is recorded is not done again, so that it arrives where it was.

                    ┌──────── signal · timer · retry ───────┐
                    ▼                                       │
    queued ──> running ──> waiting ─────────────────────────┘
                 │  │ └──> paused (drift, crashes, operator) ──> running
                 │  └────> compensating ──> rolled_back · cancelled
                 │               └──> stuck ──> compensating
                 └──> done · failed · cancelled · stuck (past the pivot) ──> running

    running        owned by the node that holds its shard; found again by whoever takes the shard
                   over
    waiting        woken by its cell's `due`, or by the signal named in it
    compensating   undoing completed steps, the last one first

What is *not* promised: that a step runs once. A step whose outcome was not recorded may run again,
with the same key.

    definition.py   what is declared about a type of process
    vocabulary.py   the events of a journal; cells.py: the cell beside it, and commands
    family.py       the children a process has started, as its journal knows them
    subscriptions.py   who hears of which published event
    journal.py      the fold that replay and decisions stand on
    view.py         the fold that people read, into what reports.py names; entries.py: line by line
    eras.py         how an endless process goes from one journal to the next
    transfer.py     a journal as a file; difference.py: what came of replaying one on other code

References: Garcia-Molina & Salem, "Sagas" (1987); RFC 9110 section 15.3.3 (202 Accepted).
"""

from outlive.kinds.processes.cells import Command, Head
from outlive.kinds.processes.definition import Definition
from outlive.kinds.processes.entries import Entry, entries
from outlive.kinds.processes.journal import Journal
from outlive.kinds.processes.reports import (
    COMMIT_SECONDS,
    AttemptView,
    Begun,
    ChildView,
    Node,
    PastState,
    Stats,
    StepView,
    Summary,
    View,
)
from outlive.kinds.processes.view import fresh_view, summary_of, view_of
from outlive.kinds.processes.vocabulary import FINAL, LIVE, STATUSES, Failure, Unknown

__all__ = [
    "COMMIT_SECONDS",
    "FINAL",
    "LIVE",
    "STATUSES",
    "AttemptView",
    "Begun",
    "ChildView",
    "Command",
    "Definition",
    "Entry",
    "Failure",
    "Head",
    "Journal",
    "Node",
    "PastState",
    "Stats",
    "StepView",
    "Summary",
    "Unknown",
    "View",
    "entries",
    "fresh_view",
    "summary_of",
    "view_of",
]
