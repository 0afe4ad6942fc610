"""The state folder: who this worker is, and the lock that keeps a second one out of it.

The identity holds the worker's own token, the only secret a worker keeps. It is written with mode
0600, whole or not at all; the token goes nowhere else, neither into the environment nor into a log.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from gridx.domain.errors import Conflict, InvalidInput

_LOCK, _IDENTITY, _SPOOL = "lock", "identity.json", "spool"
_OURS = {_LOCK, _IDENTITY, "identity.new", _SPOOL, "lost+found"}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Identity(Struct, frozen=True):
    """A worker as the grid knows it; `user_id` is its owner, where that was told."""

    worker_id: str
    worker_token: str
    user_id: str | None = None


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/gridx/worker`, by default below `~/.local/state`."""
    home = environ.get("XDG_STATE_HOME")
    base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".local" / "state"
    return base / "gridx" / "worker"


class StateDir:
    """An open state folder, locked for this process until `close`."""

    def __init__(self, path: Path) -> None:
        """Make (mode 0700) and lock the folder.

        Raises `Conflict` when another worker holds it, `InvalidInput` when it cannot be used; both
        name `--state-dir`.
        """
        self.path = path
        self._base = path
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, flags, 0o600)
        except OSError as error:
            raise InvalidInput(
                f"The state folder {path} cannot be used ({error.strerror}): "
                "give another one with --state-dir."
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Conflict(
                f"Another worker already uses the state folder {path}: "
                "stop it, or give this one its own with --state-dir."
            ) from None

    @property
    def spool(self) -> Path:
        return self._base / _SPOOL

    def hand_over(self, user: int) -> None:
        """Make it `user`'s, with all that is in it, and the current folder of this process.

        For root, which is about to become `user`: who may not enter the folders above may then still
        use this one. Who had it before is not trusted: what is not a worker's stays as it is, and so
        do links. Raises `InvalidInput` when there is such a thing.
        """
        folder = os.open(self.path, _FOLDER)
        try:
            if foreign := {each.name for each in self.path.iterdir()} - _OURS:
                raise InvalidInput(
                    f"The state folder {self.path} holds what is no worker's ({min(foreign)}): "
                    "give another one with --state-dir."
                )
            _give(folder, user)
            os.fchdir(folder)
        except OSError as error:
            raise InvalidInput(
                f"The state folder {self.path} cannot be given to user {user} ({error.strerror}): "
                "give another one with --state-dir."
            ) from None
        finally:
            os.close(folder)
        self._base = Path()

    def load(self) -> Identity | None:
        """The worker's identity, None before it enrolled; `InvalidInput` when it is unreadable."""
        try:
            return msgspec.json.decode(self._identity.read_bytes(), type=Identity)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidInput(
                f"{self.path / _IDENTITY} is not a worker's identity ({error}): "
                "remove it and start with --user and --password to enrol anew."
            ) from None

    def save(self, identity: Identity) -> None:
        """Keep the identity; after a crash it is the old one or the new one."""
        fresh = self._identity.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(identity))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._identity)
        folder = os.open(self._base, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Give the folder free."""
        with contextlib.suppress(OSError):
            os.close(self._lock)

    @property
    def _identity(self) -> Path:
        return self._base / _IDENTITY


def _give(folder: int, user: int) -> None:
    """Make an open folder `user`'s, with its files and its spool. Raises `OSError`."""
    for name in os.listdir(folder):
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        try:
            status = os.fstat(file)
            if stat.S_ISDIR(status.st_mode):
                if name == _SPOOL:
                    _give(file, user)
            elif status.st_nlink == 1:  # else it may have another name, in somebody else's folder
                os.fchown(file, user, user)
        finally:
            os.close(file)
    os.fchown(folder, user, user)
