"""The whole application: ours, the wrapped one, prefixes, and what is nobody's."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from tests.web.conftest import client_of
from tests.web.driver import Exchange
from tests.web.fake import Fake, declare

from outlive import Outlive, Run, errors
from outlive.web.asgi import Face, create

BODY = {"email": "a@example.org"}


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello " + request.url.path)


def wrapped() -> Starlette:
    return Starlette(routes=[Route("/hello", hello), Route("/outlive/mine", hello)])


async def test_what_is_not_ours_goes_to_the_wrapped_application(fake: Fake) -> None:
    face = create(fake, wrapped())  # type: ignore[arg-type]
    async with client_of(face) as client:
        assert (await client.get("/hello")).text == "hello /hello"
        assert (await client.get("/nothing")).text == "Not Found"
        assert (await client.post("/registrations", json=BODY)).status_code == 201
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/outlive/mine")).json()["code"] == "OL4001"


async def test_without_a_wrapped_application_the_rest_is_a_404_problem(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "OL4001")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/registrations/", "/registrations//cancel", "//registrations"])
async def test_a_path_with_an_empty_part_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get("http://localhost:8000" + path)
    assert answer.status_code == 404


async def test_a_method_that_is_not_taken_is_405_with_allow(client: httpx.AsyncClient) -> None:
    answer = await client.put("/registrations")
    assert (answer.status_code, answer.json()["code"]) == (405, "OL4002")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert (await client.get("/registrations/reg_1/cancel")).headers["allow"] == "OPTIONS, POST"


async def test_options_names_the_methods(client: httpx.AsyncClient) -> None:
    answer = await client.options("/registrations")
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")


async def test_addresses_carry_the_prefix_of_the_server(fake: Fake) -> None:
    face = create(fake)  # type: ignore[arg-type]
    sent = Exchange(face, "POST", "/api/registrations", body=[b'{"email":"a"}'], root_path="/api")
    await sent.end()
    assert sent.headers["location"].startswith("/api/registrations/reg_")
    lost = Exchange(face, "GET", "/api/nothing", root_path="/api")
    await lost.end()
    assert '"type":"/api/outlive/problems/not-found"' in lost.text
    assert '"instance":"/api/nothing"' in lost.text


async def test_a_prefix_of_any_characters_is_percent_encoded_in_every_address(fake: Fake) -> None:
    face, root = create(fake), "/the größte shop"  # type: ignore[arg-type]
    there = "/the%20gr%C3%B6%C3%9Fte%20shop"
    started = Exchange(
        face, "POST", f"{root}/registrations", body=[b'{"email":"a"}'], root_path=root
    )
    await started.end()
    assert started.headers["location"].startswith(f"{there}/registrations/reg_")
    lost = Exchange(face, "GET", f"{root}/nothing", root_path=root)
    await lost.end()
    assert f'"type":"{there}/outlive/problems/not-found"' in lost.text
    assert f'"instance":"{there}/nothing"' in lost.text
    described = Exchange(face, "GET", f"{root}/openapi.json", root_path=root)
    await described.end()
    assert f'"servers":[{{"url":"{there}"}}]' in described.text


async def test_a_server_that_takes_the_prefix_off_is_understood_too(fake: Fake) -> None:
    face = create(fake)  # type: ignore[arg-type]
    sent = Exchange(face, "POST", "/registrations", body=[b'{"email":"a"}'], root_path="/api")
    await sent.end()
    assert sent.headers["location"].startswith("/api/registrations/reg_")


async def test_mounted_in_another_application_addresses_lead_back(fake: Fake) -> None:
    outer = Starlette(routes=[Mount("/deep/down", create(fake))])  # type: ignore[arg-type]
    async with client_of(outer) as client:
        started = await client.post("/deep/down/registrations", json=BODY)
        assert started.headers["location"].startswith("/deep/down/registrations/reg_")
        found = await client.get(started.headers["location"])
        assert found.status_code == 200
        assert found.json()["links"]["self"] == started.headers["location"]
        page = await client.get("/deep/down/outlive")
        assert 'href="/deep/down/outlive/assets/outlive.css?' in page.text


async def test_an_application_that_was_not_opened_says_so(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.phase = "new"
    answer = await client.post("/registrations", json=BODY)
    assert (answer.status_code, answer.json()["code"]) == (503, "OL4008")
    assert "life span" in answer.json()["detail"]
    assert fake.count("begin") == 0


async def test_an_unexpected_exception_is_a_500_that_says_nothing_about_the_inside(
    client: httpx.AsyncClient, fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    fake.raises = RuntimeError("SELECT secret FROM /srv/store.db")
    with caplog.at_level(logging.ERROR, "outlive.web"):
        answer = await client.post("/registrations", json={"email": "private"})
    assert (answer.status_code, answer.json()["code"]) == (500, "OL0000")
    assert "SELECT" not in answer.text and "/srv" not in answer.text
    assert answer.json()["trace_id"] in caplog.text
    assert "private" not in caplog.text


async def test_what_is_declared_after_the_first_request_is_served_as_well(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    await client.get("/livez")
    fake.definitions["late"] = declare("late", "/late", input_type=Any)
    assert (await client.post("/late", json=1)).status_code == 202


@pytest.mark.parametrize("path", ["/registrations"])
async def test_two_declarations_on_one_path_are_refused(fake: Fake, path: str) -> None:
    fake.definitions["twice"] = declare("twice", path)
    sent = Exchange(create(fake), "GET", "/livez")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing is served"):
        await sent.end()


async def test_a_websocket_that_nobody_takes_is_closed(face: Face) -> None:
    sent = Exchange(face, "GET", "/socket", type="websocket")
    await sent.end()
    assert sent.sent[0]["type"] == "websocket.close"


async def test_a_websocket_goes_to_the_wrapped_application(fake: Fake) -> None:
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    face = create(fake, inner)  # type: ignore[arg-type]
    await Exchange(face, "GET", "/s", type="websocket").end()
    assert seen == ["websocket"]


async def test_without_a_dashboard_the_pages_of_problems_stay(fake: Fake) -> None:
    face = create(fake, dashboard=False)  # type: ignore[arg-type]
    async with client_of(face) as client:
        assert (await client.get("/outlive")).status_code == 404
        assert (await client.get("/outlive/problems/draining")).status_code == 200


async def test_every_answer_is_counted_under_bounded_labels(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add("reg_1", "register")
    fake.add("reg_2", "register")
    for id in ("reg_1", "reg_2", "reg_3"):
        await client.get(f"/registrations/{id}")
    await client.request("BREW", "/registrations")
    await client.get("/random/path")
    text = (await client.get("/metrics")).text
    assert 'request="GET /registrations/{id}",status="200"} 2' in text
    assert 'request="GET /registrations/{id}",status="404"} 1' in text
    assert 'request="other /registrations",status="405"} 1' in text
    assert "random" not in text and "reg_1" not in text


async def test_the_words_of_a_store_error_stay_inside(
    client: httpx.AsyncClient, fake: Fake
) -> None:
    fake.raises = errors.StoreFull("disk I/O error in /srv/store.db")
    answer = await client.post("/registrations", json=BODY)
    assert (answer.status_code, answer.json()["code"]) == (507, "OL1021")
    assert "/srv" not in answer.text
    assert "retry-after" in answer.headers


async def test_a_path_with_a_nul_is_asked_of_no_store(client: httpx.AsyncClient) -> None:
    for path in ("/registrations/%00", "/outlive/journals/reg_1%00"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "OL4001")


async def test_a_slash_that_was_hidden_is_not_found(client: httpx.AsyncClient) -> None:
    for path in ("/registrations/reg_1%2Fcancel", "/registrations/reg_1%2fsignals%2fconfirmed"):
        answer = await client.post(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "OL4001")


def test_a_face_says_what_it_serves_and_what_it_wraps(fake: Fake) -> None:
    other = wrapped()
    face = create(fake, other)  # type: ignore[arg-type]
    assert (face.app, face.wrapped) == (fake, other)
    assert create(fake).wrapped is None  # type: ignore[arg-type]


async def test_a_process_without_a_path_is_started_by_code_alone_and_still_shown() -> None:
    app = Outlive("memory://")

    @app.process(None, version=1)
    async def sweep(run: Run, what: str) -> str:
        await run.wait("go")
        return what

    @app.process("/orders", version=1)
    async def order(run: Run, what: str) -> str:
        return await run.call(sweep, what)

    @app.process(None, version=1)
    async def other(run: Run) -> None:
        """A second one without a path is no conflict."""

    async with app, client_of(create(app)) as client:
        begun = await client.post("/orders", json="tea")
        assert begun.status_code == 202
        id = (await app.start(sweep, "dust")).id
        for path in ("", "/", "//", "/None", "/sweep", f"/{id}", f"//{id}", f"/None/{id}/pause"):
            for method in ("GET", "POST"):
                answer = await client.request(method, path, json="dust")
                assert answer.status_code in (404, 405), path
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert "/orders" in paths and not any("None" in path or path == "" for path in paths)
        listed = await client.get("/outlive/operations/processes")
        assert {"order", "sweep"} == {one["type"] for one in listed.json()[0]}
        html = {"Accept": "text/html"}
        for page in ("", "/types", "/types/sweep", "/processes?type=sweep", f"/processes/{id}"):
            shown = await client.get(f"/outlive{page}", headers=html)
            assert shown.status_code == 200 and "/None" not in shown.text, page
            assert f"8000/{id}" not in shown.text
        assert (
            "only code starts it" in (await client.get("/outlive/types/sweep", headers=html)).text
        )
        await app.signal(id, "go", b"null")
        assert await app.result(id, within=30) == "dust"


def test_an_empty_path_is_not_taken_for_none() -> None:
    for path in ("", "orders"):
        with pytest.raises(ValueError, match="is no path"):
            Outlive("memory://").process(path, version=1)(nothing)


async def nothing(run: Run) -> None:
    """Does nothing."""
