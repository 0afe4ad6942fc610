"""The data folder of a grid on this machine: where it is, who holds it, what is in it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from gridx.domain.errors import Conflict, InvalidInput, NotFound

if TYPE_CHECKING:
    from gridx.protocol.http import LedgerReportView

PASSWORD_LENGTH = 20


def default_data_folder(environ: Mapping[str, str]) -> Path:
    """`$XDG_DATA_HOME/gridx`, by default `~/.local/share/gridx`."""
    base = environ.get("XDG_DATA_HOME")
    if base and Path(base).is_absolute():
        return Path(base) / "gridx"
    return Path(environ.get("HOME") or Path.home()) / ".local" / "share" / "gridx"


class DataFolder:
    """A data folder (mode 0700) that this process alone serves until `close`."""

    def __init__(self, path: Path) -> None:
        """Raises `Conflict` when another process serves it, `InvalidInput` when it is unusable."""
        import fcntl

        self.path = path.absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
            # Opened for appending: the one who holds it has written its number there.
            self._lock: TextIO = (self.path / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise InvalidInput(
                f"The data folder {self.path} cannot be used ({error.strerror}): "
                "give another one with --data"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip()
            self._lock.close()
            raise Conflict(
                f"A grid already runs on the data folder {self.path} (process {holder}): stop it, "
                "or give this one another folder with --data"
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    @property
    def storage_url(self) -> str:
        return storage_url(self.path)

    @property
    def worker_state(self) -> Path:
        """Where the local worker keeps who it is."""
        return self.path / "worker"

    def close(self) -> None:
        """Give the folder free."""
        with suppress(OSError):
            self._lock.truncate(0)
        self._lock.close()


def storage_url(folder: Path) -> str:
    """The database of a data folder."""
    return f"sqlite:///{folder.absolute() / 'gridx.db'}"


def names_a_store() -> bool:
    """Whether the settings name a database of their own, in a variable or in the file."""
    from gridx.cli.service import programs
    from gridx.config import StorageSettings

    return programs.settings_of().storage.url != StorageSettings().url


def verify_store(folder: Path) -> "LedgerReportView":
    """Verify the ledger of a data folder's database, also while a grid serves it."""
    from gridx.config import load_settings
    from gridx.coordinator import grid
    from gridx.protocol.http import LedgerReportView
    from gridx.server.policy import policy_of

    if not (folder / "gridx.db").is_file():
        raise NotFound(
            f"There is no grid in {folder}: give the folder that `gridx up --data` was given"
        )
    settings = load_settings({"storage.url": storage_url(folder)})
    found = grid.verify_store(policy_of(settings))
    return LedgerReportView(
        ok=not found.differences,
        accounts=found.accounts,
        transfers=found.transfers,
        holds=found.holds,
        differences=list(found.differences),
    )


def admin_password(file: Path | None, environ: Mapping[str, str]) -> tuple[str, bool]:
    """The first administrator's password, and whether it was made up here.

    Raises `InvalidInput` for one that is too short or too long.
    """
    from gridx.cli.remote import first_line
    from gridx.clock import SystemClock

    given = first_line(file) if file else environ.get("GRIDX_ADMIN_PASSWORD")
    if given is None:
        return SystemClock().new_secret()[:PASSWORD_LENGTH], True
    if not 8 <= len(given) <= 128 or "\0" in given:
        raise InvalidInput(
            "The administrator's password has 8 to 128 characters: change GRIDX_ADMIN_PASSWORD"
        )
    return given, False
