"""Header fields whose meaning is ours."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlive.errors import MalformedKey
from outlive.web.messages import (
    Request,
    demand_json,
    depth,
    idempotency_key,
    local_path,
    none_match,
    preferred_wait,
    trace_id,
    wants_stream,
)
from outlive.web.problems import UnsupportedMediaType


def request(**fields: str) -> Request:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return of_lines(lines)


def of_lines(lines: list[tuple[bytes, bytes]]) -> Request:
    scope: dict[str, Any] = {"method": "GET", "path": "/", "headers": lines}
    return Request(scope, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        ('"order-17"', "order-17"),
        ("order-17", "order-17"),
        ('"with \\"quotes\\""', 'with "quotes"'),
        ("8e03978e-40d5-43e8-bc93-6f26f8c9c3b1", "8e03978e-40d5-43e8-bc93-6f26f8c9c3b1"),
        ('"a b"', "a b"),
        ('"' + "x" * 255 + '"', "x" * 255),
    ],
)
def test_a_key_is_a_structured_string_or_a_bare_token(sent: str, key: str) -> None:
    assert idempotency_key(request(idempotency_key=sent)) == key


def test_no_key_is_none() -> None:
    assert idempotency_key(request()) is None


def test_a_key_sent_twice_is_malformed() -> None:
    with pytest.raises(MalformedKey):
        idempotency_key(of_lines([(b"idempotency-key", b"a"), (b"idempotency-key", b"a")]))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_key_or_malformed_and_nothing_else(sent: bytes) -> None:
    try:
        key = idempotency_key(of_lines([(b"idempotency-key", sent)]))
    except MalformedKey:
        return
    assert key is not None and 1 <= len(key) <= 255


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ("wait=10", 10),
        ("respond-async, wait=5", 5),
        ('WAIT="7"; x', 7),
        ("wait=9999999999999", 30),
        ("wait=-1", 0),
        ("wait=ten", 0),
        ("wait", 0),
        ("", 0),
    ],
)
def test_a_preferred_wait_is_capped_and_a_malformed_one_ignored(sent: str, seconds: int) -> None:
    assert preferred_wait(request(prefer=sent)) == seconds


def test_entity_tags_lose_their_weakness_and_quotes() -> None:
    assert none_match(request(if_none_match='"1", W/"2"')) == {b"1", b"2"}
    assert none_match(request()) == frozenset()


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("text/event-stream", True),
        ("text/event-stream, */*;q=0.1", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=0.4, application/json", False),
        ("*/*", False),
        ("text/event-stream;q=high", False),
    ],
)
def test_a_stream_is_only_sent_to_who_names_it(accept: str, wanted: bool) -> None:
    assert wants_stream(request(accept=accept)) is wanted


def test_a_stream_may_be_named_in_any_line_and_in_any_case() -> None:
    lines = [(b"accept", b"Text/Event-Stream"), (b"accept", b"application/json;q=0.5")]
    assert wants_stream(of_lines(lines)) and wants_stream(of_lines(lines[::-1]))


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        (f"00-{'ab' * 16}-{'cd' * 8}-01", "ab" * 16),
        (f"00-{'00' * 16}-{'cd' * 8}-01", ""),
        (f"00-{'ab' * 16}-{'00' * 8}-01", ""),
        (f"ff-{'ab' * 16}-{'cd' * 8}-01", ""),
        (f"00-{'AB' * 16}-{'cd' * 8}-01", ""),
        ("nonsense", ""),
    ],
)
def test_only_a_valid_traceparent_gives_its_trace_id(sent: str, found: str) -> None:
    assert trace_id(request(traceparent=sent)) == found


@pytest.mark.parametrize(
    ("path", "root", "local"),
    [
        ("/a/b", "", "/a/b"),
        ("/p/a", "/p", "/a"),
        ("/a", "/p", "/a"),
        ("/p", "/p", "/"),
        ("/p/a", "/p/", "/a"),
        ("/pa", "/p", "/pa"),
    ],
)
def test_a_prefix_is_taken_off_whether_the_server_left_it_in_or_not(
    path: str, root: str, local: str
) -> None:
    assert local_path(path, root) == local


@pytest.mark.parametrize(
    ("body", "levels"),
    [
        (b"", 0),
        (b"7", 0),
        (b"[]", 1),
        (b'{"a":[{}]}', 3),
        (b"[][][]", 1),
        (b'"[[[["', 0),
        (b'["\\"[[", "\\\\", [0]]', 2),
        (b"[" * 5000, 5000),
        (b'["unended [[', 1),
    ],
)
def test_depth_counts_brackets_outside_of_texts(body: bytes, levels: int) -> None:
    assert depth(body) == levels


def test_the_depth_of_the_worst_broken_text_is_found_in_one_pass() -> None:
    assert depth(b"[" * 300 + b'"' + b'\\"' * 500_000) == 300


def test_an_encoded_body_is_refused_whatever_its_type() -> None:
    with pytest.raises(UnsupportedMediaType, match="encoded"):
        demand_json(request(content_encoding="gzip"))
    demand_json(request(content_encoding="identity"))
