"""An ended process as a line: all of it, and each one once."""

from __future__ import annotations

import pytest
from msgspec import Raw

from outlive.clock import MICROS
from outlive.errors import ArchiveDamaged
from outlive.kinds.processes import view_of
from outlive.kinds.processes import vocabulary as words
from outlive.kinds.processes.archived import line_of, name_of, read
from outlive.kinds.processes.cells import Head
from outlive.kinds.processes.vocabulary import KIND_OF, pack
from outlive.model import Event

START = 1_767_225_600 * MICROS
HEAD = Head("s", "order", 2, "done", START, START + 9 * MICROS, tags=(("who", "é"),))
JOURNAL = (
    words.Started("o_1", "order", 2, Raw(b'{"a": 1}'), "n", tags=(("who", "é"),)),
    words.StepDone("work", "work", 0, "hash", START, result=Raw(b"18446744073709551617")),
    words.Ended("done", Raw(b'"x"')),
)
EVENTS = [
    Event(3, 7 + n, "s", n, KIND_OF[type(event)], pack(event), START + n, b"chain")
    for n, event in enumerate(JOURNAL)
]


def test_a_line_says_all_that_the_journal_said() -> None:
    (found,) = read([line_of("o_1", HEAD, EVENTS)])
    assert [(event.n, event.kind, event.data, event.time) for event in found.journal()] == [
        (event.n, event.kind, event.data, event.time) for event in EVENTS
    ]
    assert found.view() == view_of("o_1", HEAD, EVENTS)
    assert (found.started, found.ended, found.tags) == (START, START + 2, {"who": "é"})
    assert b"\n" not in line_of("o_1", HEAD, EVENTS)


def test_a_process_that_stands_there_twice_is_read_once() -> None:
    line = line_of("o_1", HEAD, EVENTS)
    assert len(list(read([line, line_of("o_2", HEAD, EVENTS), line]))) == 2


def test_a_file_is_of_a_type_and_of_the_day_on_which_they_ended() -> None:
    assert name_of(HEAD) == "order/2026-01-01"


NO_UTF8 = line_of("o_1", HEAD, EVENTS).replace(b'"type":"order"', b'"type":"\xff"')


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b'{"format":2}', NO_UTF8])
def test_a_line_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(ArchiveDamaged):
        list(read([line]))


def test_another_format_is_refused_by_its_number() -> None:
    line = line_of("o_1", HEAD, EVENTS).replace(b'"format":1', b'"format":2')
    with pytest.raises(ArchiveDamaged, match="of format 2"):
        list(read([line]))
