"""The table of paths."""

from __future__ import annotations

import pytest

from outlive.web.messages import Request, Response
from outlive.web.routes import Branch, Route, Routes


async def handler(_: Request) -> Response:
    return Response(200)


def table() -> Routes:
    made = Routes()
    made.add("/a", Route("/a", {"GET": handler}))
    made.add_branch(
        "/a",
        Branch(
            Route("/a/{id}", {"GET": handler}),
            {"cancel": Route("/a/{id}/cancel", {"POST": handler})},
            Route("/a/{id}/signals/{name}", {"POST": handler}),
        ),
    )
    return made


@pytest.mark.parametrize(
    ("path", "template", "id", "name"),
    [
        ("/a", "/a", "", ""),
        ("/a/1", "/a/{id}", "1", ""),
        ("/a/1/cancel", "/a/{id}/cancel", "1", ""),
        ("/a/1/signals/go", "/a/{id}/signals/{name}", "1", "go"),
    ],
)
def test_each_form_of_path_finds_its_route(path: str, template: str, id: str, name: str) -> None:
    found = table().find(path)
    assert found is not None
    assert (found[0].template, found[1], found[2]) == (template, id, name)


@pytest.mark.parametrize(
    "path",
    ["", "/", "/b", "/a/", "/a//cancel", "/a/1/other", "/a/1/signals/", "/a//signals/go", "/x/a/1"],
)
def test_no_other_path_finds_one(path: str) -> None:
    assert table().find(path) is None


def test_a_path_is_declared_once() -> None:
    made = table()
    with pytest.raises(ValueError, match="another path"):
        made.add("/a", Route("/a", {"GET": handler}))


def test_get_brings_head_and_allow_names_all() -> None:
    assert Route("/a", {"GET": handler}).allow == b"GET, HEAD, OPTIONS"
