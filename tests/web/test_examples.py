"""The examples of answers: each fits the schema it stands beside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from jsonschema import Draft202012Validator
from msgspec import Meta
from tests.web.fake import Fake, declare
from tests.web.test_answers import shop
from tests.web.test_openapi import Person, Plain, resolve

from outlive.web.examples import PROBLEMS
from outlive.web.openapi import PROBLEM_TEXTS, document

SHARED = ("start", "status", "cancel")


class Coded(msgspec.Struct):
    code: Annotated[str, Meta(pattern="^[A-Z]{3}-[0-9]+$")]


class Grumpy(pydantic.BaseModel):
    name: str

    @pydantic.field_validator("name")
    @classmethod
    def known(cls, name: str) -> str:
        return {"ada": "Ada"}[name]


def types() -> Any:
    return Fake(
        declare("plain", "/plain", input_type=Plain, output_type=dict[str, Any], status_code=201),
        declare("person", "/person", input_type=Person, output_type=list[Person]),
        declare("coded", "/coded", input_type=Coded, output_type=Coded),
        declare("grumpy", "/grumpy", input_type=Grumpy, output_type=Grumpy | None),
        declare("json", "/json", input_type=Any, output_type=None, signals={"go": None}),
    )


def answers(made: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each answer that has a body: of which operation, its status, its content."""
    for path in made["paths"].values():
        for operation in path.values():
            if isinstance(operation, dict) and "operationId" in operation:
                for status, answer in operation["responses"].items():
                    found = resolve(made, answer["$ref"]) if "$ref" in answer else answer
                    for content in found.get("content", {}).values():
                        yield operation["operationId"], status, content


@pytest.mark.parametrize("app", [Fake, types, shop])
def test_every_example_fits_the_schema_it_stands_beside(app: Any) -> None:
    made = document(app())
    seen = set()
    for _, status, content in answers(made):
        for example in content.get("examples", {}).values():
            value = resolve(made, example["$ref"])["value"]
            schema = {**content["schema"], "components": made["components"]}
            Draft202012Validator(schema).validate(value)
            assert int(status) < 400 or value["status"] == int(status)
            seen.add(example["$ref"].rpartition("/")[2])
    assert seen >= made["components"]["examples"].keys() - {"Problem.429"}
    assert len(msgspec.json.encode(value)) < 2_000, "it is small"


def test_every_answer_of_the_routes_of_a_process_has_an_example() -> None:
    for operation, status, content in answers(document(types())):
        of, _, verb = operation.partition(".")
        said = verb in SHARED or verb.startswith("signal")
        if (said or int(status) >= 400) and content["schema"] != {"type": "string"}:
            assert content["examples"], (of, verb, status)


def test_there_is_a_problem_of_each_status_that_is_answered() -> None:
    assert {status: error.status for status, error in PROBLEMS.items()} == {
        status: status for status in PROBLEM_TEXTS
    }


def test_a_value_that_the_type_does_not_take_is_left_out() -> None:
    shown = document(types())["components"]["examples"]
    assert shown["plain.begun"]["value"]["data"] == {"count": 1}
    assert shown["coded.begun"]["value"]["data"] is None
    assert "result" not in shown["coded.done"]["value"]
    assert shown["person.begun"]["value"]["data"] == {"home": {"city": "text"}}
    assert "result" not in shown["person.done"]["value"], "no schema says what is in the list"
    assert shown["json.done"]["value"]["result"] is None
    assert shown["plain.accepted"]["value"]["links"]["self"].startswith("/plain/reg_")
