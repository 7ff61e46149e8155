"""What the pages make of values."""

from __future__ import annotations

from msgspec import Raw

from outlive.dashboard.pages import (
    ASSETS,
    JSON_CHARACTERS_MAX,
    Pages,
    by_status,
    colour,
    environment,
    pretty,
    short_node,
    words,
)


def test_every_template_compiles() -> None:
    made = environment()
    names = made.list_templates()
    assert {"overview.html", "process.html", "problem.html"} <= set(names)
    for name in names:
        made.get_template(name)


def test_templates_escape_what_they_are_given() -> None:
    assert environment().from_string("{{ x }}").render(x="<b>") == "&lt;b&gt;"


def test_every_asset_is_there() -> None:
    made = Pages(None, None)  # type: ignore[arg-type]
    assert set(made.assets) == set(ASSETS) and all(made.assets.values())


def test_json_is_indented_and_cut_where_a_page_ends() -> None:
    assert pretty(Raw(b'{"a":1}')) == '{\n  "a": 1\n}'
    assert pretty(Raw(b"")) == "null"
    long = pretty(Raw(b'"' + b"x" * (JSON_CHARACTERS_MAX + 8) + b'"'))
    assert long.endswith("10 characters more")


def test_the_owner_of_a_shard_has_a_colour_and_a_lost_one_a_warning() -> None:
    assert colour("a", ["b", "a"]) == "1"
    assert colour("", ["a"]) == "none"
    assert colour("x", ["a"]) == "gone"


def test_names_are_shortened_to_what_tells_them_apart() -> None:
    assert short_node("web-7.example-4711-abcdefgh") == "4711-abcdefgh"
    assert words("rolled_back") == "rolled back"


def test_statuses_come_in_their_declared_order() -> None:
    found = sorted({"done": 1, "running": 2, "odd": 3}.items(), key=by_status)
    assert [name for name, _ in found] == ["running", "done", "odd"]
