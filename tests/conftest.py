"""What every test shares: Hypothesis without a time limit per example, for busy machines."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("outlive", deadline=None, print_blob=True)
settings.load_profile("outlive")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server that is there for this run of the tests."""
    from tests.postgres_server import running_server

    with running_server() as address:
        yield address
