"""Who hears of what: a name for each class, the newest version of each subscriber."""

from __future__ import annotations

from typing import Any

import pytest

from outlive import Run
from outlive.kinds.processes import Definition
from outlive.kinds.processes.subscriptions import Subscriber, Subscriptions, name_of


class Happened:
    pass


async def body(run: Run) -> None: ...


def made(version: int = 1, name: str = "body") -> Definition:
    return Definition(body, f"/{name}", version, name, None, 202, None, (Exception,))


def test_the_newest_version_hears_whichever_is_declared_first() -> None:
    for versions in ((1, 2), (2, 1)):
        found = Subscriptions()
        for version in versions:
            found.add(Happened, Subscriber(made(version)))
        assert [one.made.version for one in found.of("Happened")] == [2]


def test_a_type_may_be_started_and_signalled_by_the_same_event() -> None:
    found = Subscriptions()
    found.add(Happened, Subscriber(made()))
    found.add(Happened, Subscriber(made(), "go", str))
    found.add(Happened, Subscriber(made(name="other")))
    assert [one.name for one in found.of("Happened")] == ["body", "body signal go", "other"]
    assert found.of("Nothing") == []
    assert found.shape("Happened").type is Happened


def test_a_name_is_one_class_and_a_subscription_is_made_once() -> None:
    found = Subscriptions()
    found.add(Happened, Subscriber(made()))
    with pytest.raises(ValueError, match="already"):
        found.add(Happened, Subscriber(made()))
    with pytest.raises(ValueError, match="two classes"):
        found.add(type("Happened", (), {}), Subscriber(made(name="other")))


@pytest.mark.parametrize("wrong", [dict, str, int, type(None), "Happened", 3])
def test_an_event_is_a_class_of_the_callers(wrong: Any) -> None:
    with pytest.raises(TypeError, match="class of events"):
        name_of(wrong)
