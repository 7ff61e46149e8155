"""Problems: RFC 9457, one page a type."""

from __future__ import annotations

import httpx
import msgspec
import pytest
from tests.web.fake import Fake

from outlive import errors
from outlive.errors import OutliveError, catalogue
from outlive.web import problems

CORE = {"type", "title", "status", "detail", "instance", "code", "retryable", "trace_id"}


def told(error: OutliveError) -> tuple[int, dict[str, object], dict[bytes, bytes]]:
    status, body, headers = problems.of_error(error, instance="/x", root="/p", trace="")
    return status, msgspec.json.decode(body), dict(headers)


@pytest.mark.parametrize("kind", list(catalogue()), ids=lambda kind: kind.__name__)
def test_every_error_maps_by_its_own_attributes(kind: type[OutliveError]) -> None:
    error = kind("s", "T", "m") if kind is errors.StepFailed else kind()  # type: ignore[call-arg]
    status, body, headers = told(error)
    assert set(body) >= CORE
    assert (status, body["status"]) == (kind.status, kind.status)
    assert (body["code"], body["title"]) == (kind.code, kind.title())
    assert body["type"] == f"/p/outlive/problems/{kind.slug}"
    assert body["retryable"] is kind.retryable
    assert headers[b"content-type"] == b"application/problem+json"
    assert (b"retry-after" in headers) == (kind.retryable or status in (429, 503))


def test_codes_and_slugs_are_unique_among_the_declared() -> None:
    kinds = [kind for kind in catalogue() if kind.__module__.startswith("outlive.")]
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert len({kind.slug for kind in kinds}) == len(kinds)


def test_facts_are_members_unless_they_take_a_standard_name() -> None:
    error = errors.InvalidInput("no", field="email", status="mine", thing=object())
    _, body, _ = told(error)
    assert body["field"] == "email"
    assert body["status"] == 422
    assert "thing" not in body


def test_the_words_of_an_inner_error_are_not_told() -> None:
    _, body, _ = told(errors.StoreUnavailable("locked: /srv/x.db", path="/srv/x.db"))
    assert "/srv" not in str(body)


def test_an_open_breaker_is_a_503_that_names_the_dependency_and_nothing_else() -> None:
    error = errors.BreakerOpen("held by ann: secret", dependency="partner", retry_after=30.0)
    status, problem, headers = told(error)
    assert (status, problem["dependency"], problem["retryable"]) == (503, "partner", True)
    assert "secret" not in str(problem) and 30 <= int(headers[b"retry-after"]) <= 38


async def test_a_problem_carries_the_callers_trace_id(client: httpx.AsyncClient) -> None:
    sent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    body = (await client.get("/nothing", headers={"traceparent": sent})).json()
    assert body["trace_id"] == "ab" * 16
    drawn = (await client.get("/nothing")).json()["trace_id"]
    assert len(drawn) == 32 and int(drawn, 16)


@pytest.mark.parametrize("slug", sorted(problems.by_slug()))
async def test_every_type_of_problem_has_a_page(client: httpx.AsyncClient, slug: str) -> None:
    answer = await client.get(f"/outlive/problems/{slug}")
    kind = problems.by_slug()[slug]
    assert answer.status_code == 200
    assert kind.code in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_an_unknown_problem_has_no_page(client: httpx.AsyncClient) -> None:
    assert (await client.get("/outlive/problems/none-such")).status_code == 404


async def test_the_pages_of_problems_are_for_everybody(connect: object, face: object) -> None:
    async with connect(face, peer="203.0.113.9") as client:  # type: ignore[operator]
        assert (await client.get("/outlive/problems/draining")).status_code == 200
        assert (await client.get("/outlive/problems")).status_code == 200


def test_the_failure_of_a_process_becomes_its_problem(fake: Fake) -> None:
    from outlive.kinds.processes import Failure

    known = problems.of_failure(Failure("Full", "x", "OL1021"), "failed", "")
    assert known["type"] == "/outlive/problems/store-full"
    plain = problems.of_failure(Failure("Refused", "no"), "failed", "")
    assert plain["type"] == "/outlive/problems/process-failed"
    assert problems.of_failure(None, "stuck", "")["type"] == "/outlive/problems/process-stuck"
    mounted = problems.of_failure(Failure("Full", "x", "OL1021"), "failed", "/a b")
    assert mounted["type"] == f"/a%20b{known['type']}"


def test_who_is_told_when_is_never_told_to_come_before() -> None:
    for seconds in (0.01, 0.9, 1.2, 12.0, 3600.0):
        error = errors.RateLimited("Refused by burst.", retry_after=seconds)
        drawn = set()
        for _ in range(50):
            _, _, fields = problems.of_error(error, instance="/", root="", trace="")
            drawn.add(int(dict(fields)[b"retry-after"]))
        assert seconds <= min(drawn) and max(drawn) <= max(1, seconds * 1.25 + 1)


def test_retry_after_is_a_whole_second_with_jitter() -> None:
    drawn = {problems.retry_after(20.0) for _ in range(200)}
    assert min(drawn) >= 10 and max(drawn) <= 30 and len(drawn) > 5
    assert problems.retry_after(0.1) == 1
