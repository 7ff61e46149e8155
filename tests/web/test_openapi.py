"""The service described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import pydantic
from tests.web.conftest import client_of
from tests.web.driver import Exchange
from tests.web.fake import Fake, declare

from outlive.codec import Shape
from outlive.web.asgi import create
from outlive.web.openapi import Types, document, takes_null


@dataclass
class Plain:
    count: int


class Address(pydantic.BaseModel):
    city: str


class Person(pydantic.BaseModel):
    home: Address


def references(found: Any) -> list[str]:
    if isinstance(found, dict):
        own = [found["$ref"]] if isinstance(found.get("$ref"), str) else []
        return own + [ref for value in found.values() for ref in references(value)]
    if isinstance(found, list):
        return [ref for value in found for ref in references(value)]
    return []


def resolve(document: dict[str, Any], reference: str) -> Any:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


async def test_the_document_needs_no_open_store(fake: Fake) -> None:
    fake.phase = "new"
    made = document(fake)  # type: ignore[arg-type]
    assert made["openapi"] == "3.1.0"
    assert fake.calls == []


async def test_every_operation_names_every_status_it_answers(fake: Fake) -> None:
    paths = document(fake)["paths"]  # type: ignore[arg-type]
    start = set(paths["/registrations"]["post"]["responses"])
    assert start == {"200", "201", "400", "413", "415", "422", "429", "500", "503", "507"}
    status = set(paths["/registrations/{id}"]["get"]["responses"])
    assert status == {"200", "204", "304", "404", "410", "422", "500", "503"}
    signal = paths["/registrations/{id}/signals/confirmed"]["post"]["responses"]
    assert {"202", "404", "409", "410", "413", "415", "429"} <= set(signal)
    assert {"202", "409"} <= set(paths["/registrations/{id}/cancel"]["post"]["responses"])
    assert {"202", "403"} <= set(paths["/registrations/{id}/retry"]["post"]["responses"])
    assert {"200", "403", "422"} <= set(paths["/registrations"]["get"]["responses"])
    assert "202" in paths["/v1/orders"]["post"]["responses"]


async def test_every_reference_leads_somewhere(fake: Fake) -> None:
    made = document(fake)  # type: ignore[arg-type]
    found = references(made)
    assert len(found) > 50
    for reference in found:
        resolve(made, reference)


async def test_a_start_links_to_the_status_of_what_it_started(fake: Fake) -> None:
    paths = document(fake)["paths"]  # type: ignore[arg-type]
    link = paths["/registrations"]["post"]["responses"]["201"]["links"]["status"]
    assert link["operationId"] == paths["/registrations/{id}"]["get"]["operationId"]


def test_schemas_come_from_structs_dataclasses_and_pydantic_and_the_rest_is_anything() -> None:
    fake = Fake(
        declare("plain", "/plain", input_type=Plain, output_type=dict[str, Any]),
        declare("person", "/person", input_type=Person, output_type=Address),
        declare("json", "/json", input_type=Any, output_type=None, prefix="j"),
    )
    made = document(fake)  # type: ignore[arg-type]

    def body(path: str) -> Any:
        return made["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]

    assert resolve(made, body("/plain")["$ref"])["properties"]["count"] == {"type": "integer"}
    assert "city" in str(made["components"]["schemas"]["Address"])
    assert body("/person")["type"] == "object"
    assert body("/json") == {}
    for reference in references(made):
        resolve(made, reference)


def test_of_types_of_one_name_each_schema_leads_to_its_own() -> None:
    def order(amount: type) -> Shape:
        money = msgspec.defstruct("Money", [("Money", amount)])
        return Shape(msgspec.defstruct("Order", [("sum", money)]))

    shapes = [order(int), order(str), order(int), order(str)]
    types = Types(shapes)

    def kind_of(shape: Shape) -> str:
        schema = types.schema(shape)
        for member in ("sum", "Money"):
            while "$ref" in schema:
                schema = types.components[schema["$ref"].rpartition("/")[2]]
            schema = schema["properties"][member]
        return str(schema["type"])

    assert [kind_of(shape) for shape in shapes] == ["integer", "string", "integer", "string"]
    assert sorted(types.components) == ["Money", "Money2", "Order", "Order2"]


async def test_the_document_is_served_with_the_prefix_as_its_server(fake: Fake) -> None:
    face = create(fake)  # type: ignore[arg-type]
    sent = Exchange(face, "GET", "/api/openapi.json", root_path="/api")
    await sent.end()
    assert sent.status == 200
    assert '"servers":[{"url":"/api"}]' in sent.text


async def test_the_document_of_a_wrapped_application_is_merged_in(fake: Fake) -> None:
    class Wrapped:
        def openapi(self) -> dict[str, Any]:
            return {
                "openapi": "3.1.0",
                "info": {"title": "Shop", "version": "9"},
                "paths": {"/hello": {}},
                "components": {"schemas": {"Mine": {}}, "securitySchemes": {"key": {}}},
            }

    async with client_of(create(fake, Wrapped())) as client:  # type: ignore[arg-type]
        made = (await client.get("/openapi.json")).json()
    assert made["info"]["title"] == "Shop"
    assert {"/hello", "/registrations"} <= set(made["paths"])
    assert {"Mine", "OutliveProcess"} <= set(made["components"]["schemas"])
    assert "securitySchemes" in made["components"]


async def test_the_catalogue_of_problems_is_part_of_it(client: httpx.AsyncClient) -> None:
    found = (await client.get("/openapi.json")).json()["x-problems"]
    slugs = {problem["slug"] for problem in found}
    assert {"draining", "key-reused", "body-too-large"} <= slugs


async def test_a_signal_needs_a_body_unless_nothing_fits_it(fake: Fake) -> None:
    paths = document(fake)["paths"]  # type: ignore[arg-type]
    bodies = {
        path.rpartition("/")[2]: item["post"]["requestBody"]["required"]
        for path, item in paths.items()
        if "/signals/" in path
    }
    for definition in fake.definitions.values():
        for signal, kind in (definition.signals or {}).items():
            assert bodies[signal] is not takes_null(kind)
