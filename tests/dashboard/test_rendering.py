"""What every page is made with."""

from __future__ import annotations

from msgspec import Raw

from outlive.clock import ManualClock
from outlive.dashboard.rendering import (
    ASSETS,
    CENSUS_SECONDS,
    JSON_CHARACTERS_MAX,
    POLICY,
    Desk,
    Sight,
    colour,
    device,
    environment,
    plain_time,
    pretty,
    query,
    short_node,
    size,
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


def test_no_template_needs_what_the_policy_forbids() -> None:
    assert "unsafe" not in POLICY and "default-src 'none'" in POLICY
    made = environment()
    assert made.loader is not None
    for name in made.list_templates():
        source, _, _ = made.loader.get_source(made, name)
        assert " style=" not in source and "<style" not in source, name
        assert " on" + "click" not in source and "<script>" not in source, name
        assert "//" not in source.replace("sqlite://", "").replace("http://www.w3.org", ""), name


def test_every_asset_is_there_and_htmx_has_its_licence() -> None:
    made = Desk(None, None)  # type: ignore[arg-type]
    assert set(made.assets) == set(ASSETS) and all(made.assets.values())
    assert b"Zero-Clause BSD" in made.assets["htmx.LICENSE"]


async def test_a_census_serves_every_page_for_a_second() -> None:
    class Counted:
        asked = 0

        async def census(self) -> int:
            self.asked += 1
            return self.asked

    app, clock = Counted(), ManualClock()
    desk = Desk(app, clock)  # type: ignore[arg-type]
    assert await desk.census() == await desk.census() == 1
    clock.advance(CENSUS_SECONDS + 0.1)
    assert await desk.census() == 2


def test_json_is_indented_and_cut_where_a_page_ends() -> None:
    assert pretty(Raw(b'{"a":1}')) == '{\n  "a": 1\n}'
    assert pretty(Raw(b"")) == "null"
    long = pretty(Raw(b'"' + b"x" * (JSON_CHARACTERS_MAX + 8) + b'"'))
    assert long.endswith("10 characters more")


def test_an_address_keeps_its_query_but_for_what_changes() -> None:
    assert query({"status": "stuck", "cursor": "7"}, cursor=None, type="a b") == (
        "?status=stuck&type=a+b"
    )
    assert query({}, cursor=None) == ""
    assert Sight(root="/x y", path="/outlive/nodes", query="a=1").here == (
        "/x%20y/outlive/nodes?a=1"
    )
    assert Sight(root="/x").home == "/x/outlive"


def test_the_owner_of_a_shard_has_a_colour_and_a_lost_one_a_warning() -> None:
    assert colour("a", ["b", "a"]) == "1"
    assert colour("", ["a"]) == "none"
    assert colour("x", ["a"]) == "gone"


def test_names_and_times_are_shortened_to_what_people_read() -> None:
    assert short_node("web-7.example-4711-abcdefgh") == "4711-abcdefgh"
    assert (words("rolled_back"), words("no_worker_for_version")) == ("rolled back", "no worker")
    assert plain_time(1_790_000_000_123_456) == "2026-09-21 14:13:20"


def test_bytes_and_devices_are_said_in_words() -> None:
    assert [size(n) for n in (0, 812, 1024, 3_500, 1_048_000, 64 << 20)] == [
        "0 B", "812 B", "1 KiB", "3.42 KiB", "1023 KiB", "64 MiB",
    ]  # fmt: skip
    edge = "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537 Chrome/140.0 Safari/537 Edg/140.0"
    phone = "Mozilla/5.0 (Linux; Android 15) Chrome/140.0 Mobile Safari/537"
    assert (device(edge), device(phone)) == ("Edge on Windows", "Chrome on Android")
    assert device("curl/8.5 <b>") == "curl/8.5 <b>"
