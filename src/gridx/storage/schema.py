"""Bringing a database to this version's schema, and refusing what is not a grid's.

Migrations run at start, one program at a time, all in one transaction; a database that is up to date
costs one query and does not even import Alembic.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, select, text
from sqlalchemy.exc import DBAPIError

from gridx.domain.errors import InvalidInput, Unavailable
from gridx.storage.dialect import is_away, lock_schema
from gridx.storage.tables import grid

HEAD = "0002"
"""The newest migration; a test holds it against the folder."""

PRODUCT = "gridx"
MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(engine: Engine) -> None:
    """Bring the database to `HEAD`, from empty or from an older version.

    Raises `InvalidInput` for a database of another program or of a newer Grid-X, and `Unavailable`
    when it cannot be reached.
    """
    with _explained(engine), engine.connect() as connection, connection.begin():
        lock_schema(connection)
        if _version(connection) != HEAD:
            _upgrade(connection)


def need_current(engine: Engine) -> None:
    """Raises `InvalidInput` unless the database is a grid's at `HEAD`; changes nothing."""
    with _explained(engine), engine.connect() as connection:
        if _version(connection) != HEAD:
            raise InvalidInput(
                f"{_name(engine)} is not at this version's schema yet: start the grid on it, or "
                "run `gridx init --migrate-only`"
            )


@contextmanager
def _explained(engine: Engine) -> Generator[None]:
    """What a database that cannot be used says to a person."""
    try:
        yield
    except DBAPIError as error:
        if "not a database" in str(error.orig) or "malformed" in str(error.orig):
            raise InvalidInput(
                f"{_name(engine)} is damaged or not a database: restore a backup of it, "
                "or name another file"
            ) from error
        if is_away(error):
            raise Unavailable(
                f"The database {_name(engine)} cannot be reached: {_first_line(error)}"
            ) from error
        raise


def _version(connection: Connection) -> str | None:
    """The schema's version; None for an empty database."""
    present = set(inspect(connection).get_table_names())
    if not present:
        return None
    name = _name(connection.engine)
    if not {"grid", "alembic_version"} <= present:
        raise InvalidInput(
            f"{name} belongs to another program (or to Grid-X 1): name another database; "
            "nothing in it was changed"
        )
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
