"""`gridx backup` and `gridx restore`: a copy of a running grid on SQLite, and its way back."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridx.cli import output
from gridx.cli.command import command
from gridx.cli.remote import Json
from gridx.cli.service.store import DataFolder, default_data_folder, names_a_store, storage_url

if TYPE_CHECKING:
    from gridx.coordinator.grid import Examined
    from gridx.domain.policy import Policy

Data = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="The grid's data folder. Default: as `gridx up` chooses its store."
    ),
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]
GONE = """\
What came after the backup is gone: jobs accepted, their results and what they cost, credits granted and
moved, users, tokens and workers made. What was undone after it holds again: tokens and keys that were
revoked, users that were suspended.
When the grid starts: jobs that were unfinished in the backup run, perhaps again. Workers are told to drop
what they run for jobs that it does not know, and what they keep of such results. Whoever got a token since,
a worker too, needs a new one. A request sent again with an Idempotency-Key used since is done again."""


def add_to(app: typer.Typer) -> None:
    """Declare the commands."""
    command(
        app,
        "backup",
        examples=[
            "gridx backup /srv/backups/monday.db --data /srv/grid     # also while it runs",
            "GRIDX_STORAGE__URL=sqlite:////srv/grid/gridx.db gridx backup monday.db",
        ],
    )(backup)
    command(
        app,
        "restore",
        examples=["gridx restore /srv/backups/monday.db --data /srv/grid    # it must not run"],
    )(restore)


def backup(
    file: File,
    data: Data = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    json: Json = False,
) -> int:
    """Copy a grid on SQLite, also while it runs.

    The copy is of one moment, readable by its owner alone, and verified: exits 1 when it is not
    whole (then there is none) or its ledger does not add up.
    """
    from gridx.clock import SystemClock
    from gridx.coordinator import grid

    policy = _policy(data)
    with _Progress() as progress:
        made = grid.back_up_store(
            policy, file, SystemClock().now(), force=force, progress=progress.tell
        )
    if json:
        output.show_json(made)
    else:
        print(f"backed up to {file}: {_contents(made)}")
    return _judge(made)


def restore(file: File, data: Data = None, json: Json = False) -> int:
    """Put a backup in the place of a grid's database.

    Nothing may run on it. The database that is replaced is kept beside it. Says what is lost.
    """
    from gridx.clock import SystemClock, to_rfc3339
    from gridx.coordinator import grid

    policy = _policy(data)
    folder = None
    if data is not None or not names_a_store():
        folder = DataFolder(data or default_data_folder(os.environ))  # no `gridx up` meanwhile
    now = to_rfc3339(SystemClock().now())
    stamp = "".join(c for c in now[:19] if c.isalnum()) + "Z"
    try:
        with _Progress() as progress:
            done = grid.restore_store(policy, file, stamp, progress.tell)
    finally:
        if folder is not None:
            folder.close()
    if json:
        output.show_json(done)
        return _judge(done.now)
    at = done.now.taken_at
    lines = [
        ("restored", str(file)),
        ("the backup is of", to_rfc3339(at) if at else "a time that it does not say"),
        ("it holds", _contents(done.now)),
    ]
    if done.before is not None:
        lines.append(("before, there were", _contents(done.before)))
    if done.replaced is not None:
        lines.append(("what was there", f"{done.replaced} (remove it when all is well)"))
    output.show_fields(lines)
    print(f"\n{GONE}")
    return _judge(done.now)


def _policy(data: Path | None) -> "Policy":
    """What the store of the grid is: of `data`, of the settings, or of the default folder."""
    from gridx.cli.service import programs

    programs.need_coordinator()
    from gridx.server.policy import policy_of

    url = None
    if data is not None or not names_a_store():
        url = storage_url(data or default_data_folder(os.environ))
    settings = programs.settings_of(storage_url=url)
    programs.start_log(settings, quiet_on_terminal=True)
    return policy_of(settings)


def _contents(found: "Examined") -> str:
    return (
        f"{found.users} users, {found.jobs} jobs ({found.unfinished} unfinished), "
        f"{found.transfers} transfers"
    )


def _judge(found: "Examined") -> int:
    """The exit code; says what is wrong with the ledger, or that nobody could look."""
    if found.verified is None:
        output.note("its schema is older than this program: its ledger is verified at the restore")
        return 0
    for difference in found.verified.differences:
        output.complain(f"the ledger does not add up: {difference}")
    return 0 if found.verified.ok else 1


class _Progress:
    """Tells a person at a terminal how far a large copy is."""

    def __init__(self) -> None:
        self._told = -1

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._told >= 0:
            sys.stderr.write("\r\x1b[K")

    def tell(self, copied: int, total: int) -> None:
        percent = 100 * copied // max(1, total)
        if sys.stderr.isatty() and percent != self._told:
            self._told = percent
            sys.stderr.write(f"\rcopying: {percent} %")
            sys.stderr.flush()
