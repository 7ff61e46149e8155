"""Which process, step and attempt a log line is about: yours as well as ours.

    handler.addFilter(ProcessFilter())
    logging.Formatter("%(asctime)s %(message)s %(process_id)s %(step)s %(attempt)s")

The filter lets every record pass and adds to it what runs where it was written: in a body
`process_id`; in a step or an undo also `step` and `attempt`. Elsewhere they are empty, and
`attempt` is 0. A log line of a thread that the code began by itself has none of them.

It reads a context variable and nothing else. Made before the application is opened: then what
stands in a body between two steps is told from the step before it.
"""

from __future__ import annotations

import logging

from outlive import steps

_filters = 0


class ProcessFilter(logging.Filter):
    """Adds `process_id`, `step`, `attempt` and `undoing` to each record; refuses none."""

    def __init__(self) -> None:
        global _filters
        super().__init__()
        _filters += 1

    def filter(self, record: logging.LogRecord) -> bool:
        running = steps.attempt()
        inside = bool(running.process)
        record.process_id = running.process
        record.step = running.id if inside else ""
        record.attempt = running.number if inside else 0
        record.undoing = running.undoing
        return True


def are_wanted() -> bool:
    """Whether a filter was made in this program."""
    return _filters > 0
