"""Houses for the tests of this folder: two that most share, and fresh ones for those that break them.

The shared house has a worker of its own people: `olive` owns it, so that what others run there is
billed. A lease lasts there: whoever stands still for a moment, as a test or a worker on a loaded
machine may, loses nothing. Tests that wait for the end of a lease share another house. Every test
leaves an exact ledger behind.
"""

import shutil
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.house import House
from tests.e2e.people import Person
from tests.support.postgres import PostgresServer, postgres_server

OpenHouse = Callable[..., House]
LEASE_S = 20.0
"""A lease of the shared house."""


@pytest.fixture(scope="package")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file as `gridx init` makes it, to be copied."""
    folder = tmp_path_factory.mktemp("made")
    file = folder / "gridx.db"
    House(folder, f"sqlite:///{file}").initialise()
    return file


@contextmanager
def opened(folder: Path, made: Path, *flags: str, **settings: str) -> Generator[House]:
    """A house on SQLite that serves."""
    shutil.copyfile(made, folder / "gridx.db")
    house = House(folder, f"sqlite:///{folder / 'gridx.db'}", settings, flags)
    try:
        house.start()
        yield house
    finally:
        house.close()


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory, made_store: Path) -> Generator[House]:
    folder = tmp_path_factory.mktemp("shared")
    with opened(folder, made_store, GRIDX_LEASES__LEASE_S=str(LEASE_S)) as house:
        house.person("olive")
        house.worker("olive")
        yield house


@pytest.fixture(scope="package")
def shared_hasty(tmp_path_factory: pytest.TempPathFactory, made_store: Path) -> Generator[House]:
    with opened(tmp_path_factory.mktemp("hasty"), made_store) as house:
        yield house


@pytest.fixture
def house(shared: House) -> Generator[House]:
    """The shared house, with `olive`'s worker in it."""
    yield shared
    shared.verify()


@pytest.fixture
def hasty(shared_hasty: House) -> Generator[House]:
    """A house in which leases end soon, without a worker."""
    yield shared_hasty
    shared_hasty.verify()


@pytest.fixture
def alice(house: House) -> Person:
    """A new user of the shared house."""
    return house.person()


@pytest.fixture
def open_house(tmp_path: Path, made_store: Path) -> Generator[OpenHouse]:
    """Opens a house of the test's own, on SQLite."""
    with ExitStack() as stack:

        def open_one(*flags: str, **settings: str) -> House:
            return stack.enter_context(opened(tmp_path, made_store, *flags, **settings))

        yield open_one


@pytest.fixture
def postgres_house(tmp_path: Path) -> Generator[tuple[House, PostgresServer]]:
    """A house on a PostgreSQL server of its own, which loses no commit when it is killed."""
    with postgres_server({"synchronous_commit": "on"}) as server:
        house = House(tmp_path, server.url(server.create()))
        house.initialise()
        house.start()
        try:
            yield house, server
        finally:
            house.close()
