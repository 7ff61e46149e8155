"""Sessions and seals: cookies that nobody else can make."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.web.conftest import OWN, client_of, sealed
from tests.web.fake import START, Fake

from outlive import Access, Visitor
from outlive.web.asgi import create
from outlive.web.messages import Request
from outlive.web.signing import SESSION, cookie, cookies, is_sealed, seal_of, session_of, visitor_of

ANN = "ann-" + "a" * 20
SIGN_IN = "/outlive/sign-in"


def access(token: str = ANN) -> Access:
    return Access(operators={"ann": token}, viewers={"Zoë": "zoe-" + "z" * 20})


def asked(sent: str = "", scheme: str = "http") -> Request:
    headers = [(b"cookie", sent.encode())] if sent else []
    scope: dict[str, Any] = {"method": "GET", "path": "/", "headers": headers, "scheme": scheme}
    return Request(scope, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("visitor", [Visitor("ann", "operator"), Visitor("Zoë")])
def test_a_session_names_its_visitor_until_it_ends(visitor: Visitor) -> None:
    made = session_of(access(), visitor, START)
    assert visitor_of(access(), made, START) == visitor
    hours = 3600 * 1_000_000
    assert visitor_of(access(), made, START + 12 * hours - 1) == visitor
    assert visitor_of(access(), made, START + 12 * hours) is None


def test_a_session_that_was_altered_is_nobodys() -> None:
    made = session_of(access(), Visitor("Zoë"), START)
    name, ends, rest, mac = made.split(".")
    ann = session_of(access(), Visitor("ann", "operator"), START).split(".")[0]
    altered = (
        ".".join((ann, ends, rest, mac)),
        ".".join((name, str(int(ends) + 1), rest, mac)),
        ".".join((name, ends, rest, mac[:-1])),
        ".".join((name, ends, rest, "ä" * 64)),
        "", ".", "...", "é.1.2.3", "====.1.2.3",
    )  # fmt: skip
    for one in altered:
        assert visitor_of(access(), one, START) is None, one


def test_a_new_token_ends_the_sessions_of_the_old_one() -> None:
    made = session_of(access(), Visitor("ann", "operator"), START)
    assert visitor_of(access("ann-" + "b" * 20), made, START) is None


def test_a_seal_fits_one_browser_and_one_session() -> None:
    seal, fresh = seal_of(asked())
    assert len(fresh) == 26 and seal_of(asked())[1] != fresh
    kept = asked(f"outlive_seal={fresh}")
    assert seal_of(kept) == (seal, "") and is_sealed(kept, seal)
    assert not is_sealed(asked(), seal)
    assert not is_sealed(asked(f"outlive_seal={fresh}; {SESSION}=x"), seal)
    assert not is_sealed(kept, "") and not is_sealed(kept, "ä")


def test_cookies_are_read_and_bounded() -> None:
    assert cookies(asked("a=1; b=2=3; a=4; c")) == {"a": "1", "b": "2=3", "c": ""}
    assert cookies(asked("a=" + "x" * 20_000)) == {}


def test_a_cookie_is_for_our_pages_and_not_for_scripts() -> None:
    plain = cookie(asked(), SESSION, "v", 60).decode()
    assert plain == f"{SESSION}=v; Path=/outlive; HttpOnly; SameSite=Lax; Max-Age=60"
    assert cookie(asked(scheme="https"), SESSION, "v").decode().endswith("; Secure")


@pytest.fixture
def far(fake: Fake) -> httpx.AsyncClient:
    fake.access = access()
    return client_of(create(fake), peer="203.0.113.9")  # type: ignore[arg-type]


async def test_who_signs_in_is_led_to_where_they_wanted_to_go(
    far: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add("reg_1", "register")
    async with far as client:
        wanted = "/outlive/processes?status=running"
        sent = await client.get(wanted, headers={"Accept": "text/html"})
        assert sent.status_code == 303 and sent.headers["location"].startswith(f"{SIGN_IN}?next=")
        form = {"seal": await sealed(client, sent.headers["location"]), "next": wanted}
        wrong = await client.post(SIGN_IN, data={**form, "token": ANN[:-1]}, headers=OWN)
        assert wrong.status_code == 401 and SESSION not in client.cookies
        done = await client.post(SIGN_IN, data={**form, "token": ANN}, headers=OWN)
        assert (done.status_code, done.headers["location"]) == (303, wanted)
        page = await client.get(wanted)
        assert page.status_code == 200 and "<span>ann</span>" in page.text
        assert ANN not in page.text
        seal = await sealed(client, "/outlive")
        out = await client.post("/outlive/sign-out", data={"seal": seal}, headers=OWN)
        assert out.status_code == 303
        assert (await client.get("/outlive")).status_code == 401


@pytest.mark.parametrize(
    "place", ["https://evil.example", "//evil.example", "/outlive//evil", "/outlivex", "/x", ""]
)
async def test_signing_in_leads_nowhere_else(far: httpx.AsyncClient, place: str) -> None:
    async with far as client:
        form = {"seal": await sealed(client, SIGN_IN), "next": place, "token": ANN}
        done = await client.post(SIGN_IN, data=form, headers=OWN)
        assert (done.status_code, done.headers["location"]) == (303, "/outlive")


async def test_a_form_without_this_browsers_seal_is_refused(
    far: httpx.AsyncClient, fake: Fake
) -> None:
    fake.add("reg_1", "register")
    async with far as client:
        form = {"seal": await sealed(client, SIGN_IN), "token": ANN}
        before = form["seal"]
        await client.post(SIGN_IN, data=form, headers=OWN)
        for seal in ("", before, "0" * 64):
            answer = await client.post(
                "/outlive/processes/reg_1/cancel", data={"seal": seal, "why": "x"}, headers=OWN
            )
            assert (answer.status_code, answer.json()["code"]) == (403, "OL4013")
    assert fake.count("cancel") == 0
