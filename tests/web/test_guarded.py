"""What stands in front of an application shows in its description, and nothing of it is lost."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette

from outlive import Outlive, Quota
from outlive.web.openapi import document
from outlive.web.requests import Rule


def api() -> FastAPI:
    made = FastAPI()

    @made.post("/charges/{what}", status_code=201)
    async def charge(what: str, cents: int) -> dict[str, int]:
        return {what: cents}

    @made.get("/charges/{what}")
    async def show(what: str) -> str:
        return what

    return made


def resolved(made: Any, ref: str) -> Any:
    for part in ref.removeprefix("#/").split("/"):
        made = made[part]
    return made


def refs(made: Any) -> list[str]:
    if isinstance(made, dict):
        found = [made["$ref"]] if isinstance(made.get("$ref"), str) else []
        return found + [ref for value in made.values() for ref in refs(value)]
    return [ref for value in made for ref in refs(value)] if isinstance(made, list) else []


def test_every_guard_describes_what_it_may_answer_on_the_routes_it_guards() -> None:
    app, site = Outlive("memory://"), api()
    theirs = deepcopy(site.openapi())
    keyed = app.requests().asgi(site, Rule(route="POST /charges/{id}"))
    service = app.ratelimits(Quota("burst", 3)).asgi(app.sessions().asgi(keyed))
    made = document(app, service)
    post, get = (made["paths"]["/charges/{what}"][method] for method in ("post", "get"))
    assert set(post["responses"]) == {
        "201", "400", "401", "409", "413", "422", "429", "500", "503"
    }  # fmt: skip
    assert set(get["responses"]) == {"200", "401", "409", "422", "429", "500", "503"}
    (key,) = [one for one in post["parameters"] if one["name"] == "Idempotency-Key"]
    assert key["required"] and not any(one["name"] == key["name"] for one in get["parameters"])
    assert set(post["responses"]["201"]["headers"]) == {
        "RateLimit", "RateLimit-Policy", "Idempotent-Replayed"
    }  # fmt: skip
    unprocessable = post["responses"]["422"]
    assert set(unprocessable["content"]) == {"application/json", "application/problem+json"}
    assert "key-reused" in unprocessable["description"]
    assert "Retry-After" in post["responses"]["429"]["headers"]
    for ref in refs(made):
        assert resolved(made, ref), ref
    assert site.openapi() == theirs, "what FastAPI keeps was not touched"


def test_a_key_that_is_not_required_is_described_so() -> None:
    app = Outlive("memory://")
    keyed = app.requests().asgi(api(), Rule(route="POST /charges/{what}", required=False))
    made = document(app, keyed)
    (key,) = [
        one for one in made["paths"]["/charges/{what}"]["post"]["parameters"]
        if one["name"] == "Idempotency-Key"
    ]  # fmt: skip
    assert key["required"] is False


def test_an_application_without_a_description_stays_without() -> None:
    app = Outlive("memory://")
    service = app.ratelimits(Quota("burst", 3)).asgi(app.sessions().asgi(Starlette()))
    assert service.openapi() is None
    assert document(app, service) == document(app)
