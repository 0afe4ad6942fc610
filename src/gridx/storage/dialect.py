"""The one module that knows which database this is.

SQLite is opened in WAL mode with `synchronous=FULL` (acknowledged means durable) and writes only in
`BEGIN IMMEDIATE` transactions: a deferred one that reads first and writes later fails or, with the
driver's own transactions, loses updates. PostgreSQL runs READ COMMITTED with row locks.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, func, select, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from gridx.domain.errors import Conflict, InvalidInput

READ_ONLY = "read_only"
_CONNECT = {
    "connect_timeout": 2,  # seconds; no driver takes less
    "application_name": "gridx",
    # A peer that is gone without a word is noticed by the kernel, too, on each side.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_ON_SERVER = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; "
    # What a coordinator that vanished had locked is free again after this.
    "SET idle_in_transaction_session_timeout = '30s'"
)


def parse_url(url: str) -> URL:
    """The database a setting names; `InvalidInput` for anything but SQLite and PostgreSQL."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidInput(
            "storage.url is not a database address; use sqlite:///path or postgresql://..."
        ) from None
    match parsed.get_backend_name():
        case "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise InvalidInput("storage.url: a grid on SQLite needs a file, sqlite:///path")
            return parsed
        case "postgresql":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise InvalidInput(f"storage.url: {other} is not supported; use SQLite or PostgreSQL")


