"""Copies of a SQLite grid: made while it runs, examined, and put in the place of another.

A copy is made of one moment: a read transaction stays open over all of its steps, so that writers go
on and do not make it begin anew. It grows under a name of its own, readable by its owner alone, is
examined whole, flushed, and only then gets its name.
"""

import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, Select, func, select

from gridx.domain.errors import Conflict, InvalidInput, NotFound, Unavailable
from gridx.domain.ledger import Verification
from gridx.storage import ledger
from gridx.storage.dialect import make_engine
from gridx.storage.schema import HEAD, looking_at, migrate, version_of
from gridx.storage.tables import grid, jobs, transfers, users

_PAGES_A_STEP = 256
_LOGS = ("-wal", "-shm", "-journal")
_TAKEN_AT = "backup_at"
_EVENTS_AHEAD = 1_000_000_000
"""Followers resume behind an event's number: what comes after a restore is behind all they saw."""

Progress = Callable[[int, int], None]
"""Hears how many pages are copied, of how many."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A whole database of a grid: when it was copied (None: it was not), and what is in it."""

    version: str
    taken_at: int | None
    users: int
    jobs: int
    unfinished: int
    transfers: int
    verified: Verification | None
    """None when its schema is older than this program's: a restore migrates and verifies it."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put in place, and the database that was there, under the name it has now."""

    now: Examined
    replaced: Path | None
    before: Examined | None


def examine(file: Path) -> Examined:
    """Look at all of a database, changing nothing.

    Raises `NotFound`, and `InvalidInput` for one that is damaged, another program's or newer.
    """
    if not file.is_file():
        raise NotFound(f"There is no file {file}")
    with looking_at(file) as connection:
        version = version_of(connection)
        if version is None:
            raise InvalidInput(f"{file} is an empty database: name a backup of a grid")
        found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
        if found != "ok":
            raise InvalidInput(f"{file} is damaged ({found}): take another backup")
        return Examined(
            version,
            _taken_at(connection),
            users=_count(connection, select(func.count()).select_from(users)),
            jobs=_count(connection, select(func.count()).select_from(jobs)),
            unfinished=_count(connection, select(func.count()).where(jobs.c.finished_at.is_(None))),
            transfers=_count(connection, select(func.count()).select_from(transfers)),
            verified=ledger.verify(connection) if version == HEAD else None,
        )


def back_up(source: Path, target: Path, now: int, *, force: bool, progress: Progress) -> Examined:
    """Copy the grid in `source`, which may run, to `target`, and examine the copy.

    Raises `Conflict` when `target` exists and is not to be replaced, `InvalidInput` when the copy
    is not whole; then there is no copy.
    """
    if target.exists() and not force:
        raise Conflict(f"{target} exists: give another name, or --force to replace it")
    if not source.is_file():
        raise NotFound(f"There is no grid in {source}: give its data folder with --data")
    with looking_at(source) as connection:
        if version_of(connection) is None:
            raise InvalidInput(f"{source} is an empty database: there is nothing to back up")
    with _growing(target) as partial:
        _copy(source, "rw", partial, progress)  # `ro` would leave an empty log beside it
        with closing(sqlite3.connect(partial, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, complete in itself
            copy.execute("INSERT OR REPLACE INTO grid VALUES (?, ?)", (_TAKEN_AT, str(now)))
        examined = examine(partial)
        _name(partial, target, force=force)
    return examined


def restore(file: Path, target: Path, stamp: str, progress: Progress) -> Restored:
    """Put the backup `file` in the place of `target`, at this program's schema.

    What is in `target` is kept under its name with `.replaced-` and `stamp`. Raises `Conflict`
    while a program has it open, and what `examine` raises of the backup; then nothing was changed.
    """
    examine(file)
    if target.exists() and file.samefile(target):
        raise InvalidInput(f"{file} is the grid's own database: name a backup of it")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _end_log(target)
    with _growing(target) as partial:
        _copy(file, "ro", partial, progress)
        engine = make_engine(f"sqlite:///{partial}", 1)
        migrate(engine)
        with engine.connect() as connection, connection.begin():
            taken_at = _taken_at(connection)
            connection.execute(grid.delete().where(grid.c.name == _TAKEN_AT))
            connection.execute(users.update().values(last_event=users.c.last_event + _EVENTS_AHEAD))
        engine.dispose()
        now = examine(partial)
        _end_log(target)
        replaced = _set_aside(target, stamp)
        _name(partial, target, force=replaced is not None)
    before = None
    if replaced is not None:
        with suppress(InvalidInput, Unavailable):
            before = examine(replaced)
    return Restored(replace(now, taken_at=taken_at), replaced, before)


def _taken_at(connection: Connection) -> int | None:
    value = connection.scalar(select(grid.c.value).where(grid.c.name == _TAKEN_AT))
    return None if value is None else int(value)


def _count(connection: Connection, query: Select[int]) -> int:
    return connection.scalar(query) or 0


# ------------------------------------------------------------------ files


@contextmanager
def _growing(target: Path) -> Generator[Path]:
    """A new file beside `target`, for its owner alone; it is gone afterwards unless it was named."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise InvalidInput(f"{target} cannot be written: {error.strerror}") from None
    try:
        yield partial
    except sqlite3.Error as error:
        raise Unavailable(f"The copy could not be made: {error}") from error
    finally:
        for path in _with_logs(partial):
            path.unlink(missing_ok=True)


def _copy(source: Path, mode: str, target: Path, progress: Progress) -> None:
    def step(_status: int, remaining: int, total: int) -> None:
        progress(total - remaining, total)

    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode={mode}", uri=True)) as opened,
        closing(sqlite3.connect(target)) as copy,
    ):
        opened.isolation_level = None
        opened.execute("BEGIN")
        opened.execute("SELECT count(*) FROM sqlite_master").fetchone()
        opened.backup(copy, pages=_PAGES_A_STEP, progress=step, sleep=0.05)


def _name(partial: Path, target: Path, *, force: bool) -> None:
    """Give a finished file its name, durably, and never in the place of another unasked."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    if force:
        partial.replace(target)
    else:
        try:
            target.hardlink_to(partial)
        except FileExistsError:
            raise Conflict(f"{target} exists by now: nothing was replaced") from None
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _end_log(target: Path) -> None:
    """Bring everything into the one file; raises `Conflict` while a program has it open.

    What is damaged or no database is not opened for that: it is kept as it is, log and all.
    """
    if not target.exists():
        return
    try:
        with looking_at(target) as connection:
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
    except InvalidInput:
        return
    try:
        with closing(sqlite3.connect(target, timeout=0, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise Conflict(
                f"A grid, or another program, has {target} open: stop it, then restore"
            ) from None
        raise Unavailable(f"{target} cannot be opened: {error}") from None


def _set_aside(target: Path, stamp: str) -> Path | None:
    """A second name for what is there; its own name is never without a file, whenever we die."""
    if not target.exists():
        return None
    aside = target.with_name(f"{target.name}.replaced-{stamp}")
    for end in _LOGS:  # of a damaged one: they must not come to lie beside the new one
        log = target.with_name(f"{target.name}{end}")
        if log.exists():
            log.rename(aside.with_name(f"{aside.name}{end}"))
    aside.hardlink_to(target)
    return aside


def _with_logs(file: Path) -> list[Path]:
    return [file, *(file.with_name(f"{file.name}{end}") for end in _LOGS)]
