"""Declaring steps: the function stays as it is; what is declared lies beside it and is checked."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from outlive import NonRetryable, Retry, attempt, step, steps


async def test_a_step_stays_a_plain_function_with_an_attempt_of_its_own() -> None:
    @step(retry=Retry(attempts=9), timeout=3)
    async def double(number: int) -> int:
        assert attempt().number == 1 and attempt().process == "" and attempt().key
        return number * 2

    assert await double(4) == 8
    spec = steps.spec_of(double)
    assert (spec.name, spec.retry.attempts, spec.timeout, spec.is_async) == ("double", 9, 3, True)


def test_without_brackets_the_defaults_count_and_a_bare_function_has_them_too() -> None:
    @step
    def one() -> None: ...

    def two() -> None: ...

    for function in (one, two):
        spec = steps.spec_of(function)
        assert (spec.retry, spec.timeout, spec.undo_name) == (Retry(), None, "")


def test_a_step_keeps_the_name_it_is_given() -> None:
    @step(name="the_old_name")
    def renamed() -> None: ...

    assert steps.spec_of(renamed).name == "the_old_name" and "the_old_name" in steps.names()


def undo_of_this_module() -> None: ...


def test_an_undo_is_found_by_its_name_in_the_module_of_its_step() -> None:
    @step(undo="undo_of_this_module")
    def by_name() -> None: ...

    @step(undo=undo_of_this_module)
    def by_function() -> None: ...

    @step(undo="is_not_there")
    def lost() -> None: ...

    assert steps.spec_of(by_name).undo() is steps.spec_of(by_function).undo()
    assert steps.spec_of(by_name).undo_name == steps.spec_of(by_function).undo_name
    with pytest.raises(LookupError, match="is_not_there"):
        steps.spec_of(lost).undo()


@pytest.mark.parametrize("imports", ["from shop_{} import pay", "import shop_{}"])
@pytest.mark.parametrize("home", ["first", "last"])
def test_of_two_steps_of_one_name_that_is_meant_which_the_body_has_imported(
    imports: str, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_specs", {})
    monkeypatch.syspath_prepend(tmp_path)

    def program(name: str, text: str) -> Any:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)  # and behind this test
        return importlib.import_module(name)

    declared = "from outlive import step\n@step(undo='back')\ndef pay(): ..."
    shops = {name: program(f"shop_{name}", declared) for name in ("first", "last")}
    program("shop_orders", imports.format(home))
    assert steps.spec_named("pay", "shop_orders") is steps.spec_of(shops[home].pay)
    assert steps.spec_named("pay", "shop_first") is steps.spec_of(shops["first"].pay)
    assert steps.spec_named("pay", "elsewhere") is steps.spec_of(shops["last"].pay)


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"attempts": 1001}, {"base_seconds": -1}, {"cap_seconds": -0.1}]
)
def test_a_retry_has_bounds(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Retry(**wrong)  # type: ignore[arg-type]


def test_a_time_limit_is_above_zero() -> None:
    with pytest.raises(ValueError, match="above 0"):
        step(timeout=0)(lambda: None)


def test_tries_end_with_their_number_and_refusals_at_once() -> None:
    retry = Retry(attempts=3, never=(KeyError,))
    assert retry.again(OSError(), 1) and retry.again(OSError(), 2)
    assert not retry.again(OSError(), 3)
    assert not retry.again(KeyError(), 1) and not retry.again(NonRetryable(), 1)


def test_the_key_of_a_step_is_stable_and_different_for_every_process_and_step() -> None:
    keys = {steps.step_key(stream, id) for stream in "ab" for id in ("x", "y", "x#2")}
    assert len(keys) == 6
    assert steps.step_key("a", "x") == steps.step_key("a", "x")


def test_what_a_function_for_a_transaction_asks_for_is_its_first_annotation() -> None:
    import asyncpg
    import psycopg
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

    def nothing(tables, name): ...  # type: ignore[no-untyped-def]
    def anything(tables: Any, name: str) -> None: ...
    def driver(connection: asyncpg.Connection) -> None: ...
    def rows(connection: psycopg.Connection[Any]) -> None: ...
    def session(session: Session) -> None: ...
    async def later(session: AsyncSession) -> None: ...
    async def engine(connection: AsyncConnection) -> None: ...
    def unresolved(session: AsyncSession, other: Missing) -> None: ...  # noqa: F821
    def cursor(cursor: psycopg.Cursor[Any]) -> None: ...

    def named(annotation: str) -> Any:
        def unknown(connection: Any, other: Any) -> None: ...

        unknown.__annotations__ = {"connection": annotation, "other": "Missing"}
        return unknown

    asked = [steps.manner_of(found) for found in (nothing, anything, driver, rows, session, later)]
    assert asked == [
        "tables",
        "tables",
        "asyncpg.Connection",
        "psycopg.Connection",
        "sqlalchemy.Session",
        "sqlalchemy.AsyncSession",
    ]
    assert steps.manner_of(engine) == "sqlalchemy.AsyncConnection"
    assert steps.manner_of(unresolved) == "sqlalchemy.AsyncSession"
    assert steps.manner_of(named("psycopg.Connection[Any]")) == "psycopg.Connection"
    assert steps.manner_of(named("Somebody")) == "tables"
    with pytest.raises(TypeError, match=r"psycopg\.Cursor cannot be given"):
        steps.manner_of(cursor)
