"""Coordinators that serve: one for most tests of this folder, or one on each kind of database."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.server.running import Api, Running, running, settings_for


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    """One coordinator on SQLite for tests that do not change what others see.

    A worker gets only its owner's jobs here, so that none gets what another test left; and it need
    not say that it lives.
    """
    file = tmp_path_factory.mktemp("server") / "grid.db"
    flags = {"workers.admission": "approve", "leases.lease_s": 3600}
    with running(settings_for(f"sqlite:///{file}", flags)) as it:
        yield it


@pytest.fixture
def own(database_url: str) -> Generator[Running]:
    """A coordinator of this test alone; the test runs once on each kind of database."""
    with running(settings_for(database_url)) as it:
        yield it


@pytest.fixture
def alice(shared: Running) -> Api:
    """A new user of the shared coordinator."""
    return shared.user()


@pytest.fixture
def own_sqlite(tmp_path: Path) -> Generator[Running]:
    """A coordinator of this test alone, on SQLite."""
    with running(settings_for(f"sqlite:///{tmp_path / 'grid.db'}")) as it:
        yield it
