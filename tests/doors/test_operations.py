"""What is answered from afar is read as it was said."""

from __future__ import annotations

import msgspec
import pytest

from outlive import Outlive, Run
from outlive.doors.operations import OPERATIONS, answer_in


async def order(run: Run, what: str | None) -> str | None:
    await run.wait("go")
    if what == "bad":
        raise ValueError("it is bad")
    return what


@pytest.mark.parametrize("what", ["tea", None, "bad"])
async def test_a_process_is_read_as_it_was_sent_with_and_without_a_result(
    what: str | None,
) -> None:
    app, view = Outlive("memory://"), OPERATIONS["view"]
    app.process("/orders", version=1, signals={"go": None})(order)
    async with app:
        id = (await app.start(order, what)).id

        async def reaches(*statuses: str) -> None:
            while (found := await app.view(id)).status not in statuses:
                await app.changed(id, found.seq, 5)
            sent = msgspec.json.encode(found)
            read = answer_in(view, sent)
            assert msgspec.json.encode(read) == sent
            assert (read.result is None) is (found.result is None)

        await reaches("waiting")
        await app.signal(id, "go", b"null")
        await reaches("done", "failed", "rolled_back")


async def test_what_is_no_answer_is_refused() -> None:
    for body in (b"{}", b"[]", b'{"id": 3}', b"<html>", b"\xff"):
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            answer_in(OPERATIONS["view"], body)
    assert answer_in(OPERATIONS["cancel"], b"null") is None
    assert answer_in(OPERATIONS["nodes"], b"[]") == []
