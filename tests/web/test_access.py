"""Who may ask for what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.web.conftest import OWN, client_of, sealed
from tests.web.fake import Fake

from outlive import Access, Visitor
from outlive.web.access import hostname, is_loopback
from outlive.web.asgi import Face, create

Connect = Callable[..., httpx.AsyncClient]
PAGE = "/outlive/processes/reg_1"
LOCAL = [("GET", "/registrations"), ("POST", "/registrations/reg_1/retry"), ("GET", "/outlive")]


@pytest.mark.parametrize(("method", "path"), LOCAL)
async def test_what_shows_or_changes_the_work_of_all_is_refused_to_other_machines(
    fake: Fake, face: Face, connect: Connect, method: str, path: str
) -> None:
    fake.add("reg_1", "register", status="stuck")
    async with connect(face, peer="203.0.113.9") as client:
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (403, "OL4006")
    assert fake.count("retry") == 0
    face = create(fake, open_to_all=True)  # type: ignore[arg-type]
    async with client_of(face, peer="203.0.113.9") as client:
        assert (await client.request(method, path)).status_code < 300


async def test_who_knows_an_id_may_use_it_from_anywhere(
    fake: Fake, face: Face, connect: Connect
) -> None:
    fake.add("reg_1", "register")
    async with connect(face, peer="203.0.113.9") as client:
        assert (await client.get("/registrations/reg_1")).status_code == 200
        assert (await client.post("/registrations/reg_1/cancel")).status_code == 202


@pytest.mark.parametrize("field", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
async def test_a_forwarded_request_is_not_local(client: httpx.AsyncClient, field: str) -> None:
    assert (await client.get("/outlive", headers={field: "127.0.0.1"})).status_code == 403


async def test_a_foreign_host_name_is_not_local(client: httpx.AsyncClient) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", ""):
        assert (await client.get("/outlive", headers={"Host": host})).status_code == 403
    for host in ("127.0.0.1:8000", "[::1]:8000", "localhost", "app.localhost:80"):
        assert (await client.get("/outlive", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("128.0.0.1", False),
        ("127.evil", False),
        ("127.0.0.evil", False),
        ("", False),
    ],
)
def test_a_loopback_address_is_one_of_two_families(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_the_name_in_a_host_field_has_no_port_or_brackets() -> None:
    assert hostname(b"[::1]:80") == "::1"
    assert hostname(b"LocalHost:80") == "localhost"


async def test_a_form_of_another_origin_is_refused(client: httpx.AsyncClient, fake: Fake) -> None:
    fake.add("reg_1", "register")
    url = f"{PAGE}/cancel"
    form = {"seal": await sealed(client, PAGE), "why": "typo"}
    foreign: list[dict[str, str]] = [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:8000"},
        {"Origin": "http://localhost:9000"},
    ]
    for headers in foreign:
        answer = await client.post(url, data=form, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "OL4007")
    assert fake.count("cancel") == 0
    for headers in [OWN, {"Sec-Fetch-Site": "same-origin"}]:
        assert (await client.post(url, data=form, headers=headers)).status_code == 303
    assert fake.count("cancel") == 2


# --- names, tokens and roles ----------------------------------------------------------------------

ANN, WALL = "ann-" + "a" * 20, "wall-" + "w" * 20
FAR = "203.0.113.9"


def guarded(fake: Fake, access: Access) -> httpx.AsyncClient:
    fake.access = access
    return client_of(create(fake), peer=FAR)  # type: ignore[arg-type]


def named() -> Access:
    return Access(viewers={"wall": WALL}, operators={"ann": ANN})


@pytest.mark.parametrize(("method", "path"), LOCAL)
async def test_where_names_are_given_a_token_opens_what_was_for_this_machine(
    fake: Fake, method: str, path: str
) -> None:
    fake.add("reg_1", "register", status="stuck")
    async with guarded(fake, named()) as client:
        for headers in ({}, {"Authorization": f"Bearer {ANN}x"}, {"Authorization": f"Basic {ANN}"}):
            answer = await client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "OL4011")
            assert answer.headers["www-authenticate"] == 'Bearer realm="outlive"', "RFC 9110"
        assert fake.count("retry") == 0
        answer = await client.request(method, path, headers={"Authorization": f"Bearer {ANN}"})
        assert answer.status_code < 300
    async with client_of(create(fake)) as local:  # type: ignore[arg-type]
        assert (await local.request(method, path)).status_code == 401, "this machine too"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_a_token_is_known_however_a_client_writes_its_letters(
    fake: Fake, encoding: str
) -> None:
    token = "grün-" + "ü" * 20
    async with guarded(fake, Access(viewers={"wall": token})) as client:
        headers = {b"Authorization": b"Bearer " + token.encode(encoding)}
        assert (await client.get("/registrations", headers=headers)).status_code == 200
        answer = await client.get("/registrations", headers={b"Authorization": b"Bearer \xff\xc3"})
        assert answer.status_code == 401


async def test_a_viewer_reads_and_changes_nothing(fake: Fake) -> None:
    fake.add("reg_1", "register", status="stuck")
    async with guarded(fake, named()) as client:
        client.headers["Authorization"] = f"Bearer {WALL}"
        assert (await client.get("/registrations")).status_code == 200
        page = await client.get(PAGE)
        assert page.status_code == 200 and 'method="post"' not in page.text
        for path in ("/registrations/reg_1/retry", "/outlive/bulk", f"{PAGE}/retry"):
            answer = await client.post(path, headers=OWN)
            assert (answer.status_code, answer.json()["code"]) == (403, "OL4012")
    assert fake.count("retry") == 0


async def test_who_may_use_an_id_needs_no_token(fake: Fake) -> None:
    fake.add("reg_1", "register")
    async with guarded(fake, named()) as client:
        assert (await client.get("/registrations/reg_1")).status_code == 200


@pytest.mark.parametrize("waits", [False, True])
async def test_the_applications_own_log_in_decides(fake: Fake, waits: bool) -> None:
    seen: list[str] = []

    def who(scope: Any) -> Visitor | None:
        seen.append(scope["path"])
        return Visitor("ann", "operator") if scope["query_string"] == b"as=ann" else None

    async def later(scope: Any) -> Visitor | None:
        return who(scope)

    async with guarded(fake, Access(login=later if waits else who)) as client:
        assert (await client.get("/outlive")).status_code == 401
        page = await client.get("/outlive?as=ann")
        assert page.status_code == 200 and "<span>ann</span>" in page.text
    assert seen == ["/outlive", "/outlive"]
