"""What every test shares: Hypothesis without a time limit per example, for busy machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.postgres_server import Pooler

settings.register_profile("outlive", deadline=None, print_blob=True)
settings.load_profile("outlive")


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
