"""The dashboard's forms, on a real application in memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from urllib.parse import unquote

import httpx
import pytest
from tests.service import has_status
from tests.web.conftest import OWN, client_of, sealed, send

from outlive import Access, Outlive, Retry, Run, step
from outlive.web.actions import PARTS, number_of, ours_only

ANN = "ann-" + "a" * 20
LIST = "/outlive/processes"


@step(retry=Retry(attempts=9, base_seconds=3600, cap_seconds=3600), undo="give_back")
def take(form: dict[str, str]) -> str:
    if form["card"] == "broken":
        raise ConnectionError("the bank does not answer")
    return "taken"


def give_back(form: dict[str, str], made: object) -> None:
    pass


@pytest.fixture
async def app() -> AsyncIterator[Outlive]:
    made = Outlive("memory://", redact={"secret"}, dashboard=Access(operators={"ann": ANN}))

    @made.process(
        "/orders", version=1, signals={"packed": None}, tags={"city": lambda form: form.get("city")}
    )
    async def order(run: Run, form: dict[str, str]) -> str:
        how = await run(take, form)
        await run.wait("packed", within=86_400)
        return how

    made.order = order  # type: ignore[attr-defined]
    async with made:
        yield made


@pytest.fixture
async def client(app: Outlive) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app.asgi(), peer="203.0.113.9") as made:
        form = {"seal": await sealed(made, "/outlive/sign-in"), "token": ANN}
        await made.post("/outlive/sign-in", data=form, headers=OWN)
        yield made


async def order(app: Outlive, card: str = "good", **more: str) -> str:
    handle = await app.start(app.order, {"card": card, **more})  # type: ignore[attr-defined]
    if card == "good":
        await has_status(app, handle.id, "waiting")
    else:
        while not any(entry.kind == "attempt" for entry in await app.journal(handle.id)):
            await app.changed(handle.id, 1, 1.0)
    return handle.id


def page_of(id: str) -> str:
    return f"{LIST}/{id}"


async def done(client: httpx.AsyncClient, id: str, verb: str, **form: str) -> str:
    """Do it, and follow to the page it leads to; gives the id there."""
    answer = await send(client, page_of(id), verb, **form)
    assert answer.status_code == 303, answer.text
    place = answer.headers["location"]
    page = await client.get(place)
    assert 'role="status"' in page.text
    return unquote(place.removeprefix(LIST + "/").partition("?")[0])


async def why(app: Outlive, id: str) -> str:
    return "\n".join(past.why for past in (await app.view(id)).history)


async def test_a_pause_a_resume_and_a_signal_are_done_under_the_visitors_name(
    app: Outlive, client: httpx.AsyncClient
) -> None:
    id = await order(app)
    await done(client, id, "pause", why="the van is broken")
    await has_status(app, id, "paused")
    assert "paused by ann: the van is broken" in await why(app, id)
    await done(client, id, "resume")
    await has_status(app, id, "waiting")
    await done(client, id, "signal", name="packed", payload="")
    await has_status(app, id, "done")


async def test_a_step_that_fails_is_skipped_with_a_value(
    app: Outlive, client: httpx.AsyncClient
) -> None:
    id = await order(app, "broken")
    assert 'value="take"' in (await client.get(page_of(id))).text, "it is proposed"
    await done(client, id, "skip", step="take", value='"in cash"', why="paid at the desk")
    await has_status(app, id, "waiting")
    assert "by ann: paid at the desk" in await why(app, id)


async def test_what_waits_for_its_next_attempt_is_retried_at_once(
    app: Outlive, client: httpx.AsyncClient
) -> None:
    id = await order(app, "broken")
    await done(client, id, "retry", why="they say it works")
    assert "the next attempt is made at once by ann" in await why(app, id)


async def test_a_deadline_is_set_and_lifted(app: Outlive, client: httpx.AsyncClient) -> None:
    id = await order(app)
    await done(client, id, "deadline", seconds="7200", why="an hour more")
    await done(client, id, "deadline", seconds="", why="never mind")
    said = await why(app, id)
    assert "its deadline is set by ann" in said and "lifted by ann: never mind" in said


async def test_a_fork_leads_to_the_fork_and_takes_an_edited_input(
    app: Outlive, client: httpx.AsyncClient
) -> None:
    id = await order(app)
    page = (await client.get(page_of(id))).text
    assert "&#34;card&#34;: &#34;good&#34;" in page
    fork = await done(
        client, id, "fork", at="take", input='{"card": "other"}', cancel="1", why="wrong card"
    )
    assert fork != id and (await app.view(fork)).forked_from == id
    await has_status(app, fork, "waiting")
    assert b"other" in bytes((await app.view(fork)).data)
    await has_status(app, id, "cancelled", "rolled_back")


async def test_a_redacted_input_is_forked_whole_and_never_with_its_mask(
    app: Outlive, client: httpx.AsyncClient
) -> None:
    id = await order(app, secret="4711")
    page = (await client.get(page_of(id))).text
    assert (
        "4711" not in page and "4711" not in (await client.get(page_of(id) + "/journal.json")).text
    )
    shown = '{\n  "card": "good",\n  "secret": "…"\n}'
    changed = shown.replace("good", "other")
    refused = await send(client, page_of(id), "fork", at="take", input=changed, cancel="1", why="x")
    assert refused.status_code == 422 and "redacted" in refused.text
    fork = await done(
        client, id, "fork", at="wait packed", input=shown.replace("\n", "\r\n"), cancel="1", why="x"
    )
    assert b"4711" in bytes((await app._view(fork)).data)


@pytest.mark.parametrize("verb", ["cancel", "deadline", "fork", "skip"])
async def test_what_cannot_be_taken_back_needs_a_reason(
    app: Outlive, client: httpx.AsyncClient, verb: str
) -> None:
    id = await order(app)
    before = await app.seq(id)
    answer = await send(client, page_of(id), verb, why="  ", at="take", seconds="5")
    assert answer.status_code == 422 and "OL4014" in answer.text and id in answer.text
    assert await app.seq(id) == before


async def test_a_refusal_is_shown_on_the_page(app: Outlive, client: httpx.AsyncClient) -> None:
    id = await order(app)
    cases: list[tuple[str, dict[str, str], int]] = [
        ("resume", {}, 409),
        ("signal", {"name": ""}, 400),
        ("signal", {"name": "lost"}, 422),
        ("skip", {"step": "take", "value": "{", "why": "x"}, 422),
        ("skip", {"step": "take", "value": "[" * 5000, "why": "x"}, 422),
        ("deadline", {"seconds": "-1", "why": "x"}, 422),
        ("deadline", {"seconds": "0", "why": "x"}, 422),
        ("fork", {"at": "nowhere", "input": "1", "version": "x", "why": "x"}, 422),
    ]
    for verb, form, status in cases:
        answer = await send(client, page_of(id), verb, **form)
        assert answer.status_code in (status, 404, 409), (verb, form, answer.status_code)
        assert 'role="alert"' in answer.text and id in answer.text
    gone = await client.post(
        page_of(id[:-4] + "0000") + "/pause",
        data={"seal": await sealed(client, page_of(id))}, headers={**OWN, "Accept": "text/html"},
    )  # fmt: skip
    assert gone.status_code == 404


@pytest.mark.parametrize(
    ("seconds", "asked", "said"),
    [("5400", "Set the deadline of 1 process?", "within 1 h 30 min of"), ("", "Lift the", "Lift")],
)
async def test_a_deadline_of_many_says_which_before_it_is_confirmed(
    app: Outlive, client: httpx.AsyncClient, seconds: str, asked: str, said: str
) -> None:
    await order(app)
    seal = await sealed(client, f"{LIST}?status=waiting")
    form = {"seal": seal, "verb": "deadline", "status": "waiting", "seconds": seconds}
    preview = (await client.post("/outlive/many", data=form, headers=OWN)).text
    assert asked in preview and said in preview
    token = re.search(r'action="/outlive/many/([a-z0-9]+)"', preview)
    assert token is not None
    confirm = {"seal": seal, "verb": "deadline", "why": "sold out"}
    report = await client.post(f"/outlive/many/{token[1]}", data=confirm, headers=OWN)
    assert "1 of 1 were asked" in report.text and "To change the deadline" in report.text


async def test_many_are_shown_first_and_then_exactly_they_are_asked(
    app: Outlive, client: httpx.AsyncClient
) -> None:
    ids = [await order(app) for _ in range(3)]
    seal = await sealed(client, f"{LIST}?status=waiting")
    form = {"seal": seal, "verb": "cancel", "status": "waiting", "limit": "1000"}
    preview = await client.post("/outlive/many", data=form, headers=OWN)
    assert "Cancel 3 processes?" in preview.text
    for id in ids:
        assert (await app.view(id)).status == "waiting"
    token = re.search(r'action="/outlive/many/([a-z0-9]+)"', preview.text)
    assert token is not None
    confirm = {"seal": seal, "verb": "cancel"}
    refused = await client.post(f"/outlive/many/{token[1]}", data=confirm, headers=OWN)
    assert refused.status_code == 422
    wrong = {**confirm, "verb": "pause", "why": "x"}
    assert (
        await client.post(f"/outlive/many/{token[1]}", data=wrong, headers=OWN)
    ).status_code > 400
    late = await order(app)
    report = await client.post(
        f"/outlive/many/{token[1]}", data={**confirm, "why": "sold out"}, headers=OWN
    )
    assert "3 of 3 were asked" in report.text
    for id in ids:
        await has_status(app, id, "cancelled", "rolled_back")
        assert "by ann: sold out" in await why(app, id)
    assert (await app.view(late)).status == "waiting"


async def test_many_are_chosen_as_the_list_is_filtered_and_asked_part_by_part(
    app: Outlive, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.doors.bulk.PART", 1)
    ids = [await order(app, city=city) for city in ("rome", "oslo", *["rome"] * PARTS)]
    where = f"{LIST}?tag.city=rome&startedSince=2020-01-01T00%3A00%3A00Z"
    listed = (await client.get(where)).text
    assert 'name="tag.city" value="rome"' in listed
    form = {
        "seal": await sealed(client, where), "verb": "pause", "tag.city": "rome",
        "startedSince": "2020-01-01T00:00:00Z", "limit": "1000",
    }  # fmt: skip
    preview = (await client.post("/outlive/many", data=form, headers=OWN)).text
    assert f"Pause {PARTS + 1} processes?" in preview and ids[1] not in preview
    found = re.search(r'action="(/outlive/many/[a-z0-9]+)"', preview)
    assert found is not None
    confirm = {"seal": form["seal"], "verb": "pause", "why": "a strike"}
    part = (await client.post(found[1], data=confirm, headers=OWN)).text
    assert f"{PARTS} of {PARTS + 1} so far" in part and 'value="a strike"' in part
    whole = (await client.post(found[1], data=confirm, headers=OWN)).text
    assert f"{PARTS + 1} of {PARTS + 1} were asked" in whole
    await has_status(app, ids[0], "paused")
    assert (await app.view(ids[1])).status == "waiting"
    beside = {"type": "order", **form, "unfinished": "1"}
    answer = await client.post("/outlive/many", data=beside, headers=OWN)
    assert answer.status_code == 422 and "not chosen by unfinished" in answer.text
    wrong = {**form, "tag.planet": "mars"}
    assert (await client.post("/outlive/many", data=wrong, headers=OWN)).status_code == 422


async def test_nothing_is_asked_of_everything(client: httpx.AsyncClient, app: Outlive) -> None:
    await order(app)
    assert "everything at once" in (await client.get(LIST)).text
    merged = (await client.get(f"{LIST}?type=order&unfinished=1")).text
    assert "not chosen by unfinished" in merged
    sought = (await client.get(f"{LIST}?status=waiting&q=nobody")).text
    assert "Nothing is called" in sought and "/outlive/many" not in sought
    seal = await sealed(client, f"{LIST}?status=waiting")
    answer = await client.post("/outlive/many", data={"seal": seal, "verb": "cancel"}, headers=OWN)
    assert answer.status_code == 422 and "Name a status, a type or a tag" in answer.text


@pytest.mark.parametrize("text", ["x", "-1", "1.2.3", "1" * 13, "１", "nan"])
def test_a_number_of_a_form_is_one(text: str) -> None:
    with pytest.raises(Exception, match="must be a number"):
        number_of({"seconds": text}, "seconds")


def test_the_place_after_signing_in_is_ours() -> None:
    assert ours_only("/outlive/processes?status=stuck&type=a%20b").startswith("/outlive/processes?")
    assert ours_only("/outlive\r\nSet-Cookie: x") == "/outlive"
