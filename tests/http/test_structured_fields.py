"""The public vectors of structured fields (RFC 9651), through what we parse and print them with.

First the parser that every header of ours goes through, both ways, on all vectors; then our own
faces: `Idempotency-Key` takes every string of them and refuses what must fail, and `RateLimit`
prints what the vectors call canonical.
"""

from __future__ import annotations

import json
import zipfile
from base64 import b32decode, b32encode
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import http_sf
import pytest

from outlive.errors import MalformedKey
from outlive.web.messages import KEY_CHARACTERS_MAX, Request, idempotency_key
from outlive.web.ratelimits import _written

VECTORS = Path(__file__).parent / "structured-fields"
GENERATED = VECTORS / "generated.zip"
PLAIN = sorted(path.name for path in VECTORS.glob("*.json"))
with zipfile.ZipFile(GENERATED) as packed:
    PRINTED = sorted(name for name in packed.namelist() if name.startswith("serialisation"))
    READ = sorted((*PLAIN, *(set(packed.namelist()) - set(PRINTED))))


def vectors(name: str) -> list[dict[str, Any]]:
    if name in PLAIN:
        text = (VECTORS / name).read_text("utf-8")
    else:
        with zipfile.ZipFile(GENERATED) as packed:
            text = packed.read(name).decode()
    found: list[dict[str, Any]] = json.loads(text)
    return found


async def nothing(*_: Any) -> Any:
    raise AssertionError("a header is read without the body")


def request_with(line: tuple[bytes, bytes]) -> Request:
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [line]}
    return Request(scope, nothing, nothing)


def parsed(case: dict[str, Any]) -> Any:
    value = ", ".join(case["raw"]).encode("latin-1")
    return http_sf.parse(value, tltype=case["header_type"])


def told(found: Any) -> Any:
    """A parsed field in the JSON of the vectors."""
    if isinstance(found, dict):
        return [[name, told_member(member)] for name, member in found.items()]
    if isinstance(found, list):
        return [told_member(member) for member in found]
    return told_member(found)


def told_member(found: Any) -> Any:
    value, parameters = found if isinstance(found, tuple) else (found, {})
    inner = isinstance(value, list)
    said = [told_member(item) for item in value] if inner else told_bare(value)
    return [said, [[name, told_bare(one)] for name, one in parameters.items()]]


def told_bare(value: Any) -> Any:
    if isinstance(value, http_sf.Token):
        return {"__type": "token", "value": str(value)}
    if isinstance(value, http_sf.DisplayString):
        return {"__type": "displaystring", "value": str(value)}
    if isinstance(value, bytes):
        return {"__type": "binary", "value": b32encode(value).decode()}
    if isinstance(value, datetime):
        return {"__type": "date", "value": round(value.timestamp())}
    return float(value) if isinstance(value, Decimal) else value


def meant(case: dict[str, Any]) -> Any:
    """What a vector's JSON stands for."""
    expected = case["expected"]
    if case["header_type"] == "dictionary":
        return {name: meant_member(member) for name, member in expected}
    if case["header_type"] == "list":
        return [meant_member(member) for member in expected]
    return meant_member(expected)


def meant_member(expected: Any) -> Any:
    value, parameters = expected
    inner = isinstance(value, list)
    made = [meant_member(item) for item in value] if inner else meant_bare(value)
    return made, {name: meant_bare(one) for name, one in parameters}


def meant_bare(value: Any) -> Any:
    if not isinstance(value, dict):
        return Decimal(str(value)) if isinstance(value, float) else value
    text = value["value"]
    if value["__type"] == "token":
        return http_sf.Token(text)
    if value["__type"] == "displaystring":
        return http_sf.DisplayString(text)
    return b32decode(text) if value["__type"] == "binary" else datetime.fromtimestamp(text, UTC)


def written(value: Any) -> list[str]:
    """What is sent: nothing at all for an empty list or dictionary."""
    return [http_sf.ser(value)] if value not in ([], {}) else []


@pytest.mark.parametrize("name", READ)
def test_every_vector_is_parsed_and_printed_as_it_says(name: str) -> None:
    wrong, right = [], 0
    for case in vectors(name):
        try:
            found = parsed(case)
        except (http_sf.StructuredFieldError, ValueError) as error:
            if not (case.get("must_fail") or case.get("can_fail")):
                wrong.append((case["name"], repr(error)))
            continue
        if case.get("must_fail"):
            wrong.append((case["name"], f"was read as {found!r}"))
            continue
        if json.dumps(told(found)) != json.dumps(case["expected"]):
            wrong.append((case["name"], f"{told(found)} is not {case['expected']}"))
        if written(found) != case.get("canonical", case["raw"]):
            wrong.append((case["name"], f"printed as {written(found)}"))
        right += 1
    assert not wrong
    assert right, "a file of which nothing can be parsed would prove nothing"


@pytest.mark.parametrize("name", PRINTED)
def test_every_value_is_printed_canonically_or_refused(name: str) -> None:
    wrong = []
    for case in vectors(name):
        try:
            found = written(meant(case))
        except (http_sf.StructuredFieldError, ValueError) as error:
            if not (case.get("must_fail") or case.get("can_fail")):
                wrong.append((case["name"], repr(error)))
            continue
        if case.get("must_fail") or found != case["canonical"]:
            wrong.append((case["name"], f"printed as {found}"))
    assert not wrong


def test_an_idempotency_key_is_any_string_of_the_vectors_and_nothing_that_must_fail() -> None:
    taken = refused = 0
    for name in ("string.json", "string-generated.json"):
        for case in vectors(name):
            if case["header_type"] != "item" or len(case["raw"]) > 1:
                continue
            raw = case["raw"][0].encode("latin-1")
            request = request_with((b"idempotency-key", raw))
            if case.get("must_fail"):
                with pytest.raises(MalformedKey):
                    idempotency_key(request)
                refused += 1
                continue
            value, parameters = case["expected"]
            if 1 <= len(value) <= KEY_CHARACTERS_MAX and not parameters:
                assert idempotency_key(request) == value, case["name"]
                taken += 1
            else:
                with pytest.raises(MalformedKey):
                    idempotency_key(request)
    assert taken > 90 and refused > 150


def test_a_number_a_list_or_bytes_are_no_idempotency_key() -> None:
    for name in ("binary.json", "boolean.json", "date.json"):
        for case in vectors(name):
            raw = ", ".join(case["raw"]).encode("latin-1")
            with pytest.raises(MalformedKey):
                idempotency_key(request_with((b"idempotency-key", raw)))


def test_what_the_rate_limit_fields_are_printed_with_prints_every_list_of_the_vectors() -> None:
    printed = 0
    for name in ("list.json", "listlist.json", "param-list.json", "examples.json"):
        for case in vectors(name):
            if case["header_type"] != "list" or case.get("must_fail") or not case["expected"]:
                continue
            (canonical,) = case.get("canonical", case["raw"])
            assert _written(meant(case)) == canonical.encode()
            printed += 1
    assert printed >= 10
