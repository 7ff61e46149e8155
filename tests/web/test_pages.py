"""The dashboard over HTTP."""

from __future__ import annotations

import httpx
import pytest
from msgspec import Raw
from tests.web.conftest import client_of
from tests.web.fake import START, Fake, declare

from outlive.ids import public_id
from outlive.kinds.processes import AttemptView, ChildView, Entry, Failure, PastState, StepView
from outlive.web.asgi import Face, create

PAGE = "/outlive/processes/reg_1"


async def test_an_empty_list_teaches_with_a_command(client: httpx.AsyncClient) -> None:
    page = await client.get("/outlive")
    assert page.status_code == 200
    assert "No process yet" in page.text
    assert "curl -i http://localhost:8000/registrations" in page.text
    assert "{&#34;email&#34;: &#34;text&#34;}" in page.text


async def test_without_a_declaration_it_teaches_to_declare() -> None:
    fake = Fake(declare("x", "/x"))
    fake.definitions = {}
    async with client_of(create(fake)) as client:  # type: ignore[arg-type]
        assert "@app.process" in (await client.get("/outlive")).text


async def test_the_list_shows_counts_and_times(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.add("reg_1", "register")
    fake.add("reg_2", "register", status="stuck")
    text = (await client.get("/outlive/processes")).text
    assert "reg_1" in text and "reg_2" in text
    assert 'class="badge is-stuck"' in text
    assert "2026-" in text and " ago" in text


async def test_the_list_filters_by_the_address(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.add("reg_1", "register")
    fake.add("ord_1", "order", status="stuck")
    text = (await client.get("/outlive/processes?status=stuck&type=order")).text
    assert "ord_1" in text and "reg_1" not in text
    assert "Nothing matches" in (await client.get("/outlive/processes?status=done")).text
    assert (await client.get("/outlive/processes?status=lost")).status_code == 422


async def test_what_changes_is_named_so_that_it_can_be_fetched_again(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add("reg_1", "register")
    for path in ("/outlive", PAGE, "/outlive/processes?status=running&type=register"):
        text = (await client.get(path)).text
        assert text.count('id="live"') == 1
        assert f'hx-get="{path.replace("&", "&amp;")}"' in text


async def test_the_overview_says_whether_somebody_must_act(
    client: httpx.AsyncClient, fake: Fake, face: Face
) -> None:
    fake.add("reg_1", "register")
    fake.add("reg_2", "register", status="failed")
    text = (await client.get("/outlive")).text
    assert "Nobody serves" not in text and "A take-over is under way" in text
    assert "Failing types" in text and "Last take-overs" in text
    fake.add("reg_3", "register", status="stuck")
    face._pages.desk._census = None  # type: ignore[union-attr]
    text = (await client.get("/outlive")).text
    assert "1 process waits for somebody" in text and PAGE[:-1] + "3" in text


async def test_where_all_have_failed_the_overview_does_not_say_that_there_is_none(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add("reg_1", "register", status="failed")
    text = (await client.get("/outlive")).text
    assert "No process yet" not in text and "Failing types" in text


async def test_a_search_leads_to_what_it_names(client: httpx.AsyncClient, fake: Fake) -> None:
    id = public_id("reg", 1)
    fake.add(id, "register")
    places = {
        id: f"/{id}",
        "stuck": "?status=stuck",
        "No worker for version": "?status=no_worker_for_version",
        "register": "?type=register",
        "customer=c 1": "?tag.customer=c+1",
    }
    for sought, place in places.items():
        answer = await client.get("/outlive/processes", params={"q": sought})
        assert answer.status_code == 303
        assert answer.headers["location"] == f"/outlive/processes{place}"
    for sought in (public_id("reg", 1), "<b>nothing</b>", "../x"):
        answer = await client.get("/outlive/processes", params={"q": sought})
        assert answer.status_code == 200 and "Nothing is called" in answer.text
        assert "<b>nothing" not in answer.text


@pytest.mark.parametrize("tag", ["customer", "customer=", "=c-17", "= "])
async def test_a_tag_without_a_value_is_no_list_of_everything(
    client: httpx.AsyncClient, fake: Fake, tag: str
) -> None:
    fake.add("reg_1", "register", status="stuck")
    given = {"tag": tag, "status": "stuck"}
    answer = await client.get("/outlive/processes", params=given, follow_redirects=True)
    assert answer.status_code == 422 and answer.json()["parameter"] == "tag"
    if "=" in tag:
        sought = await client.get("/outlive/processes", params={"q": tag}, follow_redirects=True)
        assert "Nothing is called" in sought.text and "reg_1" not in sought.text


async def test_a_person_is_shown_a_problem_as_a_page(client: httpx.AsyncClient) -> None:
    wanted = {"Accept": "text/html,*/*"}
    page = await client.get("/outlive/processes?status=lost", headers=wanted)
    assert page.status_code == 422 and "OL4003" in page.text
    assert page.headers["content-type"].startswith("text/html")
    assert (await client.get("/outlive/nowhere", headers=wanted)).status_code == 404


async def test_a_journal_is_downloaded_as_json(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.add("reg_1", "register")
    answer = await client.get(f"{PAGE}/journal.json")
    assert [line["kind"] for line in answer.json()["journal"]] == ["started"]
    assert "reg_1.json" in answer.headers["content-disposition"]


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
    assert 'data-follow="reg_1"' in text


async def test_the_result_of_a_step_is_not_shown_as_that_of_its_undo(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    steps = (
        StepView("pay", "step", START, START + 5, "done"),
        StepView("pay", "undo", START + 6, START + 9, "undone"),
    )
    fake.add("reg_1", "register", steps=steps, changed=START + 9, ended=START + 9)
    data = Raw(b'{"id":"pay","result":"receipt-7","given":["card-1"]}')
    fake.entries["reg_1"].append(Entry(1, "step", START + 5, "n", "pay done", data))
    forward, _, undone = (await client.get(PAGE)).text.partition("<h3>Undo</h3>")
    undone = undone.partition('class="legend"')[0]
    assert "receipt-7" in forward and "receipt-7" not in undone
    assert "card-1" in forward and "card-1" in undone


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


async def test_an_asset_is_kept_for_ever_only_under_its_own_stamp(
    client: httpx.AsyncClient,
) -> None:
    """While one instance is newer than another, its page may ask the other for the asset."""
    page = (await client.get("/outlive")).text
    named = page.partition('href="/outlive/assets/outlive.css?')[2].partition('"')[0]
    for query, kept in ((named, True), ("0123456789ab", False)):
        got = await client.get(f"/outlive/assets/outlive.css?{query}")
        assert ("immutable" in got.headers["cache-control"]) is kept


async def test_assets_are_served_and_revalidated(client: httpx.AsyncClient) -> None:
    for name, kind in (("outlive.css", "text/css"), ("outlive.js", "text/javascript")):
        got = await client.get(f"/outlive/assets/{name}")
        assert got.headers["content-type"].startswith(kind)
        known = {"If-None-Match": got.headers["etag"]}
        assert (await client.get(f"/outlive/assets/{name}", headers=known)).status_code == 304
    assert (await client.get("/outlive/assets/..%2fpages.py")).status_code == 404


async def test_a_browser_is_told_of_every_refusal_under_our_pages(
    client: httpx.AsyncClient,
) -> None:
    """Whatever is wrong with the address: a page that says so, never an error of the server."""
    html = {"Accept": "text/html"}
    assert (await client.post("/outlive", headers=html)).status_code == 405
    assert (await client.get("/outlive?x=%FF", headers=html)).status_code == 400
    assert (await client.get("/outlive/problems/none?x=%FF", headers=html)).status_code == 404
    assert (await client.get("/outlive?" + "a=1&" * 50, headers=html)).status_code == 400
