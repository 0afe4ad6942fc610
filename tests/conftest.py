"""Fixtures that every test may ask for: real servers, and a fresh database of either kind.

Servers start when the first test asks for them, once in each process of the test run; a database is
copied for each test from one that was prepared once.
"""

import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.support.nats import NatsServer, nats_server
from tests.support.postgres import PostgresServer, postgres_server

PrepareDatabase = Callable[[str], None]


@pytest.fixture(scope="session")
def postgres() -> Generator[PostgresServer]:
    """The PostgreSQL server of this test process."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def nats() -> Generator[NatsServer]:
    """The NATS server of this test process."""
    with nats_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Generator[str]:
    """An empty PostgreSQL database of this test alone."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of this test alone; the test runs once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture(scope="session")
def prepare_database() -> PrepareDatabase:
    """What the database behind `database_url` has been through: the schema of storage."""
    return lambda _url: None


@pytest.fixture(scope="session")
def sqlite_template(
    tmp_path_factory: pytest.TempPathFactory, prepare_database: PrepareDatabase
) -> Path:
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    prepare_database(f"sqlite:///{file}")
    file.touch()
    return file


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer, prepare_database: PrepareDatabase) -> str:
    name = postgres.create()
    prepare_database(postgres.url(name))
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """A database with the schema in it, of this test alone; the test runs once on each kind."""
    if request.param == "sqlite":
        file = tmp_path / "grid.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), file)
        yield f"sqlite:///{file}"
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    name = postgres.create(template=request.getfixturevalue("postgres_template"))
    yield postgres.url(name)
    postgres.drop(name)
