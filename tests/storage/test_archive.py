"""What is refused as a backup, what a restore keeps, and that neither touches anything then."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gridx.domain.errors import Conflict, GridError, InvalidInput, NotFound
from gridx.storage.archive import back_up, examine, restore

NOW = 1_800_000_000_000_000


def silent(_copied: int, _total: int) -> None:
    pass


@pytest.fixture
def database(sqlite_template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(sqlite_template, tmp_path / "gridx.db"))


@pytest.fixture
def backup(database: Path, tmp_path: Path) -> Path:
    file = tmp_path / "backup.db"
    back_up(database, file, NOW, force=False, progress=silent)
    return file


def change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(statement)


def everything_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:9_000])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def newer(file: Path) -> None:
    change(file, "UPDATE alembic_version SET version_num = '9999'")


def foreign(file: Path) -> None:
    change(file, "DROP TABLE grid")


@pytest.mark.parametrize(("spoil", "error", "said"), [
    (cut, InvalidInput, "damaged"),
    (emptied, InvalidInput, "damaged"),
    (newer, InvalidInput, "newer Grid-X"),
    (foreign, InvalidInput, "another program"),
    (Path.unlink, NotFound, "no file"),
])  # fmt: skip
def test_what_is_no_backup_is_refused(
    database: Path, backup: Path, spoil: Callable[[Path], None], error: type[GridError], said: str
) -> None:
    spoil(backup)
    before = everything_in(database.parent)
    with pytest.raises(error, match=said):
        restore(backup, database, "now", silent)
    assert everything_in(database.parent) == before


def test_the_grids_own_database_is_no_backup(database: Path) -> None:
    with pytest.raises(InvalidInput, match="own database"):
        restore(database, database, "now", silent)


def test_a_database_that_is_open_is_not_replaced(database: Path, backup: Path) -> None:
    with closing(sqlite3.connect(database)) as somebody:
        somebody.execute("SELECT * FROM grid").fetchall()
        with pytest.raises(Conflict, match="stop it"):
            restore(backup, database, "now", silent)
        assert somebody.execute("SELECT value FROM grid").fetchall() == [("gridx",)]


def test_what_was_there_is_kept_with_its_log(database: Path, backup: Path) -> None:
    database.write_bytes(b"torn" * 1_000)
    database.with_name("gridx.db-wal").write_bytes(b"and its log")
    done = restore(backup, database, "now", silent)
    kept = database.with_name("gridx.db.replaced-now")
    assert (done.replaced, done.before, done.now.taken_at) == (kept, None, NOW)
    assert kept.read_bytes() == b"torn" * 1_000
    assert kept.with_name("gridx.db.replaced-now-wal").read_bytes() == b"and its log"
    names = {
        path.name for path in database.parent.iterdir() if path.name.startswith(("gridx", "."))
    }
    assert names == {"gridx.db", "gridx.db.replaced-now", "gridx.db.replaced-now-wal"}
    assert examine(database).taken_at is None


def test_a_backup_is_whole_private_and_never_in_the_place_of_another(
    database: Path, backup: Path
) -> None:
    assert backup.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    found = examine(backup)
    assert (found.taken_at, found.verified and found.verified.ok) == (NOW, True)
    before = everything_in(backup.parent)
    with pytest.raises(Conflict, match="--force"):
        back_up(database, backup, NOW + 1, force=False, progress=silent)
    assert everything_in(backup.parent) == before
    assert back_up(database, backup, NOW + 1, force=True, progress=silent).taken_at == NOW + 1


def test_a_damaged_database_makes_no_backup(database: Path, tmp_path: Path) -> None:
    whole = bytearray(database.read_bytes())
    whole[-4096:] = b"\xff" * 4096
    database.write_bytes(whole)
    with pytest.raises(InvalidInput, match="damaged"):
        back_up(database, tmp_path / "backup.db", NOW, force=False, progress=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["gridx.db"]


def test_progress_is_told_to_the_end(database: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    def tell(copied: int, total: int) -> None:
        told.append((copied, total))

    back_up(database, tmp_path / "backup.db", NOW, force=False, progress=tell)
    assert told
    assert told[-1][0] == told[-1][1] > 0
