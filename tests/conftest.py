"""What every test shares: the servers, Hypothesis without a time limit, and compiled modules.

`make test` runs most tests in several processes at once (pytest-xdist). Each has servers of its
own, started when a test first needs them, and ends with the process that started it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.cell_servers import CellServer
    from tests.postgres_server import Pooler

settings.register_profile("outlive", deadline=None, print_blob=True)
settings.load_profile("outlive")

COMPILED = Path(__file__).resolve().parents[1] / ".pytest_cache" / "compiled"


def pytest_configure(config: pytest.Config) -> None:
    """What tests start keeps its compiled modules, also where Python was told to keep none: tests
    start hundreds of programs, and would compile everything for each."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(COMPILED))
    if hasattr(config, "workerinput"):
        from tests.postgres_server import end_with_tests

        end_with_tests(signal.SIGKILL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """How many commits a process makes on a disk depends on how many writes share one: a busy
    machine's first run may have more than those that follow. In memory each run is as the first."""
    unreached = pytest.mark.filterwarnings("ignore::outlive.testing.killing.UnreachedDeaths")
    for item in items:
        if "kill" in getattr(item, "fixturenames", ()) and "sqlite" in item.name:
            item.add_marker(unreached)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server that is there for this run of the tests."""
    from tests.postgres_server import running_server

    with running_server() as address:
        yield address


@pytest.fixture(scope="session")
def older_postgres() -> Iterator[str]:
    """The same of an older server, from the system's packages."""
    from tests.postgres_server import running_server, system_programs

    with running_server(programs=system_programs()) as address:
        yield address


@pytest.fixture(scope="session")
def pooler(postgres: str) -> Iterator[Pooler]:
    """A PgBouncer in transaction mode in front of `postgres`."""
    from tests.postgres_server import running_pooler

    with running_pooler(postgres) as found:
        yield found


@pytest.fixture(scope="session")
def valkey() -> Iterator[CellServer]:
    """A Valkey that is there for this run of the tests; take a prefix of your own."""
    from tests.cell_servers import valkey_server

    server = valkey_server()
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def memcached() -> Iterator[CellServer]:
    """A memcached that is there for this run of the tests; take a prefix of your own."""
    from tests.cell_servers import memcached_server

    server = memcached_server("-I", "16m")
    server.start()
    yield server
    server.kill()
