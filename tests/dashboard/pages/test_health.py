"""What is said of the set-up, and what never is."""

from __future__ import annotations

import pytest

from outlive import Access, Outlive
from outlive.dashboard.pages.health import settings_of, without_secrets


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://ann:s3cret@db:5432/x", "postgresql://ann:…@db:5432/x"),
        (
            "postgresql://db/x?user=ann&password=s3cret&a=1",
            "postgresql://db/x?user=ann&password=…&a=1",
        ),
        ("postgresql://ann:s3c@s3cret@db/x", "postgresql://ann:…@db/x"),
        ("rediss://:s3cret@db/0?prefix=a@b", "rediss://:…@db/0?prefix=a@b"),
        (
            "postgresql://db/x?sslmode=require&sslpassword=s3cret",
            "postgresql://db/x?sslmode=require&sslpassword=…",
        ),
        ("postgresql://ann@db/x", "postgresql://ann:…@db/x"),
        ("sqlite:////srv/shop.db", "sqlite:////srv/shop.db"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(address: str, shown: str) -> None:
    assert without_secrets(address) == shown and "s3cret" not in shown


def test_the_set_up_names_what_is_redacted_and_no_token() -> None:
    token = "ann-" + "a" * 20
    app = Outlive("memory://", redact={"card"}, dashboard=Access(operators={"ann": token}))
    said = dict(settings_of(app))
    assert (
        said["Redacted members"] == "card"
        and said["The dashboard is shown to"] == "who has a token"
    )
    assert said["Payloads sealed"] == "no" and token not in str(said)