def make_engine(url: str, connections: int) -> Engine:
    """An engine with at most `connections` open; nothing is opened yet.

    Raises `InvalidInput` for an address that is none, or a folder that cannot be made.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        assert parsed.database is not None
        _make_folder(Path(parsed.database))
        engine = create_engine(parsed, pool_size=connections, max_overflow=0, hide_parameters=True)
        event.listen(engine, "connect", _prepare_sqlite)
        # Not as a listener: an engine that has one looks for more of them at each statement.
        engine.dialect.do_begin = _begin_sqlite
        return engine
    engine = create_engine(
        parsed,
        pool_size=connections,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,  # they hold code and secrets, and errors are logged
        connect_args=_CONNECT,
    )
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def make_looking_engine(file: Path) -> Engine:
    """An engine that reads a SQLite file and changes nothing, not even beside it.

    A file that is in use is read with its log; one that is not is read as it lies there.
    """
    lies_still = not file.with_name(f"{file.name}-wal").exists()
    uri = f"{file.absolute().as_uri()}?mode=ro{'&immutable=1' if lies_still else ''}"
    return create_engine(
        URL.create("sqlite", database=str(file)),
        creator=lambda: sqlite3.connect(uri, uri=True, check_same_thread=False),
        poolclass=NullPool,
        hide_parameters=True,
    )


def is_sqlite(target: Connection | Engine) -> bool:
    """Whether this is SQLite; otherwise it is PostgreSQL."""
    return target.dialect.name == "sqlite"


@contextmanager
def served_alone(url: str) -> Generator[None]:
    """Keep other coordinators off a database that only one may serve: SQLite's.

    Raises `Conflict` while another has it, `InvalidInput` where no file can be made. The kernel
    frees it when this process ends, however that is.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite":
        yield
        return
    file = Path(parsed.database or "")
    _make_folder(file)
    try:
        # Not the database: closing any descriptor of it would drop SQLite's own locks.
        # For its owner alone: whoever may read it may hold it.
        lock = os.open(file.with_name(f"{file.name}-lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as failure:
        raise _unusable(file, failure) from None
    with os.fdopen(lock):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"Another coordinator serves {file}: stop it, or give this one a database of its own "
                "(GRIDX_STORAGE__URL); several coordinators share one on PostgreSQL"
            ) from None
        yield


def _make_folder(file: Path) -> None:
    """Make the folder of a database, for its owner alone; raises `InvalidInput`."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as failure:
        raise _unusable(file, failure) from None


def _unusable(file: Path, failure: OSError) -> InvalidInput:
    return InvalidInput(f"storage.url: the folder of {file} cannot be used ({failure.strerror})")


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin_sqlite` alone
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "busy_timeout=10000",
        "temp_store=MEMORY",
        "cache_size=-32000",
        "mmap_size=268435456",
        "journal_size_limit=67108864",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_postgresql(connection: Any, _record: object) -> None:
    connection.execute(_ON_SERVER)
    connection.commit()


def _begin_sqlite(dbapi_connection: Any) -> None:
    dbapi_connection.execute("BEGIN" if READ_ONLY in dbapi_connection.info else "BEGIN IMMEDIATE")


@contextmanager
def reading(engine: Engine) -> Generator[Connection]:
    """A transaction that changes nothing; on SQLite it waits for no writer and keeps none out."""
    with engine.connect() as connection:
        info = connection.info
        info[READ_ONLY] = True
        try:
            with connection.begin():
                yield connection
        finally:
            info.pop(READ_ONLY, None)  # it is empty when the connection broke


def upsert(connection: Connection, table: Table) -> Any:
    """An INSERT that takes `on_conflict_do_nothing` and `on_conflict_do_update`."""
    if is_sqlite(connection):
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # a grid on SQLite starts without it

    return postgresql.insert(table)


class ManyRows:
    """A statement for many rows, compiled once for each database.

    SQLAlchemy's own multi-row path builds the parameters of each row anew, which on the hot paths
    costs more than the database does; this hands the rows to the driver as they are. Rows are
    mappings with exactly the keys `columns`.
    """

    def __init__(self, make: Callable[[Connection], Any], columns: Sequence[str]) -> None:
        """`make` gives the statement for a connection's database."""
        self._make = make
        self._columns = list(columns)
        self._compiled: dict[str, tuple[str, tuple[str, ...] | None]] = {}

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run it for each row; how many rows of the table it touched in all."""
        if not rows:
            return 0
        compiled = self._compiled.get(connection.dialect.name)
        if compiled is None:
            compiled = self._compiled[connection.dialect.name] = self._compile(connection)
        statement, order = compiled
        if order is None:
            return connection.exec_driver_sql(statement, list(rows)).rowcount
        values = [tuple([row[name] for name in order]) for row in rows]
        return connection.exec_driver_sql(statement, values).rowcount

    def _compile(self, connection: Connection) -> tuple[str, tuple[str, ...] | None]:
        compiled = self._make(connection).compile(
            dialect=connection.dialect, column_keys=self._columns
        )
        names = compiled.positiontup if compiled.positional else None
        return str(compiled), None if names is None else tuple(names)


_NEXT_NUMBER = text(
    """
    SELECT 1 + max((SELECT coalesce(max(number), 0) FROM jobs),
                   (SELECT coalesce(max(CAST(value AS INTEGER)), 0) FROM grid WHERE name = 'last_job'))
    """
)


def keep_job_numbers(connection: Connection) -> None:
    """Before jobs are removed: no number is ever given twice."""
    if is_sqlite(connection):
        connection.execute(
            text(
                "INSERT INTO grid (name, value) SELECT 'last_job', max(number) FROM jobs "
                "WHERE true ON CONFLICT (name) DO UPDATE SET value = "
                "max(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))"
            )
        )


def next_job_numbers(connection: Connection, count: int) -> Sequence[int]:
    """`count` fresh job numbers, growing."""
    if is_sqlite(connection):
        first = connection.scalar(_NEXT_NUMBER) or 1
        return range(first, first + count)
    rows = connection.execute(
        text("SELECT nextval('job_number') FROM generate_series(1, :count)"), {"count": count}
    )
    return sorted(rows.scalars())


def snapshot(connection: Connection) -> None:
    """Make all reads of this (read-only) transaction see one moment. Call it first."""
    if not is_sqlite(connection):
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))


def lock_schema(connection: Connection) -> None:
    """One migration at a time; held until the transaction ends."""
    if not is_sqlite(connection):
        connection.execute(select(func.pg_advisory_xact_lock(0x67726964)))


def lock_issuing(connection: Connection) -> None:
    """One transaction at a time that issues credits; held until it ends."""
    if not is_sqlite(connection):
        connection.execute(select(func.pg_advisory_xact_lock(0x67726965)))


def is_contention(error: DBAPIError) -> bool:
    """Whether the same transaction may just be tried again: a deadlock or serialization failure."""
    return getattr(error.orig, "sqlstate", None) in ("40001", "40P01")


def was_overtaken(error: DBAPIError) -> bool:
    """Whether another transaction stored the same key first: tried again, this one will see it."""
    return getattr(error.orig, "sqlstate", None) == "23505"


def is_rolled_back(error: DBAPIError) -> bool:
    """Whether the database itself said of a COMMIT that it did not happen; else nobody knows."""
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:  # a server that ends may have committed before it said so
        return state[:2] not in ("08", "57", "58")
    return any(sign in str(error.orig) for sign in ("database is locked", "disk is full"))


def refuses_writes(error: DBAPIError) -> bool:
    """Whether a database that is there says that it cannot store anything: full, or read-only."""
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state[:2] == "53" or state == "25006"
    return isinstance(error.orig, sqlite3.Error)


_SQLITE_AWAY = (
    "database is locked",
    "disk is full",
    "disk I/O error",
    "unable to open database",
    "readonly database",
    "malformed",
    "not a database",
)


def is_away(error: DBAPIError) -> bool:
    """Whether the database cannot serve now (unreachable, full, locked), not that we are wrong."""
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        # connection exceptions, insufficient resources, operator intervention, system errors
        return state[:2] in ("08", "53", "57", "58") or state == "25006"
    message = str(error.orig)
    if type(error.orig).__module__.startswith("psycopg"):
        return True  # the driver's own trouble: no answer from a server
    return any(sign in message for sign in _SQLITE_AWAY)
