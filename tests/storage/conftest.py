"""Databases of either kind: one that tests share and leave as it was, or one of the test's own."""

import shutil
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from gridx.storage.database import Database
from gridx.storage.dialect import make_engine
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="package", params=["sqlite", "postgresql"])
def shared_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Engine]:
    """A database with the schema in it, for tests that roll back what they do."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        file = tmp_path_factory.mktemp("shared") / "grid.db"
        shutil.copyfile(template, file)
        url = f"sqlite:///{file}"
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        url = postgres.url(postgres.create(template=request.getfixturevalue("postgres_template")))
    engine = make_engine(url, 2)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(shared_engine: Engine) -> Generator[Connection]:
    """A connection in a write transaction, which is rolled back."""
    with shared_engine.connect() as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def engine(database_url: str) -> Generator[Engine]:
    """A database of the test's own, for what has to be committed."""
    engine = make_engine(database_url, 8)
    yield engine
    engine.dispose()


@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[Database]:
    database = Database(database_url, readers=2, writers=2, group_size_max=1_000)
    await database.open()
    yield database
    await database.close()
