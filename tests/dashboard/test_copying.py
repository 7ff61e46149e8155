"""What a page says, as commands."""

from __future__ import annotations

import shlex
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.web.fake import Fake

from outlive import Access
from outlive.dashboard.copying import copies_of, copies_of_list
from outlive.dashboard.rendering import Sight
from outlive.kinds.processes.census import UNFINISHED

SIGHT = Sight(root="/my app", base="https://shop.example")


def test_a_process_is_asked_for_where_it_was_started() -> None:
    fake: Any = Fake()
    copies = dict(copies_of(SIGHT, fake.add("reg_1", "register"), fake))
    assert shlex.split(copies["curl"]) == [
        "curl", "-s", "https://shop.example/my%20app/registrations/reg_1",
    ]  # fmt: skip
    assert copies["CLI"] == "outlive process show reg_1"
    assert '"status": "running"' in copies["JSON"]


def test_one_whose_type_is_not_declared_here_has_no_address() -> None:
    fake: Any = Fake()
    assert [title for title, _ in copies_of(SIGHT, fake.add("x_1", "lost"), fake)] == [
        "CLI", "JSON",
    ]  # fmt: skip


def test_a_list_names_its_filters_and_the_token_that_it_needs() -> None:
    fake: Any = Fake()
    copies = dict(copies_of_list(SIGHT, {"status": "stuck", "type": "order"}, fake))
    assert copies["CLI"] == "outlive process list --status stuck --type order"
    assert copies["curl"].endswith("/v1/orders?status=stuck'")
    fake.access = Access(viewers={"wall": "w" * 20})
    with_token = dict(copies_of_list(SIGHT, {"type": "order"}, fake))["curl"]
    assert with_token.endswith('-H "Authorization: Bearer $OUTLIVE_TOKEN"')
    assert "w" * 20 not in with_token
    assert [title for title, _ in copies_of_list(SIGHT, {}, fake)] == ["CLI"]
    narrowed = {"type": "order", "tag.city": "St. Gallen", "startedSince": "2026-11-22T07:00:00Z"}
    copies = dict(copies_of_list(SIGHT, narrowed, fake))
    assert shlex.split(copies["CLI"])[3:] == [
        "--type", "order", "--since", "2026-11-22T07:00:00Z", "--tag", "city=St. Gallen",
    ]  # fmt: skip
    assert "?tag.city=St.+Gallen&startedSince=2026-11-22T07%3A00%3A00Z'" in copies["curl"]


def test_the_unfinished_are_asked_for_status_by_status() -> None:
    fake: Any = Fake()
    kept = {"type": "order", "unfinished": "1", "limit": "7"}
    copies = dict(copies_of_list(SIGHT, kept, fake))
    asked = [shlex.split(line) for line in copies["CLI"].splitlines()]
    assert [line[line.index("--status") + 1] for line in asked] == list(UNFINISHED)
    for line in asked:
        assert line[line.index("--type") + 1] == "order" and line[line.index("--limit") + 1] == "7"
    urls = [shlex.split(line)[2] for line in copies["curl"].splitlines()]
    assert [dict(parse_qsl(urlsplit(url).query)) for url in urls] == [
        {"limit": "7", "status": status} for status in UNFINISHED
    ]
    one = copies_of_list(SIGHT, {**kept, "status": "stuck"}, fake)
    assert one == copies_of_list(SIGHT, {**kept, "status": "stuck", "unfinished": ""}, fake)
    assert all(text.count("status") == 1 for _, text in one), "the page shows that status alone"
