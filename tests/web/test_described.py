"""Updates, queries and callbacks in the description of the service."""

from __future__ import annotations

from tests.web.test_answers import shop
from tests.web.test_openapi import references, resolve

from outlive.web.openapi import document


def test_every_update_query_and_callback_is_described() -> None:
    made = document(shop())
    paths = made["paths"]
    move = paths["/orders/{id}/updates/move"]["post"]
    assert {"200", "202", "400", "404", "409", "422", "429"} <= set(move["responses"])
    asked = move["requestBody"]["content"]["application/json"]["schema"]
    assert resolve(made, asked["$ref"])["properties"] == {"street": {"type": "string"}}
    standing = paths["/orders/{id}/updates/move/{key}"]["get"]["responses"]["200"]
    answer = standing["content"]["application/json"]["schema"]["properties"]["answer"]
    assert resolve(made, answer["$ref"])["properties"] == {"number": {"type": "integer"}}
    query = paths["/orders/{id}/queries/summary"]["get"]
    assert query["parameters"] == [
        {
            "name": "upper",
            "in": "query",
            "required": False,
            "schema": {"type": "boolean", "default": False},
        }
    ]
    assert set(paths["/outlive/callbacks/{token}"]["post"]["responses"]) >= {"200", "202", "410"}
    assert not [path for path in paths if path.startswith("/others") and "updates" in path]
    for reference in references(made):
        resolve(made, reference)
    ids = [
        operation["operationId"]
        for path in paths.values()
        for operation in path.values()
        if isinstance(operation, dict) and "operationId" in operation
    ]
    assert len(ids) == len(set(ids))
