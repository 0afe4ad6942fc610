"""Fixtures that every test may ask for: real servers, and a fresh database of either kind.

Servers start when the first test asks for them, once in each process of the test run; a database is
copied for each test from one that was prepared once.
"""

import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.docker import DockerEngine, docker_engine
from tests.support.nats import NatsServer, nats_server
from tests.support.postgres import PostgresServer, postgres_server


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


@pytest.fixture(scope="session")
def docker() -> Generator[DockerEngine]:
    """The container engine of this test process; tests that use it are in the group `docker`."""
    with docker_engine() as engine:
        yield engine


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
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    bring_to_schema(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    name = postgres.create()
    bring_to_schema(postgres.url(name))
    return name


def bring_to_schema(url: str) -> None:
    """Run the migrations, and leave no connection open that would keep it from being copied."""
    from gridx.storage.dialect import make_engine
    from gridx.storage.schema import migrate

    engine = make_engine(url, 1)
    migrate(engine)
    engine.dispose()


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
