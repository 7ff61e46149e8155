"""The tree of errors: each has its own stable code, says what happened, and what to do."""

import re

from outlive import errors
from outlive.errors import Cancelled, Discarded, OutliveError, StepFailed, StoreFull, catalogue

CATALOGUE = [found for found in catalogue() if found.__module__.startswith("outlive.errors.")]


def test_codes_and_slugs_are_unique_and_well_formed() -> None:
    codes = [found.code for found in CATALOGUE]
    slugs = [found.slug for found in CATALOGUE]
    assert len(set(codes)) == len(codes) and len(set(slugs)) == len(slugs)
    assert all(re.fullmatch(r"OL\d{4}", code) for code in codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", slug) for slug in slugs)


def test_every_error_says_what_happened_and_what_to_do() -> None:
    for found in CATALOGUE:
        assert found.title() and not found.title().endswith("."), found
        assert found.remedy.endswith("."), found
        assert 400 <= found.status <= 599, found
        declared = {"code", "slug"} <= vars(found).keys()
        assert declared, f"{found.__name__} has no code of its own"


def test_the_tree_that_is_drawn_names_every_error() -> None:
    drawn = errors.__doc__ or ""
    missing = [found.__name__ for found in CATALOGUE if found.__name__ not in drawn]
    assert not missing


def test_an_error_carries_its_detail_its_facts_and_its_remedy() -> None:
    error = StoreFull("No space.", path="x")
    assert str(error) == f"No space. [OL1021] {StoreFull.remedy}"
    assert error.facts == {"path": "x"} and error.retryable and error.status == 507
    assert OutliveError().detail == "Something went wrong in outlive"


def test_a_failed_step_tells_which_and_why() -> None:
    error = StepFailed("charge", "CardError", "declined", "card-17")
    assert (error.step, error.failure_type, error.failure_code) == (
        "charge",
        "CardError",
        "card-17",
    )
    assert "charge failed: CardError: declined" in str(error)


def test_what_must_pass_through_a_body_is_no_exception_to_be_caught_by_habit() -> None:
    for found in (Cancelled, Discarded):
        assert not issubclass(found, Exception)
