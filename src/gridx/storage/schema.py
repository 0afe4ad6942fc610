"""Bringing a database to this version's schema, and refusing what is not a grid's.

Migrations run at start, one program at a time, all in one transaction; a database that is up to date
costs one query and does not even import Alembic. A SQLite file is looked at before it is opened, because
opening it for a grid changes it: what is foreign, newer, empty or damaged stays as it is, to the byte.
"""

import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, select, text
from sqlalchemy.exc import DBAPIError

from gridx.domain.errors import InvalidInput, Unavailable
from gridx.storage.dialect import is_away, is_sqlite, lock_schema, make_looking_engine
from gridx.storage.tables import grid
from gridx.telemetry import get_logger

HEAD = "0002"
"""The newest migration; a test holds it against the folder."""

_log = get_logger(__name__)
_FILLED_S = 1.0
_CHECK_S = 2.0
_PAGE_BYTES_MIN = 512
_MAGIC = b"SQLite format 3\0"

PRODUCT = "gridx"
MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(engine: Engine) -> None:
    """Bring the database to `HEAD`, from empty or from an older version.

    Raises `InvalidInput` for a database of another program or of a newer Grid-X and for a damaged
    file, before anything of it is changed, and `Unavailable` when it cannot be reached.
    """
    with _explained(engine):
        if _look_first(engine) is not None:
            _check_structure(engine)
        elif is_sqlite(engine):
            _make_private(Path(engine.url.database or ""))
        with engine.connect() as connection, connection.begin():
            lock_schema(connection)
            if version_of(connection) != HEAD:
                _upgrade(connection)


def need_current(engine: Engine) -> None:
    """Raises `InvalidInput` unless the database is a grid's at `HEAD`; changes nothing."""
    with _explained(engine):
        _look_first(engine)
        with engine.connect() as connection:
            if version_of(connection) != HEAD:
                raise InvalidInput(
                    f"{_name(engine)} is not at this version's schema yet: start the grid on it, "
                    "or run `gridx init --migrate-only`"
                )


@contextmanager
def looking_at(file: Path) -> Generator[Connection]:
    """A connection to a SQLite file that changes nothing of it.

    Raises `InvalidInput` for what is no database, and `Unavailable` for what cannot be read.
    """
    with file.open("rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:  # SQLite would tidy up beside it
            raise _damaged(str(file))
    engine = make_looking_engine(file)
    try:
        with _explained(engine), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _explained(engine: Engine) -> Generator[None]:
    """What a database that cannot be used says to a person."""
    try:
        yield
    except DBAPIError as error:
        if "not a database" in str(error.orig) or "malformed" in str(error.orig):
            raise _damaged(_name(engine)) from error
        if is_away(error):
            raise Unavailable(
                f"The database {_name(engine)} cannot be reached: {_first_line(error)}"
            ) from error
        raise


def _damaged(name: str) -> InvalidInput:
    return InvalidInput(
        f"{name} is damaged or not a database: put a backup in its place (`gridx restore FILE`), "
        "or name another file; nothing in it was changed"
    )


# ------------------------------------------------------------------ a file, before it is opened


def _look_first(engine: Engine) -> str | None:
    """The version of a SQLite file; refuses what is not a grid's as it lies there.

    Opening it for a grid would change it.
    """
    file = Path(engine.url.database or "")
    if not is_sqlite(engine) or not file.exists():
        return None
    if not _filled_soon(file):
        raise InvalidInput(
            f"{file} is empty or torn, or no database at all: remove it if a new grid is meant, "
            "or put a backup in its place (`gridx restore FILE`); nothing in it was changed"
        )
    with looking_at(file) as connection:
        return version_of(connection)


def _filled_soon(file: Path) -> bool:
    """Whether it has a page; another program that makes it at this moment gets a second.

    SQLite takes less than a page for nothing, and writes over it.
    """
    pause = threading.Event()
    for _ in range(20):
        if file.stat().st_size >= _PAGE_BYTES_MIN:
            return True
        pause.wait(_FILLED_S / 20)
    return False


def _make_private(file: Path) -> None:
    """Make a file that its owner alone reads, which SQLite gives its logs the mode of."""
    with suppress(OSError):  # it is there, or cannot be made, which the first connection says
        os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))


def _check_structure(engine: Engine) -> None:
    """Refuse a file whose pages do not fit together, as far as that shows in a bounded time.

    A start must not wait for a database of many gigabytes; `gridx backup` checks all of it.
    """
    with engine.connect() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        timer = threading.Timer(_CHECK_S, driver.interrupt)
        timer.start()
        try:
            cursor = driver.execute("PRAGMA quick_check(1)")
            (found,) = cursor.fetchone()
        except sqlite3.OperationalError as error:
            if "interrupted" not in str(error):
                raise _damaged(_name(engine)) from error
            _log.info("database_checked_in_part", seconds=_CHECK_S)
            return
        except sqlite3.DatabaseError as error:
            raise _damaged(_name(engine)) from error
        finally:
            timer.cancel()
    if found != "ok":
        raise _damaged(_name(engine))


def version_of(connection: Connection) -> str | None:
    """The schema's version, None for an empty database; `InvalidInput` for what is no grid's."""
    present = set(inspect(connection).get_table_names())
    name = _name(connection.engine)
    foreign = InvalidInput(
        f"{name} belongs to another program (or to Grid-X 1): name another database; "
        "nothing in it was changed"
    )
    if not present:
        if is_sqlite(connection) and any(
            connection.exec_driver_sql(f"PRAGMA {mark}").scalar()
            for mark in ("application_id", "user_version")
        ):
            raise foreign
        return None
    if not {"grid", "alembic_version"} <= present:
        raise foreign
    if not {"name", "value"} <= {
        column["name"] for column in inspect(connection).get_columns("grid")
    }:
        raise foreign
    product = connection.scalar(select(grid.c.value).where(grid.c.name == "product"))
    version = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if product != PRODUCT:
        raise InvalidInput(f"{name} is not a grid's database: name another one")
    known = {path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}
    if version not in known:
        raise InvalidInput(
            f"{name} was made by a newer Grid-X (schema {version}, this one knows {HEAD}): "
            "upgrade this program"
        )
    return version


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _name(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]
