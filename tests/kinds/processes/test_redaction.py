"""Nobody is shown what is redacted; the process itself sees it."""

from __future__ import annotations

import json

from msgspec import Raw

from outlive import Outlive, Run
from outlive.kinds.processes.redaction import masked, masked_event
from outlive.kinds.processes.vocabulary import StepDone, pack, unpack
from outlive.stores.memory import MemoryStore


async def pay(run: Run, form: dict[str, str]) -> dict[str, str]:
    run.state = {"card": form["card"], "step": "charged"}
    return {"card": form["card"][-4:], "name": form["name"]}


def test_a_member_is_masked_wherever_it_stands() -> None:
    document = Raw(b'{"a":[{"card":"1"},{"b":{"card":{"n":2}}}],"name":"x","no card":null}')
    assert json.loads(bytes(masked(document, {"card"}))) == {
        "a": [{"card": "…"}, {"b": {"card": "…"}}],
        "name": "x",
        "no card": None,
    }
    assert bytes(masked(Raw(b'{"card":null}'), {"card"})) == b'{"card":null}'
    assert bytes(masked(Raw(b"7"), {"card"})) == b"7"


def test_of_an_event_only_what_a_program_gave_is_masked() -> None:
    event = StepDone("pay", "pay", 0, '[{"id":4711}]', began=1, result=Raw(b'{"id":"7"}'))
    data = pack(event)
    made = masked_event("step", data, {"id", "order"})
    found = unpack("step", made)
    assert (found.id, found.order, json.loads(bytes(found.result))) == ("pay", 0, {"id": "…"})
    assert json.loads(found.args) == [{"id": "…"}], "short arguments stand there as they are"
    assert masked_event("step", data, {"card"}) is data


async def test_a_result_is_whole_and_what_is_shown_is_not() -> None:
    app = Outlive(MemoryStore(), redact=("card",))
    app.process("/payments", version=1)(pay)
    async with app:
        handle = await app.start(pay, {"card": "4711-0815", "name": "Ann"})
        assert await handle.result(within=20) == {"card": "0815", "name": "Ann"}
        view = await handle.view()
        shown = bytes(view.data) + bytes(view.result or b"")
        shown += b"".join(bytes(entry.data) for entry in await app.journal(handle.id))
        assert b"0815" not in shown and b"Ann" in shown and "…".encode() in shown
        begun = await app.begin("pay", b'{"card":"4711","name":"Bob"}')
        assert b"4711" not in bytes(app.redacted(begun.data))
