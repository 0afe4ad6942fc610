"""Bringing a database to this version's schema, and refusing one that is not a grid's."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from gridx.domain.errors import InvalidInput, Unavailable
from gridx.storage import schema
from gridx.storage.dialect import make_engine
from gridx.storage.tables import metadata


def brought_up(url: str) -> Engine:
    engine = make_engine(url, 2)
    schema.migrate(engine)
    return engine


def everything_in(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table there is."""
    with engine.connect() as connection:
        return {
            name: [tuple(row) for row in connection.execute(text(f'SELECT * FROM "{name}"'))]
            for name in sorted(inspect(connection).get_table_names())
        }


def comparable(_: object, name: str | None, *__: object) -> bool:
    """Alembic cannot read an index on an expression back from SQLite; its text is compared."""
    return name != "ix_jobs_queue"


def described(connection: Connection, table: str) -> dict[str, object]:
    """Columns, key, uniques, indexes and checks of a table, in words both databases share."""
    found = inspect(connection)
    return {
        "columns": {c["name"]: c["nullable"] for c in found.get_columns(table)},
        "key": found.get_pk_constraint(table)["constrained_columns"],
        "unique": sorted(u["column_names"] for u in found.get_unique_constraints(table)),
        "indexes": sorted(i["name"] or "" for i in found.get_indexes(table) if not i["unique"]),
        "checks": sorted(c["name"] or "" for c in found.get_check_constraints(table)),
    }


def index_definitions(connection: Connection) -> set[str]:
    """How each index is made, in the database's own words."""
    query = "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    if connection.dialect.name == "postgresql":
        query = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"
    return {sql for sql in connection.execute(text(query)).scalars() if "alembic" not in sql}


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    engine = brought_up(f"sqlite:///{tmp_path / 'new.db'}")
    with engine.connect():
        modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
    engine.dispose()
    assert modes == {"new.db": 0o600, "new.db-wal": 0o600, "new.db-shm": 0o600}


def test_migrations_lead_to_the_tables_that_the_code_knows(empty_database_url: str) -> None:
    engine = brought_up(empty_database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "include_object": comparable}
        )
        differences = compare_metadata(context, metadata)
        made = {name: described(connection, name) for name in metadata.tables}
        made_indexes = index_definitions(connection)
        metadata.drop_all(connection)
        metadata.create_all(connection)
        meant = {name: described(connection, name) for name in metadata.tables}
        meant_indexes = index_definitions(connection)
        connection.rollback()
    engine.dispose()
    assert differences == []
    assert made_indexes == meant_indexes
    assert made == meant


def test_both_databases_have_the_same_schema(tmp_path: Path, postgres_url: str) -> None:
    found: list[dict[str, dict[str, object]]] = []
    for url in (f"sqlite:///{tmp_path / 'grid.db'}", postgres_url):
        engine = brought_up(url)
        with engine.connect() as connection:
            names = inspect(connection).get_table_names()
            found.append({name: described(connection, name) for name in sorted(names)})
        engine.dispose()
    assert found[0] == found[1]


def test_head_is_the_newest_migration_of_the_folder() -> None:
    heads = ScriptDirectory(str(schema.MIGRATIONS)).get_heads()
    assert list(heads) == [schema.HEAD]


def test_a_database_that_is_up_to_date_is_left_alone(empty_database_url: str) -> None:
    engine = brought_up(empty_database_url)
    before = everything_in(engine)
    schema.migrate(engine)
    assert everything_in(engine) == before
    assert before["grid"] == [("product", "gridx")]
    engine.dispose()


def test_down_and_up_again(empty_database_url: str) -> None:
    from alembic import command
    from alembic.config import Config

    engine = brought_up(empty_database_url)
    with engine.connect() as connection, connection.begin():
        config = Config()
        config.set_main_option("script_location", str(schema.MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
        command.upgrade(config, "head")
    assert everything_in(engine)["grid"] == [("product", "gridx")]
    engine.dispose()


def test_two_programs_that_start_at_once_migrate_once(empty_database_url: str) -> None:
    def start(_: int) -> None:
        brought_up(empty_database_url).dispose()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(start, range(4))) == [None] * 4
    engine = make_engine(empty_database_url, 1)
    assert everything_in(engine)["alembic_version"] == [(schema.HEAD,)]
    engine.dispose()


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE customers (name TEXT)", "INSERT INTO customers VALUES ('Ann')"],
        # Another program that is migrated by Alembic too.
        ["CREATE TABLE alembic_version (version_num VARCHAR(32))",
         "INSERT INTO alembic_version VALUES ('0001')"],
        # The first Grid-X.
        ["CREATE TABLE users (username TEXT, credits REAL)", "CREATE TABLE jobs (id TEXT)"],
        ["CREATE TABLE alembic_version (version_num VARCHAR(32))",
         "INSERT INTO alembic_version VALUES ('0001')",
         "CREATE TABLE grid (name VARCHAR(32), value TEXT)",
         "INSERT INTO grid VALUES ('product', 'power plant')"],
    ],
)  # fmt: skip
def test_another_programs_database_is_refused_untouched(
    empty_database_url: str, statements: list[str]
) -> None:
    engine = make_engine(empty_database_url, 1)
    with engine.connect() as connection, connection.begin():
        for statement in statements:
            connection.execute(text(statement))
    before = everything_in(engine)
    with pytest.raises(InvalidInput, match="another"):
        schema.migrate(engine)
    assert everything_in(engine) == before
    engine.dispose()


def test_a_newer_grids_database_is_refused_untouched(database_url: str) -> None:
    engine = make_engine(database_url, 1)
    with engine.connect() as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    before = everything_in(engine)
    with pytest.raises(InvalidInput, match="newer Grid-X"):
        schema.migrate(engine)
    assert everything_in(engine) == before
    engine.dispose()


def test_a_migration_that_fails_leaves_nothing(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE half (way TEXT)"))
        raise RuntimeError("the power went")

    engine = make_engine(empty_database_url, 1)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_upgrade", broken)
        with pytest.raises(RuntimeError):
            schema.migrate(engine)
    assert everything_in(engine) == {}
    schema.migrate(engine)
    engine.dispose()


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    engine = make_engine("postgresql://nobody:hunter2@127.0.0.1:1/grid", 1)
    with pytest.raises(Unavailable) as refused:
        schema.migrate(engine)
    engine.dispose()
    assert "hunter2" not in refused.value.message


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "sqlite://", "sqlite:///:memory:", "mysql://localhost/grid", "grid.db",
     "sqlite:///"],
)  # fmt: skip
def test_only_sqlite_files_and_postgresql_are_databases(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"storage\.url"):
        make_engine(url, 1)


def test_sqlite_is_durable_and_waits_for_its_turn(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'new' / 'grid.db'}", 1)
    with engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]
    engine.dispose()
    assert pragmas == ["wal", 2, 10_000]
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert sqlite3.connect(tmp_path / "new" / "grid.db").execute("PRAGMA journal_mode").fetchone() \
        == ("wal",)  # fmt: skip
