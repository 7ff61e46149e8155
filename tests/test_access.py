"""Who an application lets in, as it is said, and what it refuses to be told."""

from __future__ import annotations

from typing import Any

import pytest

from outlive import Access, Visitor

ANN, WALL = "a" * 16, "w" * 40


def test_a_token_is_a_name_and_a_role() -> None:
    access = Access(viewers={"wall": WALL}, operators={"ann": ANN})
    assert access.holder(ANN) == Visitor("ann", "operator") and access.holder(ANN).operates
    assert access.holder(WALL) == Visitor("wall") and not Visitor("wall").operates
    assert access.visitor("ann") == (Visitor("ann", "operator"), ANN)
    assert access.visitor("eve") is None


@pytest.mark.parametrize("token", ["", "a" * 15, "a" * 17, "A" * 16, "ä" * 16, "\udcff" * 16])
def test_a_wrong_token_is_nobodys(token: str) -> None:
    assert Access(operators={"ann": ANN}).holder(token) is None


def test_no_token_stands_in_what_is_printed() -> None:
    access = Access(operators={"ann": ANN})
    assert repr(access) == "Access(ann)" and ANN not in repr(access)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "names nobody"),
        ({"operators": {"ann": "short"}}, "16 to 512"),
        ({"operators": {"ann": "a" * 513}}, "16 to 512"),
        ({"operators": {"ann": "a" * 20 + "\n"}}, "printable"),
        ({"operators": {"": ANN}}, "1 to 64"),
        ({"operators": {"ann": ANN}, "viewers": {"ann": WALL}}, "named twice"),
        ({"operators": {"ann": ANN}, "session_seconds": 59}, "session_seconds"),
        ({"operators": {"ann": ANN}, "session_seconds": 31 * 86_400}, "session_seconds"),
    ],
)
def test_what_would_let_anybody_in_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        Access(**given)
    assert ANN not in str(refused.value)


def test_a_log_in_of_the_application_is_enough() -> None:
    access = Access(login=lambda scope: Visitor("ann", "operator"))
    assert not access.has_tokens and access.login is not None
