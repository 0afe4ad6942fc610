"""SQLite files that are no grid's, or no longer whole: refused at start, with advice, to the byte."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from gridx.domain.errors import InvalidInput
from gridx.storage import schema
from gridx.storage.dialect import make_engine


def refused(file: Path, check: Callable[[Engine], None] = schema.migrate) -> str:
    """Why the file is refused; it and its folder are as they were."""
    before = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    engine = make_engine(f"sqlite:///{file}", 1)
    with pytest.raises(InvalidInput) as refusal:
        check(engine)
    engine.dispose()
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == before
    assert str(file) in refusal.value.message
    return refusal.value.message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder / "gridx.db"


@pytest.fixture
def whole(sqlite_template: Path, file: Path) -> bytes:
    """A grid's file, with enough in it to have inner pages."""
    shutil.copyfile(sqlite_template, file)
    engine = make_engine(f"sqlite:///{file}", 1)
    with engine.connect() as connection, connection.begin():
        rows = [{"account": f"{n:060}", "amount": n} for n in range(5_000)]
        connection.execute(text("INSERT INTO balances VALUES (:account, :amount)"), rows)
    engine.dispose()
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return file.read_bytes()


GRID_X_1 = """
CREATE TABLE users (username TEXT PRIMARY KEY, password_hash TEXT, credits REAL);
CREATE TABLE jobs (id TEXT PRIMARY KEY, user_id TEXT, code TEXT, status TEXT, stdout TEXT);
CREATE TABLE workers (id TEXT PRIMARY KEY, owner TEXT, last_heartbeat REAL);
INSERT INTO users VALUES ('ann', 'x', 12.5);
INSERT INTO jobs VALUES ('1', 'ann', 'print(1)', 'completed', '1');
"""


@pytest.mark.parametrize("script", [
    GRID_X_1,
    "PRAGMA journal_mode = WAL; CREATE TABLE customers (name TEXT)",
    # Empty, but somebody's.
    "PRAGMA application_id = 4711; VACUUM",
    "PRAGMA user_version = 3; VACUUM",
    # Another program's, with names like ours.
    "CREATE TABLE grid (cell TEXT); CREATE TABLE alembic_version (version_num TEXT)",
])  # fmt: skip
def test_another_programs_file_is_refused(file: Path, script: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.executescript(script)
    assert "another program" in refused(file)
    assert "another program" in refused(file, schema.need_current)


def test_a_file_in_use_by_another_program_is_refused(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.executescript(f"PRAGMA journal_mode = WAL; {GRID_X_1}")
        engine = make_engine(f"sqlite:///{file}", 1)
        with pytest.raises(InvalidInput, match="another program"):
            schema.migrate(engine)
        engine.dispose()
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (1,)


@pytest.mark.parametrize("content", [b"Dear diary, " * 1_000, b"SQLite format 3\0" + b"?" * 1_000])
def test_a_file_that_is_no_database_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert "damaged or not a database" in refused(file)


@pytest.mark.parametrize("content", [b"", b"x", b"SQLite format 3\0" + b"?" * 84])
def test_a_file_without_a_page_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert "empty or torn" in refused(file)


def half(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def a_page_and_a_bit(whole: bytes) -> bytes:
    return whole[:5_000]


def all_but_a_page(whole: bytes) -> bytes:
    return whole[:-4096]


def nonsense(whole: bytes) -> bytes:
    """The first page, which says that there are more, and then nonsense."""
    return whole[:4096] + b"\xff" * (len(whole) - 4096)


def a_flipped_kind(whole: bytes) -> bytes:
    return flipped(whole, len(whole) - 4096)


def a_flipped_count(whole: bytes) -> bytes:
    return flipped(whole, len(whole) - 4096 + 3)


def flipped(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]


@pytest.mark.parametrize(
    "torn", [half, a_page_and_a_bit, all_but_a_page, nonsense, a_flipped_kind, a_flipped_count]
)
def test_a_torn_file_is_refused(whole: bytes, file: Path, torn: Callable[[bytes], bytes]) -> None:
    file.write_bytes(torn(whole))
    said = refused(file)
    assert "damaged or not a database" in said
    assert "gridx restore" in said


@pytest.mark.usefixtures("whole")
def test_a_large_file_is_checked_for_a_bounded_time(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_CHECK_S", 0)
    engine = make_engine(f"sqlite:///{file}", 1)
    schema.migrate(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM balances")).scalar() == 5_000
    engine.dispose()
