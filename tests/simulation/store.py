"""The store under simulation: a real database, watched row by row, on a disk that has bad days.

Triggers copy each row of a job, an attempt and a transfer as it is written into `watched`, so that
after a commit exactly what changed is read and checked. The triggers and the faults are the
simulation's; everything else is the product's own.
"""

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import psycopg
from sqlalchemy import Dialect, Engine

from gridx.storage.dialect import READ_ONLY
from tests.conftest import bring_to_schema
from tests.simulation.story import Story
from tests.simulation.virtual import VirtualLoop

FAST_FOLDER = Path("/dev/shm")

JOB = (
    "number", "job_id", "user_id", "status", "reason", "exit_code", "waiting", "attempt",
    "attempts_counted", "max_attempts", "lease", "cancel_requested", "price_per_second",
    "reward_ppm", "min_cost", "held", "limit_us", "billed_us", "cost", "reward", "finished_at",
    "name", "retry_on_failure", "due_at",
)  # fmt: skip
ATTEMPT = (
    "job_number", "number", "lease", "worker_id", "owner_id", "status", "live", "counted",
    "reason", "exit_code", "started_at", "wall_us", "billed_us",
)  # fmt: skip
TRANSFER = ("kind", "source", "target", "amount", "source_after", "target_after", "job_id")
WATCHED = (("jobs", JOB), ("attempts", ATTEMPT), ("transfers", TRANSFER))


class Rows(Protocol):
    """A cursor's worth of rows."""

    def fetchall(self) -> list[Any]: ...


class Store:
    """One grid's database; `checked` is called after each commit."""

    def __init__(self, url: str, loop: VirtualLoop, draws: random.Random, story: Story) -> None:
        self.url = url
        self.checked: Callable[[], None] = lambda: None
        self.slow_until_s = -1.0
        self.slow_s = 0.0
        self.speed_s = draws.choice((0.005, 0.02, 0.05))
        self.away_until_s = -1.0
        self.next_commit: str | None = None
        """What happens to the next commit: `fails` or `unanswered`."""
        self._loop = loop
        self._draws = draws
        self._story = story
        self._writing = False
        self._seen = 0
        self._reader: Any = _plain_connection(url)
        value = "?" if url.startswith("sqlite:") else "%s"
        self._newer = f"SELECT seq, what, line FROM watched WHERE seq > {value} ORDER BY seq"

    def close(self) -> None:
        self._reader.close()

    def lag_s(self) -> float:
        """How long the disk makes one wait."""
        if self._loop.time() < self.slow_until_s:
            return self._draws.random() * self.slow_s
        return self.speed_s * (0.5 + self._draws.random())

    def new_rows(self) -> list[tuple[str, str]]:
        """What was committed since the last call: (table, row as a JSON array), in order."""
        rows = self.rows(self._newer, self._seen)
        if rows:
            self._seen = rows[-1][0]
        return [(what, line) for _, what, line in rows]

    def rows(self, query: str, *values: int) -> list[Any]:
        """Rows of a query of the simulation's own."""
        found: Rows = self._reader.execute(query, values)
        return found.fetchall()

    # -------------------------------------------------------------- around the product's engine

    def watch(self, engine: Engine) -> None:
        """Follow a coordinator's commits, and let the disk's faults happen to them."""
        begin: Callable[[Any], None] = engine.dialect.do_begin
        commit: Callable[[Any], None] = engine.dialect.do_commit
        dialect: Any = compile_once(engine, "coordinator").dialect
        trouble = _sqlite_trouble if dialect.name == "sqlite" else _postgresql_trouble

        def do_commit(connection: Any) -> None:
            if not self._writing:
                commit(connection)
                return
            fault, self.next_commit = self.next_commit, None
            if fault == "fails":
                self._story.tell("a commit fails")
                raise trouble("disk is full")
            commit(connection)
            self._story.steps += 1
            self.checked()
            if fault == "unanswered":
                self._story.tell("a commit is not answered")
                raise trouble("disk I/O error")

        def do_begin(connection: Any) -> None:
            if self._loop.time() < self.away_until_s:
                raise trouble("unable to open database")
            self._writing = READ_ONLY not in connection.info
            begin(connection)

        dialect.do_begin, dialect.do_commit = do_begin, do_commit


_DIALECTS: dict[tuple[str, str], Dialect] = {}
_COMPILED: dict[Any, Any] = {}


def compile_once(engine: Engine, whose: str) -> Engine:
    """Have the engine use what those before it compiled, of any run: it will not live for long."""
    engine.dialect = _DIALECTS.setdefault((whose, engine.dialect.name), engine.dialect)
    engine.update_execution_options(compiled_cache=_COMPILED)
    return engine


def _sqlite_trouble(message: str) -> Exception:
    return sqlite3.OperationalError(message)


def _postgresql_trouble(message: str) -> Exception:
    return psycopg.OperationalError(f"server closed the connection unexpectedly: {message}")


def _plain_connection(url: str) -> Any:
    if url.startswith("sqlite:///"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    return psycopg.connect(url, autocommit=True)


# ---------------------------------------------------------------- making one


@contextmanager
def sqlite_store() -> Generator[tuple[str, Path]]:
    """The URL of a fresh grid's database and a folder for its workers, in memory if possible."""
    place = FAST_FOLDER if FAST_FOLDER.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="gridx-simulation-", dir=place) as folder:
        file = Path(folder) / "grid.db"
        file.write_bytes(_template())
        yield f"sqlite:///{file}", Path(folder)


@cache
def _template() -> bytes:
    """A grid's database with nothing in it, watched."""
    folder = Path(tempfile.mkdtemp(prefix="gridx-simulation-"))
    try:
        file = folder / "template.db"
        bring_to_schema(f"sqlite:///{file}")
        connection = sqlite3.connect(file)
        connection.executescript(_sqlite_triggers())
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return file.read_bytes()
    finally:
        shutil.rmtree(folder)


def watch_postgresql(url: str) -> None:
    """Add the triggers to a PostgreSQL database that has the schema."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_postgresql_triggers().encode())


def _sqlite_triggers() -> str:
    lines = ["CREATE TABLE watched (seq INTEGER PRIMARY KEY, what TEXT, line TEXT);"]
    for table, columns in WATCHED:
        row = ", ".join(f"NEW.{name}" for name in columns)
        lines += [
            f"CREATE TRIGGER watch_{table}_{when} AFTER {when} ON {table} BEGIN "
            f"INSERT INTO watched (what, line) VALUES ('{table}', json_array({row})); END;"
            for when in ("INSERT", "UPDATE")
        ]
    return "\n".join(lines)


def _postgresql_triggers() -> str:
    lines = ["CREATE TABLE watched (seq BIGSERIAL PRIMARY KEY, what TEXT, line TEXT);"]
    for table, columns in WATCHED:
        row = ", ".join(f"NEW.{name}" for name in columns)
        lines.append(
            f"CREATE FUNCTION watch_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"INSERT INTO watched (what, line) VALUES ('{table}', json_build_array({row})::text); "
            "RETURN NULL; END $$;"
            f"CREATE TRIGGER watch_{table} AFTER INSERT OR UPDATE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION watch_{table}();"
        )
    return "\n".join(lines)
