"""What a program declares is read from its source, wherever a step is handed to the run."""

from __future__ import annotations

from types import CodeType, FunctionType

from outlive import Outlive, Quota, Retry, Run, best_effort, step
from outlive.doors.declared import DeclaredStep, declared_by


@step(timeout=30, retry=Retry(attempts=7), undo="give_back")
async def reserve(what: str) -> str:
    return what


async def give_back(what: str, made: object) -> None: ...


def plain(what: str) -> str:
    return what


@step(name="renamed")
def named(what: str) -> str:
    return what


async def in_a_function_of_its_own(run: Run, what: str) -> None:
    await run(named, what)


async def branch(run: Run) -> str:
    return await run.transact(write, "x")


def write(tables: object, what: str) -> str:
    return what


class Partner:
    @staticmethod
    async def charge(what: str) -> str:
        return what


def an_app() -> Outlive:
    app = Outlive("memory://")

    @app.process("/a", version=1, name="order")
    async def old(run: Run, what: str) -> str:
        return await run(plain, what)

    @app.process("/a", version=3, accepts=(2,), name="order", signals={"b": int, "a": str})
    async def new(run: Run, what: str) -> str:
        async def inner(run: Run) -> str:
            return await run.keyed(1)(reserve, what)

        await run.all([what], plain)
        await in_a_function_of_its_own(run, what)
        await run.gather(inner, branch)
        await run(Partner.charge, what)
        await run.call(child, what)
        await run(plain, "twice")
        return what

    @app.process("/c", version=1)
    async def child(run: Run, what: str) -> None: ...

    return app


def test_the_newest_versions_steps_are_found_in_their_order() -> None:
    order, child = declared_by(an_app()).types
    assert (order.name, order.versions, order.path) == ("order", (1, 2, 3), "/a")
    assert order.signals == ("a", "b")
    names = [found.name for found in order.steps]
    assert names == ["reserve", "plain", "renamed", "write", "charge"]
    assert order.steps[0] == DeclaredStep("reserve", 30, 7, "give_back")
    assert order.steps[1] == DeclaredStep("plain")
    assert child.steps == ()


def test_what_is_declared_beside_processes_is_named() -> None:
    app = Outlive("memory://")
    app.ratelimits(Quota("burst", 20))
    app.dependency("bank")

    @app.cache(best_effort())
    async def price(article: str) -> int:
        return 1

    kinds = declared_by(app).kinds
    assert kinds["breakers"] == ("bank",) and kinds["caches"] == ("price",)
    assert "ratelimits" in kinds
    assert declared_by(Outlive("memory://")).kinds == {}


def test_a_store_that_the_program_gives_is_told_from_one_it_leaves_open() -> None:
    assert declared_by(Outlive("memory://")).gives_store
    assert not declared_by(Outlive()).gives_store


def test_a_body_without_source_has_no_steps_and_is_no_error() -> None:
    app = Outlive("memory://")
    code = compile("async def typed_in(run): ...", "<stdin>", "exec")
    (body,) = (each for each in code.co_consts if isinstance(each, CodeType))
    function = FunctionType(body, {})
    app.process("/t", version=1, name="typed")(function)
    assert declared_by(app).types[0].steps == ()
