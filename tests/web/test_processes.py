"""Processes over HTTP, against an application that only pretends."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest
from msgspec import Raw
from tests.web.conftest import client_of, until
from tests.web.driver import Exchange
from tests.web.fake import START, Fake, Form, declare

from outlive import errors
from outlive.kinds.processes import AttemptView, ChildView, Failure, PastState, StepView
from outlive.kinds.processes.limits import Standing
from outlive.web.asgi import Face, create

BODY = {"email": "a@example.org"}
ID = "reg_0123456789abcdefghjkmnpqrs"


# --- start ---


async def test_a_start_answers_with_the_declared_status_and_where_to_look(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post("/registrations", json=BODY)
    body = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/registrations/{body['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["etag"] == '"1"'
    assert body["type"] == "register"
    assert body["data"] == BODY


async def test_a_type_declared_with_202_answers_202(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/orders", json={"any": [1]})).status_code == 202


async def test_the_same_key_gives_the_same_status_and_location_and_says_so(
    client: httpx.AsyncClient,
) -> None:
    key = {"Idempotency-Key": '"k-1"'}
    first = await client.post("/registrations", json=BODY, headers=key)
    again = await client.post("/registrations", json=BODY, headers=key)
    assert again.status_code == first.status_code
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers


async def test_a_bare_key_is_the_same_key_as_a_quoted_one(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    for key in ("order-17", '"order-17"'):
        await client.post("/registrations", json=BODY, headers={"Idempotency-Key": key})
    assert len(fake.views) == 1


async def test_keys_of_different_principals_never_meet(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    for credentials in ("Bearer a", "Bearer b"):
        headers = {"Idempotency-Key": "k", "Authorization": credentials}
        await client.post("/registrations", json=BODY, headers=headers)
    assert len(fake.views) == 2
    assert not any("Bearer" in str(call) for call in fake.calls)


async def test_the_same_key_with_another_body_is_refused_with_422(
    client: httpx.AsyncClient,
) -> None:
    key = {"Idempotency-Key": "k"}
    await client.post("/registrations", json=BODY, headers=key)
    answer = await client.post("/registrations", json={"email": "b"}, headers=key)
    assert (answer.status_code, answer.json()["code"]) == (422, "OL2023")


@pytest.mark.parametrize("key", ['"open', '""', "two words", "a,b", "x" * 256, ":YQ==:"])
async def test_a_malformed_key_is_refused_and_starts_nothing(
    client: httpx.AsyncClient, fake: Fake, key: str
) -> None:
    answer = await client.post("/registrations", json=BODY, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (400, "OL2022")
    assert fake.count("begin") == 0


async def test_a_body_that_is_not_declared_as_json_is_refused_with_415(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    answer = await client.post(
        "/registrations", content=b"email=a", headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 415
    assert fake.count("begin") == 0


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/cloud+json"])
async def test_every_way_of_declaring_json_is_taken(client: httpx.AsyncClient, kind: str) -> None:
    answer = await client.post(
        "/registrations", content=b'{"email":"a"}', headers={"Content-Type": kind}
    )
    assert answer.status_code == 201


async def test_a_missing_content_type_is_accepted(face: Face) -> None:
    sent = Exchange(face, "POST", "/registrations", body=[b'{"email":', b'"a"}'])
    await sent.end()
    assert sent.status == 201


async def test_a_body_over_the_limit_is_refused_while_it_is_read(fake: Fake) -> None:
    face = create(fake, start_bytes_max=10)  # type: ignore[arg-type]
    sent = Exchange(face, "POST", "/registrations", body=[b"x" * 8, b"x" * 8, b"never read"])
    await sent.end()
    assert sent.status == 413
    assert fake.count("begin") == 0


async def test_an_announced_length_over_the_limit_is_refused_unread(fake: Fake) -> None:
    face = create(fake, start_bytes_max=10)  # type: ignore[arg-type]
    async with client_of(face) as client:
        answer = await client.post("/registrations", content=b"x" * 11)
    assert (answer.status_code, answer.json()["code"]) == (413, "OL4005")


@pytest.mark.parametrize(
    ("length", "status"), [("9" * 5000, 413), ("9" * 19, 413), ("0" * 5000, 201)]
)
async def test_a_length_with_more_digits_than_a_number_is_read_by_what_it_says(
    face: Face, fake: Fake, length: str, status: int
) -> None:
    sent = Exchange(
        face,
        "POST",
        "/registrations",
        body=[b'{"email":"a@b.c"}'],
        headers={"content-length": length},
    )
    await sent.end()
    assert sent.status == status
    assert fake.count("begin") == (status == 201)


async def test_a_client_that_leaves_while_sending_starts_nothing(face: Face, fake: Fake) -> None:
    sent = Exchange(face, "POST", "/registrations", body=[b'{"em', b"\0"])
    sent._incoming = asyncio.Queue()
    sent.task.cancel()
    gone = Exchange(face, "POST", "/registrations", body=[b""])
    gone._incoming.get_nowait()
    gone.leave()
    await gone.end()
    assert gone.sent == []
    assert fake.count("begin") == 0


async def test_malformed_and_unfitting_bodies_are_refused_before_anything_is_kept(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    assert (await client.post("/registrations", content=b"{")).status_code == 400
    assert (await client.post("/registrations", json={"email": 1})).status_code == 422
    assert fake.views == {}


async def test_a_start_that_waits_answers_200_with_the_end(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.finishes = True
    answer = await client.post("/registrations", json=BODY, headers={"Prefer": "wait=5"})
    assert answer.status_code == 200
    assert answer.json()["result"] == {"number": 1}
    assert answer.headers["preference-applied"] == "wait=5"
    assert answer.headers["content-location"] == answer.headers["location"]
    assert "retry-after" not in answer.headers


async def test_a_start_that_waits_is_told_when_the_process_ends(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    asking = asyncio.create_task(
        client.post("/registrations", json=BODY, headers={"Prefer": "wait=30"})
    )
    await until(lambda: fake.waiters == 1)
    (id,) = fake.views
    await fake.evolve(id, "step")
    await until(lambda: fake.waiters == 1 and fake.count("view") >= 2)
    await fake.evolve(id, "ended", status="done", result=Raw(b"7"))
    assert (await asking).status_code == 200


async def test_the_store_is_not_asked_at_each_step_of_a_process_that_lives_here(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.lives_here = True
    asking = asyncio.create_task(
        client.post("/registrations", json=BODY, headers={"Prefer": "wait=30"})
    )
    await until(lambda: fake.waiters == 1)
    (id,) = fake.views
    asked = fake.count("view")
    for _ in range(5):
        await fake.evolve(id, "step")
    assert (fake.waiters, fake.count("view")) == (1, asked)
    await fake.evolve(id, "ended", status="done", result=Raw(b"7"))
    answer = await asking
    assert (answer.status_code, answer.json()["result"]) == (200, 7)
    assert fake.count("view") == asked + 1


async def test_what_is_known_when_the_wait_is_over_is_the_answer(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.lives_here = True
    asking = asyncio.create_task(
        client.post("/registrations", json=BODY, headers={"Prefer": "wait=30"})
    )
    await until(lambda: fake.waiters == 1)
    (id,) = fake.views
    await fake.evolve(id, "step")
    await fake.drain()
    answer = await asking
    assert (answer.status_code, answer.headers["etag"]) == (201, '"2"')


async def test_a_start_whose_patience_ends_answers_as_without_it(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post("/registrations", json=BODY, headers={"Prefer": "wait=1"})
    assert answer.status_code == 201


async def test_a_start_while_draining_is_503_with_retry_after(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    await fake.drain()
    answer = await client.post("/registrations", json=BODY)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["retryable"] is True


async def test_an_unknown_outcome_may_be_repeated_only_with_a_key(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.raises = errors.OutcomeUnknown()
    bare = await client.post("/registrations", json=BODY)
    keyed = await client.post("/registrations", json=BODY, headers={"Idempotency-Key": "k"})
    assert (bare.status_code, bare.json()["retryable"]) == (500, False)
    assert (keyed.status_code, keyed.json()["retryable"]) == (500, True)


# --- status ---


async def test_the_status_tells_everything_that_is_durable(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    error = Failure("Refused", "no such bank", "BANK")
    tries = (
        AttemptView(1, START, START + 1, "interrupted", None, "n1"),
        AttemptView(2, START + 2, START + 3, "failed", error, "n2"),
    )
    fake.add(
        ID,
        "register",
        status="rolled_back",
        failure=error,
        ended=START + 9,
        history=(PastState("running", START), PastState("rolled_back", START + 9, "why")),
        steps=(StepView("charge", "step", START, START + 3, "failed", tries, error),),
    )
    body = (await client.get(f"/registrations/{ID}")).json()
    assert body["status"] == "rolled_back"
    assert body["problem"]["detail"] == "no such bank"
    assert body["problem"]["code"] == "BANK"
    assert body["history"][1]["why"] == "why"
    step = body["steps"][0]
    assert set(step) == {"name", "kind", "outcome", "beganAt", "endedAt", "attempts"}
    assert step["attempts"][0]["outcome"] == "interrupted"
    assert step["attempts"][1]["error"]["message"] == "no such bank"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body["endedAt"])
    assert body["links"]["cancel"] == f"/registrations/{ID}/cancel"
    assert "result" not in body and "waitsFor" not in body


async def test_the_status_names_the_parent_and_the_children(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    child = ChildView("pay_1", "start pay", "pay", 2, "done", False, START, START + 3)
    fake.add(ID, "register", parent="shop_1", children=(child,))
    body = (await client.get(f"/registrations/{ID}")).json()
    assert body["parent"] == "shop_1"
    (found,) = body["children"]
    assert (found["id"], found["type"], found["version"]) == ("pay_1", "pay", 2)
    assert (found["name"], found["status"]) == ("start pay", "done")
    fake.add(ID, "register")
    body = (await client.get(f"/registrations/{ID}")).json()
    assert "parent" not in body and "children" not in body


async def test_a_running_process_says_when_to_come_back_and_a_final_one_does_not(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register")
    assert "retry-after" in (await client.get(f"/registrations/{ID}")).headers
    await fake.evolve(ID, "ended", status="done")
    assert "retry-after" not in (await client.get(f"/registrations/{ID}")).headers


async def test_a_known_etag_gets_304_without_a_view(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.add(ID, "register")
    etag = (await client.get(f"/registrations/{ID}")).headers["etag"]
    before = fake.count("view")
    for known in (etag, f'"99", W/{etag}'):
        answer = await client.get(f"/registrations/{ID}", headers={"If-None-Match": known})
        assert answer.status_code == 304
        assert answer.content == b""
        assert answer.headers["etag"] == etag
    assert fake.count("view") == before
    await fake.evolve(ID, "step")
    answer = await client.get(f"/registrations/{ID}", headers={"If-None-Match": etag})
    assert answer.status_code == 200


async def test_the_etag_of_a_queued_process_changes_with_its_place_in_line(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    url, tags = f"/registrations/{ID}", []
    for ahead in (2, 1):
        fake.add(ID, "register", status="queued", standing=Standing("register.0", ahead))
        for known in ('"0"', *tags):
            answer = await client.get(url, headers={"If-None-Match": known})
            assert (answer.status_code, answer.json()["queue"]["ahead"]) == (200, ahead)
        tags.append(answer.headers["etag"])
        assert not tags[-1].startswith("W/")
        for known in (tags[-1], f"W/{tags[-1]}", "*"):
            answer = await client.get(url, headers={"If-None-Match": known})
            assert (answer.status_code, answer.headers["etag"]) == (304, tags[-1])
    polled = {"If-None-Match": tags[-1], "Prefer": "wait=30"}
    asking = asyncio.create_task(client.get(url, headers=polled))
    await until(lambda: fake.waiters == 1)
    await fake.evolve(ID, "admitted", status="running", standing=None)
    answer = await asking
    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')


async def test_a_long_poll_with_an_etag_returns_as_soon_as_it_differs(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register")
    headers = {"If-None-Match": '"1"', "Prefer": "wait=30"}
    asking = asyncio.create_task(client.get(f"/registrations/{ID}", headers=headers))
    await until(lambda: fake.waiters == 1)
    await fake.evolve(ID, "step")
    answer = await asking
    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')


async def test_a_long_poll_without_an_etag_returns_at_the_end(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register")
    asking = asyncio.create_task(client.get(f"/registrations/{ID}", headers={"Prefer": "wait=30"}))
    await until(lambda: fake.waiters == 1)
    await fake.evolve(ID, "step")
    await fake.evolve(ID, "ended", status="failed", failure=Failure("E", "x"))
    assert (await asking).json()["status"] == "failed"


async def test_a_long_poll_ends_when_the_instance_drains(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register")
    asking = asyncio.create_task(client.get(f"/registrations/{ID}", headers={"Prefer": "wait=30"}))
    await until(lambda: fake.waiters == 1)
    await fake.drain()
    assert (await asking).json()["status"] == "running"


async def test_a_long_poll_ends_when_its_client_leaves(face: Face, fake: Fake) -> None:
    fake.add(ID, "register")
    polling = Exchange(face, "GET", f"/registrations/{ID}", {"Prefer": "wait=30"})
    await until(lambda: fake.waiters == 1)
    polling.leave()
    await polling.end()
    assert fake.waiters == 0


async def test_an_id_of_another_type_is_not_found_on_this_path(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register")
    assert (await client.get(f"/registrations/{ID}")).status_code == 200
    assert (await client.get(f"/v1/orders/{ID}")).status_code == 404
    assert (await client.post(f"/v1/orders/{ID}/cancel")).status_code == 404
    known = {"If-None-Match": '"1"'}
    assert (await client.get(f"/v1/orders/{ID}", headers=known)).status_code == 404


async def test_an_unknown_id_is_404_and_an_expired_one_410(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    assert (await client.get(f"/registrations/{ID}")).status_code == 404
    fake.raises = errors.ProcessGone()
    assert (await client.get(f"/registrations/{ID}")).status_code == 410


async def test_head_mirrors_get(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.add(ID, "register", status="done", ended=START)
    got = await client.get(f"/registrations/{ID}")
    head = await client.head(f"/registrations/{ID}")
    assert head.status_code == 200 and head.content == b""
    assert head.headers == got.headers


# --- list, signal, cancel, retry ---


async def test_a_list_pages_by_cursor_and_link(client: httpx.AsyncClient, fake: Fake) -> None:
    for number in range(3):
        fake.add(f"reg_{number}", "register")
    fake.add("ord_1", "order")
    first = await client.get("/registrations?limit=2")
    assert [item["id"] for item in first.json()["items"]] == ["reg_2", "reg_1"]
    link = re.fullmatch(r'<(.+)>; rel="next"', first.headers["link"])
    assert link is not None
    rest = await client.get(link[1])
    assert [item["id"] for item in rest.json()["items"]] == ["reg_0"]
    assert "next" not in rest.json() and "link" not in rest.headers


async def test_a_list_filters_by_status(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.add("reg_1", "register")
    fake.add("reg_2", "register", status="stuck")
    answer = await client.get("/registrations?status=stuck")
    assert [item["id"] for item in answer.json()["items"]] == ["reg_2"]


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "limit=-1", "status=lost"])
async def test_a_list_refuses_what_it_does_not_know_with_422(
    client: httpx.AsyncClient, query: str
) -> None:
    answer = await client.get(f"/registrations?{query}")
    assert (answer.status_code, answer.json()["parameter"]) == (422, query.partition("=")[0])


async def test_a_signal_is_202_with_where_its_effect_shows(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register")
    answer = await client.post(
        f"/registrations/{ID}/signals/confirmed", json=BODY, headers={"Idempotency-Key": "s-1"}
    )
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/registrations/{ID}"
    assert ("signal", ID, "confirmed", b'{"email":"a@example.org"}', "s-1") in fake.calls


async def test_an_empty_signal_body_is_null(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.add(ID, "register")
    await client.post(f"/registrations/{ID}/signals/confirmed")
    assert ("signal", ID, "confirmed", b"null", None) in fake.calls


async def test_a_signal_body_over_64_kib_is_refused(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.add(ID, "register")
    answer = await client.post(
        f"/registrations/{ID}/signals/confirmed", content=b"0" * (64 * 1024 + 1)
    )
    assert answer.status_code == 413
    assert fake.count("signal") == 0


async def test_a_signal_nobody_takes_and_one_that_comes_too_late_are_409(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register")
    other = await client.post(f"/registrations/{ID}/signals/nonsense")
    assert (other.status_code, other.json()["code"]) == (409, "OL2010")
    await fake.evolve(ID, "ended", status="done")
    late = await client.post(f"/registrations/{ID}/signals/confirmed")
    assert (late.status_code, late.json()["code"]) == (409, "OL2003")


async def test_a_cancel_is_202_and_carries_its_reason(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register")
    assert (await client.post(f"/registrations/{ID}/cancel")).status_code == 202
    answer = await client.post(f"/registrations/{ID}/cancel", json={"reason": "typo"})
    assert answer.status_code == 202
    assert ("cancel", ID, "typo", "http") in fake.calls


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"[]", 422), (b'{"reason":1}', 422)])
async def test_a_cancel_with_a_strange_body_cancels_nothing(
    client: httpx.AsyncClient, fake: Fake, body: bytes, status: int
) -> None:
    fake.add(ID, "register")
    answer = await client.post(f"/registrations/{ID}/cancel", content=body)
    assert answer.status_code == status
    assert fake.count("cancel") == 0


async def test_a_retry_goes_on_with_a_stuck_process_only(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register")
    assert (await client.post(f"/registrations/{ID}/retry")).json()["code"] == "OL2005"
    await fake.evolve(ID, "stuck", status="stuck", failure=Failure("E", "undo gave up"))
    assert (await client.post(f"/registrations/{ID}/retry")).status_code == 202


async def test_a_stuck_process_has_a_problem_with_a_page(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add(ID, "register", status="stuck", failure=Failure("E", "undo gave up"))
    problem = (await client.get(f"/registrations/{ID}")).json()["problem"]
    assert problem["detail"] == "undo gave up"
    page = await client.get(problem["type"])
    assert page.status_code == 200


async def test_ids_of_a_type_with_any_prefix_are_served() -> None:
    fake = Fake(declare("plain", "/plain", prefix="p", input_type=Form))
    fake.add("older_1", "plain")
    async with client_of(create(fake)) as client:  # type: ignore[arg-type]
        assert (await client.get("/plain/older_1")).status_code == 200
