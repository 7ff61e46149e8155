"""The pages of sessions, requests, limits, breakers and caches, on a real application in memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest
from msgspec import Raw
from tests.web.conftest import OWN, client_of, sealed, send

from outlive import Access, Keys, Outlive, Quota, SealedSessions, Slots, best_effort
from outlive.codec import encode
from outlive.doors.excerpts import LINES_MAX
from outlive.doors.ratelimits import RateLimiter
from outlive.doors.requests import Requests
from outlive.doors.sessions import Sessions
from outlive.kinds.breakers.standing import ref_of
from outlive.kinds.requests.decisions import Answer
from outlive.kinds.sessions.decisions import Make, key_of
from outlive.runtime.caches import Cache
from outlive.runtime.dependencies import Dependency

ANN, WALL = "ann-" + "a" * 20, "wall-" + "w" * 20
KINDS = ("breakers", "caches", "limits", "requests", "sessions")
IDS = {"ada": ["a" * 52, "b" * 52], "bob": ["c" * 52]}


@dataclass
class Place:
    app: Outlive
    sessions: Sessions
    requests: Requests
    limiter: RateLimiter
    bank: Dependency
    price: Cache[str, int]
    loads: list[str] = field(default_factory=list)


def made() -> Place:
    access = Access(operators={"ann": ANN}, viewers={"wall": WALL})
    app = Outlive("memory://", dashboard=access)
    loads: list[str] = []

    @app.cache(best_effort(), tags=lambda sku: [f"shelf:{sku[0]}"])
    async def price(sku: str) -> int:
        loads.append(sku)
        return len(sku)

    quotas = Quota("burst", 4), Quota("daily", 100, per_seconds=86_400, shadow=True)
    app.slots(Slots("exports", 2))
    return Place(
        app, app.sessions(), app.requests(), app.ratelimits(*quotas), app.dependency("bank"),
        price, loads,
    )  # fmt: skip


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    found = made()
    async with found.app:
        for subject, ids in IDS.items():
            for id in ids:
                data = {"basket": Raw(encode(["tea", "secret-in-the-basket"]))}
                await found.sessions.ask(Make(key_of(id), subject, data, "curl <b>"))
        yield found


@pytest.fixture
async def client(place: Place) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(place.app.asgi(), peer="203.0.113.9") as found:
        await sign_in(found, ANN)
        yield found


async def sign_in(client: httpx.AsyncClient, token: str) -> None:
    form = {"seal": await sealed(client, "/outlive/sign-in"), "token": token}
    await client.post("/outlive/sign-in", data=form, headers=OWN)


async def text_of(client: httpx.AsyncClient, place: str) -> str:
    answer = await client.get(f"/outlive/{place}")
    assert answer.status_code == 200, answer.text
    return answer.text


async def done(client: httpx.AsyncClient, kind: str, verb: str, **form: str) -> str:
    """Send a form, and follow to the page it leads to."""
    answer = await send(client, f"/outlive/{kind}", verb, **form)
    assert answer.status_code == 303, answer.text
    page = await client.get(answer.headers["location"])
    assert 'role="status"' in page.text
    return page.text


async def noted(app: Outlive) -> list[tuple[str, str, str, str, str]]:
    lines, _ = await app.activity()
    return [(one.who, one.verb, one.kind, one.what, one.why) for one in lines]


# --- what is shown --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_kind_that_is_not_declared_has_a_page_that_teaches(kind: str) -> None:
    async with Outlive("memory://") as app, client_of(app.asgi()) as client:
        text = await text_of(client, kind)
        assert 'class="empty"' in text and "app." in text
        assert f'href="/outlive/{kind}"' not in text, "it stands in no menu"


async def test_declared_kinds_stand_in_the_menu_of_every_page(client: httpx.AsyncClient) -> None:
    text = await text_of(client, "health")
    assert all(f'href="/outlive/{kind}"' in text for kind in KINDS)


async def test_sessions_are_shown_by_a_piece_of_their_hash_and_nothing_of_what_they_remember(
    client: httpx.AsyncClient,
) -> None:
    text = await text_of(client, "sessions")
    for id in (*IDS["ada"], *IDS["bob"]):
        assert key_of(id)[:8] in text
        assert id not in text and key_of(id) not in text
    assert "secret-in-the-basket" not in text and "curl &lt;b&gt;" in text
    of_ada = await text_of(client, "sessions?subject=ada")
    assert key_of(IDS["ada"][0])[:8] in of_ada and key_of(IDS["bob"][0])[:8] not in of_ada
    assert "is signed in nowhere" in await text_of(client, "sessions?subject=eve")


async def test_a_list_of_sessions_goes_on_where_it_ended(
    place: Place, client: httpx.AsyncClient
) -> None:
    for n in range(LINES_MAX):
        await place.sessions.ask(Make(key_of(f"{n:052}"), f"user{n}"))
    seen, path = 0, "sessions"
    for _ in range(2):
        text = await text_of(client, path)
        seen += text.count("<tr data-row>")
        path = (
            "sessions" + text.partition('rel="next" href="/outlive/sessions')[2].partition('"')[0]
        )
    assert seen == LINES_MAX + 3
    assert (await client.get("/outlive/sessions?after=nonsense")).status_code == 422


async def test_no_answer_of_a_request_is_shown(place: Place, client: httpx.AsyncClient) -> None:
    async with place.app.once("orders/ada", "order-17", {"a": 1}) as claim:
        claim.finish({"card": "4711-secret"})
    async with place.app.once("orders/ada", "order-17", {"a": 1}) as claim:
        assert claim.replayed
    text = await text_of(client, "requests")
    assert "order-17" in text and "answered" in text and "4711-secret" not in text
    assert '<b>1</b><span class="badge">given again</span>' in text
    assert "order-17" in await text_of(client, "requests?principal=&tenant=")
    assert "No key is kept of that one" in await text_of(client, "requests?principal=session:eve")


async def test_limits_show_rules_and_the_fullest_keys_first(
    place: Place, client: httpx.AsyncClient
) -> None:
    await place.limiter.hit("bob")
    for _ in range(6):
        await place.limiter.hit("ada")
    text = await text_of(client, "limits")
    assert text.index("burst/ada") < text.index("burst/bob")
    assert "no: shadow mode" in text and '<dt>Refused</dt><dd class="alert">2</dd>' in text
    assert "exports" in text and "No slot is held" in text


async def test_a_limit_in_this_process_is_shown_too() -> None:
    async with Outlive("memory://") as app, client_of(app.asgi()) as client:
        limiter = app.ratelimits(Quota("mine", 2), scope="local")
        await limiter.hit("ada")
        assert "mine/ada" in await text_of(client, "limits")
        await done(client, "limits", "reset", of="0", key="mine/ada", why="a mistake")
        assert (await limiter.peek("ada")).standings[0].left == 2


async def test_breakers_show_every_part_that_any_instance_has_reported(
    place: Place, client: httpx.AsyncClient
) -> None:
    await place.bank.force_open("ann", "the bank asked us to", "eu")
    place.bank._parts.clear()  # as on an instance that never called it
    text = await text_of(client, "breakers")
    assert "the whole" in text and ">eu<" in text and "held open" in text
    assert "the bank asked us to" in text


async def test_caches_show_how_often_memory_was_enough(
    place: Place, client: httpx.AsyncClient
) -> None:
    for sku in ("tea", "tea", "tea", "milk"):
        await place.price(sku)
    text = await text_of(client, "caches")
    assert "50.0 %" in text and "price(sku: str) -&gt; int" in text


# --- what is changed ------------------------------------------------------------------------------


async def test_one_session_is_signed_out_with_a_reason(
    place: Place, client: httpx.AsyncClient
) -> None:
    first, second = map(key_of, IDS["ada"])
    await done(client, "sessions", "revoke", named=first[:16], subject="ada", why="stolen")
    assert [device.key for device in await place.sessions.devices("ada")] == [second]
    assert await noted(place.app) == [("ann", "sign out", "sessions", f"{first[:8]} ada", "stolen")]
    again = await send(client, "/outlive/sessions", "revoke", named=first[:16], why="once more")
    assert again.status_code == 422 and "not there any more" in again.text
    assert len(await noted(place.app)) == 1, "what is not done is not noted"


async def test_a_subject_is_signed_out_everywhere(place: Place, client: httpx.AsyncClient) -> None:
    text = await done(client, "sessions", "revoke-all", subject="ada", why="she lost it all")
    assert "ada is signed in nowhere" in text
    assert len(await place.sessions.devices("bob")) == 1


async def test_an_unknown_request_is_resolved_either_way(
    place: Place, client: httpx.AsyncClient
) -> None:
    for key in ("sent", "not-sent"):
        with pytest.raises(ConnectionError):
            async with place.app.once("mails", key):
                raise ConnectionError
    sent, lost = (
        (await place.requests.unknown())[0].place,
        (await place.requests.unknown())[1].place,
    )
    text = await text_of(client, "requests")
    assert "Nobody knows what came of these" in text and "not-sent" in text
    await done(
        client, "requests", "resolve", named=sent.name, outcome="happened", status="201",
        body='{"sent": 1}', why="in the outbox",
    )  # fmt: skip
    await done(
        client, "requests", "resolve", named=lost.name, outcome="free", status="200",
        why="not in the outbox",
    )  # fmt: skip
    record = await place.requests.look(sent)
    assert record.answer == Answer(201, (("content-type", "application/json"),), b'{"sent":1}')
    assert record.notes[0].by == "ann"
    async with place.app.once("mails", lost.key) as claim:
        assert not claim.replayed, "the key is free"
    assert [line[1] for line in await noted(place.app)] == [
        "resolve as not happened", "resolve as happened",
    ]  # fmt: skip


async def test_a_request_in_flight_is_left_alone(place: Place, client: httpx.AsyncClient) -> None:
    async with place.app.once("mails", "slow") as claim:
        answer = await send(
            client, "/outlive/requests", "expire", named=claim.place.name, why="it hangs"
        )
        assert answer.status_code == 409 and "nothing was changed" in answer.text
        assert await noted(place.app) == []
    await done(client, "requests", "expire", named=claim.place.name, why="once more, please")
    async with place.app.once("mails", "slow") as claim:
        assert not claim.replayed


async def test_a_limit_is_reset_for_one_key(place: Place, client: httpx.AsyncClient) -> None:
    for name in ("ada", "bob"):
        for _ in range(4):
            await place.limiter.hit(name)
    assert not await place.limiter.hit("ada")
    await done(client, "limits", "reset", of="0", key="burst/ada", why="a test of theirs")
    assert await place.limiter.hit("ada") and not await place.limiter.hit("bob")
    wrong = await send(client, "/outlive/limits", "reset", of="0", key="ada", why="x")
    assert wrong.status_code == 422 and "Nothing was done" in wrong.text


@pytest.mark.parametrize(
    ("verb", "state"),
    [("force-closed", "held closed"), ("force-open", "held open"), ("reset", "closed")],
)
async def test_a_breaker_is_held_and_let_go(
    place: Place, client: httpx.AsyncClient, verb: str, state: str
) -> None:
    text = await done(client, "breakers", "control", dependency="bank", action=verb, why="a drill")
    assert f">{state}</span>" in text and "a drill" in text
    await done(client, "breakers", "control", dependency="bank", action="release", why="over")
    assert [(note.who, note.why) for note in (await place.bank.standing()).controls] == [
        ("ann", "a drill"), ("ann", "over"),
    ]  # fmt: skip


async def test_only_a_part_that_is_known_is_held(place: Place, client: httpx.AsyncClient) -> None:
    await place.bank.force_open("eve", "the bank asked us to", "eu")
    place.bank._parts.clear()  # as on an instance that never called it
    form = {"dependency": "bank", "action": "force-open", "why": "a drill"}
    for part in ("atlantis", "eu" * 200):
        answer = await send(client, "/outlive/breakers", "control", part=part, **form)
        assert answer.status_code == 422 and "Nothing was done" in answer.text
    assert list(place.bank.parts) == [""] and await noted(place.app) == []
    assert await place.app.store.read((ref_of("bank/atlantis"),)) == [None]
    await done(client, "breakers", "control", **{**form, "part": "eu", "action": "release"})
    assert [note.who for note in (await place.bank.standing("eu")).controls] == ["eve", "ann"]
    place.bank.part("here")  # called by this instance, and nothing bad was heard of it
    await done(client, "breakers", "control", part="here", **form)
    assert (await place.bank.standing("here")).forced == "open"


async def test_who_holds_a_breaker_is_named_in_full(
    place: Place, client: httpx.AsyncClient
) -> None:
    await place.bank.force_open("anne-marie-smith", "a drill")
    assert "<td>anne-marie-smith</td>" in await text_of(client, "breakers")


@pytest.mark.parametrize(
    ("form", "again"),
    [
        ({"what": "key", "key": '["tea"]'}, ["tea"]),
        ({"what": "tag", "tag": "shelf:t", "key": ""}, ["tea", "toast"]),
        ({"what": "all", "key": ""}, ["tea", "toast", "milk"]),
    ],
)
async def test_values_are_made_old(
    place: Place, client: httpx.AsyncClient, form: dict[str, str], again: list[str]
) -> None:
    for sku in ("tea", "toast", "milk"):
        await place.price(sku)
    place.loads.clear()
    await done(client, "caches", "invalidate", cache="price", why="a new list", **form)
    for sku in ("tea", "toast", "milk"):
        await place.price(sku)
    assert place.loads[: len(again)] == again
    assert (await noted(place.app))[0][2] == "caches"


# --- what is refused ------------------------------------------------------------------------------

FORMS = {
    "sessions/revoke": {"named": key_of(IDS["bob"][0])[:16]},
    "sessions/revoke-all": {"subject": "bob"},
    "limits/reset": {"of": "0", "key": "burst/ada"},
    "breakers/control": {"dependency": "bank", "action": "force-open"},
    "caches/invalidate": {"cache": "price", "what": "all"},
}


@pytest.mark.parametrize("path", sorted(FORMS))
async def test_nothing_is_changed_without_a_reason(
    place: Place, client: httpx.AsyncClient, path: str
) -> None:
    kind, _, verb = path.partition("/")
    answer = await send(client, f"/outlive/{kind}", verb, **FORMS[path], why="  ")
    assert answer.status_code == 422 and 'role="alert"' in answer.text
    assert await noted(place.app) == [] and len(await place.sessions.devices("bob")) == 1


@pytest.mark.parametrize("path", sorted(FORMS))
async def test_nothing_is_changed_by_a_viewer_or_a_foreign_page(place: Place, path: str) -> None:
    form = {**FORMS[path], "why": "because"}
    async with client_of(place.app.asgi(), peer="203.0.113.9") as client:
        kind, _, verb = path.partition("/")
        await sign_in(client, WALL)
        assert (await send(client, f"/outlive/{kind}", verb, **form)).status_code == 403
        assert 'name="why"' not in await text_of(client, kind)
        await sign_in(client, ANN)
        seal = await sealed(client, f"/outlive/{kind}")
        foreign = {"Origin": "https://evil.example"}
        for headers, sent in ((foreign, {**form, "seal": seal}), (OWN, form)):
            answer = await client.post(f"/outlive/{path}", data=sent, headers=headers)
            assert answer.status_code == 403
    assert await noted(place.app) == []


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("sessions/revoke", {"named": "zz"}),
        ("sessions/revoke", {"named": "f" * 16, "of": "7"}),
        ("sessions/revoke-all", {"subject": ""}),
        ("requests/resolve", {"named": "f" * 32, "outcome": "happened", "status": "99"}),
        ("requests/resolve", {"named": "f" * 32, "outcome": "perhaps"}),
        ("requests/expire", {"named": ""}),
        ("breakers/control", {"dependency": "bank", "action": "explode"}),
        ("breakers/control", {"dependency": "nobody", "action": "reset"}),
        ("caches/invalidate", {"cache": "price", "what": "key", "key": "tea"}),
        ("caches/invalidate", {"cache": "price", "what": "key", "key": "[1.5]"}),
        ("caches/invalidate", {"cache": "price", "what": "key", "key": '["tea", 3]'}),
        ("caches/invalidate", {"cache": "price", "what": "key", "key": "[]"}),
        ("caches/invalidate", {"cache": "price", "what": "tag", "tag": ""}),
        ("caches/invalidate", {"cache": "nothing", "what": "all"}),
    ],
)
async def test_what_makes_no_sense_is_refused_on_the_page_it_came_from(
    place: Place, client: httpx.AsyncClient, path: str, form: dict[str, str]
) -> None:
    kind, _, verb = path.partition("/")
    answer = await send(client, f"/outlive/{kind}", verb, why="to see", **form)
    assert answer.status_code == 422 and 'role="alert"' in answer.text
    assert f'hx-get="/outlive/{kind}"' in answer.text
    assert await noted(place.app) == []


async def test_a_verb_that_is_none_is_not_found(client: httpx.AsyncClient) -> None:
    assert (await send(client, "/outlive/sessions", "explode")).status_code == 404


async def test_a_key_that_is_gone_is_said_to_be(place: Place, client: httpx.AsyncClient) -> None:
    answer = await send(client, "/outlive/requests", "expire", named="f" * 32, why="to see")
    assert answer.status_code == 404 and 'role="alert"' in answer.text
    assert await noted(place.app) == []


async def test_sessions_in_a_cookie_are_ended_for_a_subject_and_others_in_their_own_store() -> None:
    async with Outlive("memory://") as app, client_of(app.asgi()) as client:
        sealed_ones = SealedSessions(Keys(Keys.new("2026")), place=app)
        other = app.sessions(idle_seconds=600)
        await other.ask(Make(key_of("d" * 52), "dora"))
        text = await text_of(client, "sessions")
        assert "sealed in the cookie" in text and key_of("d" * 52)[:8] in text
        wrong = await send(
            client, "/outlive/sessions", "revoke", of="0", named="f" * 16, why="a test"
        )
        assert wrong.status_code == 422, "nothing of the sealed ones lies here"
        await done(client, "sessions", "revoke-all", subject="dora", why="a test")
        assert await other.devices("dora") == [] and sealed_ones.callable_back


async def test_under_a_prefix_every_link_and_form_stays_below_it(place: Place) -> None:
    async with client_of(place.app.asgi(), peer="203.0.113.9", root="/inner") as client:
        form = {"seal": await sealed(client, "/outlive/sign-in"), "token": ANN}
        await client.post("/outlive/sign-in", data=form, headers=OWN)
        for kind in KINDS:
            text = await text_of(client, kind)
            links = re.findall(r'(?:href|action|hx-get|src)="(/[^"]*)"', text)
            assert links and all(link.startswith("/inner/outlive") for link in links)
        answer = await send(
            client, "/outlive/breakers", "control", dependency="bank", action="reset", why="x"
        )
        assert answer.headers["location"] == "/inner/outlive/breakers?done=reset"
