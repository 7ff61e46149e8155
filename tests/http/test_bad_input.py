"""Bad input for the real sample over a real socket: refused clearly, and nothing is left of it.

One service for the whole module. Each test counts what was started before and after.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.crash.service import Machine

ADA = {"firstName": "Ada", "lastName": "Lovelace", "email": "ada@example.org"}
FORM = json.dumps(ADA).encode()
DEEP = b"[" * 10_000 + b"]" * 10_000
PROBLEM = "application/problem+json"


class Answer:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.body = answer.read()

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])


class Sample:
    """The sign-up, asked over plain sockets: what is sent is sent as it is."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, method: str, path: str, body: bytes | None = None, **fields: str | bytes | None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_accept_encoding=True)
        given: dict[str, Any] = {"content_type": "application/json", **fields}
        for name, value in given.items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        try:
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def start(self, **fields: str | bytes | None) -> str:
        answer = self.ask("POST", "/registrations", FORM, **fields)
        assert answer.status == 201, answer.body
        return str(answer.headers["location"])

    def count(self) -> int:
        """How many sign-ups there are."""
        found, url = 0, "/registrations?limit=200"
        while url:
            answer = self.ask("GET", url)
            found += len(json.loads(answer.body)["items"])
            url = answer.headers.get("link", "").partition(">")[0].strip("<")
        return found


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    machine = Machine(tmp_path_factory.mktemp("bad"))
    try:
        service = asyncio.run(machine.sign_up())
        yield Sample(service.port)
        assert "Traceback" not in service.said()
        assert asyncio.run(service.end()) == 0
    finally:
        asyncio.run(machine.clean())


@pytest.fixture(scope="module")
def registration(sample: Sample) -> str:
    """The place of a sign-up that is under way."""
    return sample.start()


@pytest.fixture
def untouched(sample: Sample) -> Iterator[Sample]:
    """The sample, in which the test must not have started anything."""
    before = sample.count()
    yield sample
    assert sample.count() == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (FORM[:-1], 400),
        (FORM + b"}", 400),
        (b"\xef\xbb\xbf" + FORM, 400),
        (b"NaN", 400),
        (b"1e400", 400),
        (b"9" * 5000, 400),
        (b"\xff\xfe", 400),
        (b'{"firstName":"\xff"}', 400),
        (b'{"firstName":"\\ud800"}', 400),
        (b"'single'", 400),
        (b"null", 422),
        (b"[]", 422),
        (b'"text"', 422),
        (b"18446744073709551617", 422),
        (b"{}", 422),
        (json.dumps({**ADA, "firstName": 1}).encode(), 422),
        (json.dumps({**ADA, "firstName": None}).encode(), 422),
        (json.dumps({**ADA, "firstName": ""}).encode(), 422),
        (json.dumps({**ADA, "email": "nobody"}).encode(), 422),
        (json.dumps({**ADA, "lastName": "l" * 101}).encode(), 422),
        (json.dumps({**ADA, "admin": True}).encode(), 422),
        (DEEP, 413),
        (b"[" * 10_000, 413),
        (b'{"a":' * 10_000, 413),
        (b'{"firstName":' + DEEP + b"}", 413),
        (b'"' + b"a" * (1 << 20) + b'"', 413),
    ],
    ids=lambda given: repr(given[:24]) if isinstance(given, bytes) else None,
)
def test_a_wrong_body_is_refused(untouched: Sample, body: bytes, status: int) -> None:
    answer = untouched.ask("POST", "/registrations", body)
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == PROBLEM


def test_brackets_in_a_text_are_not_depth(sample: Sample) -> None:
    names = {**ADA, "firstName": '\\"[' * 33, "lastName": "{[" * 50}
    answer = sample.ask("POST", "/registrations", json.dumps(names).encode())
    assert answer.status == 201


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"content_type": "multipart/form-data; boundary=x"}, 415),
        ({"content_type": ""}, 415),
        ({"content_type": "application/jsonx"}, 415),
        ({"content_encoding": "gzip"}, 415),
        ({"idempotency_key": '"'}, 400),
        ({"idempotency_key": ""}, 400),
        ({"idempotency_key": "a b"}, 400),
        ({"idempotency_key": '"a", "b"'}, 400),
        ({"idempotency_key": '("a" "b")'}, 400),
        ({"idempotency_key": ":YQ==:"}, 400),
        ({"idempotency_key": '"a";b=1'}, 400),
        ({"idempotency_key": "é".encode()}, 400),
        ({"idempotency_key": '"' + "k" * 256 + '"'}, 400),
        ({"idempotency_key": "k" * 256}, 400),
    ],
)
def test_a_wrong_header_is_refused(untouched: Sample, fields: dict[str, str], status: int) -> None:
    answer = untouched.ask("POST", "/registrations", FORM, **fields)
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == PROBLEM


