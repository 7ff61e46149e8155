"""The pytest plugin: a user's processes on trial, killed, and replayed from exported journals.

    outlive · blocking_outlive · kill_everywhere     the application on a store and clock of its own
    exported_journal · replay_journal                what is under way elsewhere, on this code

    [tool.pytest.ini_options]
    outlive_app = "shop:app"            or override the fixture `outlive_app`
    outlive_store = "memory://"         sqlite://, or postgresql://… (a schema for each test)
    outlive_journals = "tests/journals" a folder of what `outlive process export` wrote

    @pytest.mark.outlive(store="sqlite://", always_replay=True)
    --outlive-store sqlite://  --outlive-always-replay

Each test gets the user's application on a store of its own and a clock that stands still. Nothing
of outlive is loaded before a test asks for one of the fixtures. The fixtures are plain, so they
work under pytest-asyncio (strict and auto), anyio (asyncio) and without either: an asynchronous
test is run inside its trial, in whatever event loop its own plugin gives it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.testing.blocking import BlockingTrial
    from outlive.testing.journals import Replaying
    from outlive.testing.killing import KillEverywhere
    from outlive.testing.places import Place
    from outlive.testing.trial import Trial

MARKER = "outlive(store=ADDRESS, always_replay=False): where this test's store lies, and whether"
MARKER += " every process is replayed after each of its records."


def pytest_addoption(parser: pytest.Parser) -> None:
    """The settings."""
    parser.addini("outlive_app", "the application under test, as module:name", default="")
    parser.addini("outlive_store", "where each test's store lies", default="memory://")
    parser.addini("outlive_journals", "the folder of exported journals", default="")
    group = parser.getgroup("outlive")
    group.addoption("--outlive-store", metavar="ADDRESS", help="where each test's store lies")
    group.addoption(
        "--outlive-always-replay",
        action="store_true",
        help="replay every process after each of its records",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line("markers", MARKER)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `exported_journal` is run once for each file of the folder."""
    if "exported_journal" not in metafunc.fixturenames:
        return
    from outlive.testing.journals import journals_in

    named = str(metafunc.config.getini("outlive_journals"))
    if not named:
        raise pytest.UsageError(
            "Where are the exported journals? Set outlive_journals in the pytest settings."
        )
    try:
        found = journals_in(metafunc.config.rootpath / named)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    metafunc.parametrize("exported_journal", found, ids=[file.stem for file in found])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """An asynchronous test is run inside its trial, so that it is closed in the same loop."""
    trial = getattr(item, "funcargs", {}).get("outlive")
    test = getattr(item, "obj", None)
    if not (isinstance(item, pytest.Function) and trial and inspect.iscoroutinefunction(test)):
        return (yield)

    @functools.wraps(test)
    async def on_trial(*args: Any, **kwargs: Any) -> Any:
        async with trial:
            return await test(*args, **kwargs)

    item.obj = on_trial
    try:
        return (yield)
    finally:
        item.obj = test


@pytest.fixture
def outlive_app(request: pytest.FixtureRequest) -> Outlive:
    """The application under test: that of the setting `outlive_app`, unless you override this."""
    named = str(request.config.getini("outlive_app"))
    module, _, name = named.partition(":")
    if not (module and name):
        raise pytest.UsageError(
            "Which application is to be tested? Set outlive_app = 'module:name' in the pytest"
            " settings, or define a fixture outlive_app that returns it."
        )
    found: Outlive = getattr(importlib.import_module(module), name)
    return found


@pytest.fixture
def outlive_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Where the store of this test lies; dropped at its end."""
    from outlive.testing.places import Place

    place = Place(_store_of(request), _folder_of(request))
    yield place
    place.remove()


@pytest.fixture
def outlive(
    request: pytest.FixtureRequest, outlive_app: Outlive, outlive_place: Place
) -> Iterator[Trial]:
    """The application on trial, for asynchronous tests; see `outlive.testing.trial.Trial`."""
    from outlive.testing.trial import Trial

    trial = Trial(outlive_app, outlive_place.store, always_replay=_always_replay(request))
    yield trial
    trial.drop()  # closed already, unless its event loop has gone first


@pytest.fixture
def blocking_outlive(
    request: pytest.FixtureRequest, outlive_app: Outlive, outlive_place: Place
) -> Iterator[BlockingTrial]:
    """The application on trial, for plain tests; open when the test begins."""
    from outlive.testing.blocking import BlockingTrial
    from outlive.testing.trial import Trial

    always = _always_replay(request)
    trial = BlockingTrial(Trial(outlive_app, outlive_place.store, always_replay=always))
    trial.open()
    yield trial
    trial.close()


@pytest.fixture
def kill_everywhere(
    request: pytest.FixtureRequest, outlive_app: Outlive
) -> Iterator[KillEverywhere]:
    """Runs a process once for every commit of its life, and kills it there; see
    `outlive.testing.killing.KillEverywhere`."""
    from outlive.testing.killing import KillEverywhere

    made = KillEverywhere(outlive_app, _store_of(request), _folder_of(request))
    yield made
    made.close()


@pytest.fixture
def replay_journal(outlive_app: Outlive) -> Iterator[Replaying]:
    """Replays an exported journal on the application under test; see
    `outlive.testing.journals.replay_journal`."""
    from outlive.testing.journals import Replaying

    made = Replaying(outlive_app)
    yield made
    made.close()


def _marked(request: pytest.FixtureRequest, name: str, otherwise: Callable[[], Any]) -> Any:
    marker = request.node.get_closest_marker("outlive")
    return marker.kwargs[name] if marker and name in marker.kwargs else otherwise()


def _store_of(request: pytest.FixtureRequest) -> str:
    config = request.config
    given = config.getoption("--outlive-store") or config.getini("outlive_store")
    return str(_marked(request, "store", lambda: given))


def _always_replay(request: pytest.FixtureRequest) -> bool:
    given = request.config.getoption("--outlive-always-replay")
    return bool(_marked(request, "always_replay", lambda: given))


def _folder_of(request: pytest.FixtureRequest) -> Path:
    """A folder for files; made only where some are needed."""
    if not _store_of(request).startswith("sqlite"):
        return Path()
    found: Path = request.getfixturevalue("tmp_path")
    return found
