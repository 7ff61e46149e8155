"""The dashboard over HTTP."""

from __future__ import annotations

import httpx
import pytest
from msgspec import Raw
from tests.web.conftest import client_of
from tests.web.fake import START, Fake, declare

from outlive.kinds.processes import AttemptView, ChildView, Failure, PastState, StepView
from outlive.web.asgi import create

OWN = {"Origin": "http://localhost:8000"}
PAGE = "/outlive/processes/reg_1"


async def test_an_empty_list_teaches_with_a_command(client: httpx.AsyncClient) -> None:
    page = await client.get("/outlive")
    assert page.status_code == 200
    assert "curl -i http://localhost:8000/registrations" in page.text
    assert "{&#34;email&#34;: &#34;text&#34;}" in page.text


async def test_without_a_declaration_it_teaches_to_declare() -> None:
    fake = Fake(declare("x", "/x"))
    fake.definitions = {}
    async with client_of(create(fake)) as client:  # type: ignore[arg-type]
        assert "@app.process" in (await client.get("/outlive")).text


async def test_the_list_shows_counts_times_nodes_and_shards(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add("reg_1", "register")
    fake.add("reg_2", "register", status="stuck")
    text = (await client.get("/outlive")).text
    assert "reg_1" in text and "reg_2" in text
    assert 'class="badge is-stuck"' in text
    assert "2026-" in text and " ago" in text
    assert "owner-gone" in text and "taken from" in text


async def test_the_list_filters_by_the_address(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.add("reg_1", "register")
    fake.add("ord_1", "order", status="stuck")
    text = (await client.get("/outlive?status=stuck&type=order")).text
    assert "ord_1" in text and "reg_1" not in text
    assert "Nothing matches" in (await client.get("/outlive?status=done")).text
    assert (await client.get("/outlive?status=lost")).status_code == 422


async def test_a_fragment_is_the_part_that_changes(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.add("reg_1", "register")
    for path in ("/outlive", PAGE):
        text = (await client.get(f"{path}?fragment=1")).text
        assert "reg_1" in text and "<html" not in text


async def test_pages_carry_the_strict_policy_and_nothing_inline(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add("reg_1", "register")
    for path in ("/outlive", PAGE, "/outlive/problems", "/outlive/problems/draining"):
        page = await client.get(path)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert " style=" not in page.text and "<style" not in page.text
        assert " on" + "click" not in page.text and "<script>" not in page.text


async def test_a_process_shows_attempts_kills_take_overs_and_data(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    error = Failure("Refused", "<b>no</b>")
    tries = (
        AttemptView(1, START, START + 5_000_000, "interrupted", None, "host-1-aaaaaaaa"),
        AttemptView(1, START + 6_000_000, START + 7_000_000, "failed", error, "host-2-bbbbbbbb"),
        AttemptView(2, START + 8_000_000, START + 9_000_000, "done", None, "host-2-bbbbbbbb"),
    )
    over = "taken over by host-2-bbbbbbbb after a crash"
    fake.add(
        "reg_1",
        "register",
        data=Raw(b'{"step":"<script>alert(1)</script>"}'),
        takeovers=1,
        changed=START + 9_000_000,
        history=(PastState("running", START), PastState("running", START + 5_500_000, over)),
        steps=(StepView("charge", "step", START, START + 9_000_000, "done", tries),),
    )
    text = (await client.get(PAGE)).text
    assert "killed once" in text and over in text
    assert 'class="bar interrupted"' in text and 'class="takeover"' in text
    assert "Refused: &lt;b&gt;no&lt;/b&gt;" in text
    assert "<script>alert" not in text
    assert 'data-events="/registrations/reg_1"' in text


async def test_a_process_leads_to_its_parent_and_its_children(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    child = ChildView("pay_1", "start pay", "pay", 2, "cancelling", False, START)
    fake.add("reg_1", "register", parent="shop_1", waits_for="pay_1", children=(child,))
    text = (await client.get(PAGE)).text
    assert '/outlive/processes/shop_1"' in text and '/outlive/processes/pay_1"' in text
    assert "1, 1 not ended" in text and "cancelling" in text
    assert 'name="name" value="pay_1"' not in text, "a child is not the name of a signal"


async def test_a_process_that_does_not_exist_has_a_page_that_says_so(
    client: httpx.AsyncClient,
) -> None:
    page = await client.get("/outlive/processes/reg_x")
    assert page.status_code == 404
    assert "There is no such process" in page.text


@pytest.mark.parametrize(
    ("verb", "form", "call"),
    [
        ("signal", {"name": "confirmed", "payload": '{"a": 1}'}, b'{"a": 1}'),
        ("signal", {"name": "confirmed", "payload": ""}, b"null"),
        ("cancel", {"reason": "typo"}, "typo"),
        ("retry", {}, "dashboard"),
    ],
)
async def test_an_action_is_done_once_and_leads_back_to_the_page(
    client: httpx.AsyncClient, fake: Fake, verb: str, form: dict[str, str], call: object
) -> None:
    fake.add("reg_1", "register", status="stuck")
    answer = await client.post(f"{PAGE}/{verb}", data=form, headers=OWN)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PAGE}?done={verb}")
    made = [one for one in fake.calls if one[0] == verb]
    assert len(made) == 1 and call in made[0]
    assert 'role="status"' in (await client.get(answer.headers["location"])).text


async def test_a_refused_action_shows_the_problem_on_the_page(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add("reg_1", "register")
    answer = await client.post(f"{PAGE}/retry", headers=OWN)
    assert answer.status_code == 409
    assert "OL2005" in answer.text and "reg_1" in answer.text
    nameless = await client.post(f"{PAGE}/signal", headers=OWN)
    assert nameless.status_code == 400
    lost = await client.post("/outlive/processes/reg_x/retry", headers=OWN)
    assert lost.status_code == 404


async def test_assets_are_served_and_revalidated(client: httpx.AsyncClient) -> None:
    for name, kind in (("outlive.css", "text/css"), ("outlive.js", "text/javascript")):
        got = await client.get(f"/outlive/assets/{name}")
        assert got.headers["content-type"].startswith(kind)
        known = {"If-None-Match": got.headers["etag"]}
        assert (await client.get(f"/outlive/assets/{name}", headers=known)).status_code == 304
    assert (await client.get("/outlive/assets/..%2fpages.py")).status_code == 404