@pytest.mark.parametrize(
    "kind",
    [None, "application/json; charset=utf-8", "application/vnd.shop+json", "APPLICATION/JSON"],
)
def test_json_may_be_declared_in_every_usual_way(sample: Sample, kind: str | None) -> None:
    assert sample.start(content_type=kind)


def test_a_used_key_with_another_body_is_refused(sample: Sample) -> None:
    sample.start(idempotency_key='"taken"')
    before = sample.count()
    other = json.dumps({**ADA, "firstName": "Bob"}).encode()
    answer = sample.ask("POST", "/registrations", other, idempotency_key='"taken"')
    assert (answer.status, answer.code) == (422, "OL2023")
    assert sample.count() == before


@pytest.mark.parametrize(
    "path",
    [
        "/registrations/",
        "/registrations//",
        "/registrations/..",
        "/registrations/../livez",
        "/registrations/%2e%2e",
        "/registrations/%2f",
        "/registrations/..%2f..%2fetc%2fpasswd",
        "/registrations/%00",
        "/registrations/%ff",
        "/registrations/%F0%9F%98%80",
        "/registrations/reg_" + "0" * 26,
        "/registrations/" + "a" * 8000,
        "/registrations/' OR 1=1 --".replace(" ", "%20"),
        "/outlive/assets/..%2fapp.py",
        "/outlive/assets/../../app.py",
        "/outlive/problems/none",
        "/REGISTRATIONS",
        "*",
    ],
)
def test_a_path_to_nothing_is_404(untouched: Sample, path: str) -> None:
    answer = untouched.ask("GET", path)
    assert answer.status == 404, answer.body
    assert answer.headers["content-type"] == PROBLEM


def test_a_hidden_slash_opens_no_other_door(sample: Sample) -> None:
    place = sample.start()
    answer = sample.ask("POST", f"{place}%2fcancel")
    assert answer.status == 404
    status = json.loads(sample.ask("GET", place).body)["status"]
    assert status in ("queued", "running", "waiting")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=",
        "limit=x",
        "limit=201",
        "limit=" + "9" * 5000,
        "limit=%C2%B2",
        "status=nope",
        "cursor=%C2%B2_x",
        "cursor=x",
        "cursor=" + "9" * 5000 + "_x",
        "cursor=%ff",
        "a=1&" * 30,
    ],
)
def test_a_wrong_query_is_refused(untouched: Sample, query: str) -> None:
    answer = untouched.ask("GET", f"/registrations?{query}")
    assert (answer.status, answer.code) == (422, "OL4003")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE"])
def test_a_method_that_is_none_of_the_path_is_405(
    registration: str, untouched: Sample, method: str
) -> None:
    for path, allowed in (
        ("/registrations", "GET, HEAD, OPTIONS, POST"),
        (registration, "GET, HEAD, OPTIONS"),
        (f"{registration}/cancel", "OPTIONS, POST"),
        ("/livez", "GET, HEAD, OPTIONS"),
    ):
        answer = untouched.ask(method, path)
        assert answer.status == 405 and answer.headers["allow"] == allowed
        assert answer.headers["content-type"] == PROBLEM
        options = untouched.ask("OPTIONS", path)
        assert options.status == 204 and options.headers["allow"] == allowed


def test_a_client_that_announces_more_than_it_sends_starts_nothing(untouched: Sample) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", untouched.port, timeout=60)
    connection.putrequest("POST", "/registrations")
    connection.putheader("content-length", str(len(FORM) + 10))
    connection.endheaders(FORM)
    connection.close()


def test_a_body_without_end_is_cut_off_at_the_limit(untouched: Sample) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", untouched.port, timeout=60)
    connection.putrequest("POST", "/registrations")
    connection.putheader("transfer-encoding", "chunked")
    connection.endheaders()
    for _ in range(20):
        connection.send(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
    answer = Answer(connection.getresponse())
    connection.close()
    assert (answer.status, answer.code) == (413, "OL4005")
