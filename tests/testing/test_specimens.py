"""A specimen of a type is a value that the type itself reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from msgspec import Meta, Struct
from pydantic import BaseModel, Field

from outlive.codec import Shape
from outlive.testing.specimens import specimen

Email = Annotated[str, Meta(max_length=254, pattern=r"^[^@ ]+@[^@ ]+\.[^@ ]+$")]


class Form(Struct, rename="camel", forbid_unknown_fields=True):
    first_name: Annotated[str, Meta(min_length=3, max_length=5)]
    email: Email
    level: Literal["low", "high"]
    born: date
    tags: Annotated[list[int], Meta(min_length=2)]
    note: str | None
    skipped: int = 7


@dataclass
class Plain:
    at: datetime
    lasts: timedelta
    id: UUID
    cents: Decimal


class Model(BaseModel):
    count: int = Field(ge=3, le=5)
    part: float = Field(gt=0, lt=0.5)
    whole: int = Field(multiple_of=7, gt=10)


class Tree(Struct):
    name: str
    under: Tree | None


TYPES = (
    int, str, bool, float, None, list[Form], dict[str, int], Form, Plain, Model, Tree, Any, Email,
    tuple[int, str], Annotated[int, Meta(ge=0, le=0)], Annotated[int, Meta(lt=0)],
    Annotated[str, Meta(pattern="^[0-9]{6}$")], Annotated[str, Meta(examples=["X-17"])],
)  # fmt: skip


@pytest.mark.parametrize("wanted", TYPES, ids=str)
def test_it_is_read_by_its_own_type(wanted: Any) -> None:
    shape = Shape(wanted)
    shape.read(specimen(shape))


def test_only_what_is_required_is_filled_in() -> None:
    read = Shape(Form).read(specimen(Shape(Form)))
    assert read.skipped == 7 and len(read.tags) == 2


def test_an_example_comes_before_everything_else() -> None:
    assert specimen(Shape(Annotated[str, Meta(examples=["X-17"])])) == b'"X-17"'


def test_what_cannot_be_guessed_says_so_and_what_helps() -> None:
    with pytest.raises(ValueError, match=r"no usual text has the pattern .* give it examples"):
        specimen(Shape(Annotated[str, Meta(pattern="^Q{40}$")]))
