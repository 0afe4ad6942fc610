"""The command `gridx` as a whole: every command under its name."""

from typing import Annotated

import typer

from gridx import __version__
from gridx.cli import account, admin, command, demo, jobs, money, run, shell, workers
from gridx.cli.service import coordinator, doctor, machine, settings, up


def build() -> typer.Typer:
    """The program with all its commands."""
    app = command.group(
        "gridx",
        "Run Python, JavaScript and Bash jobs on other people's machines, sandboxed and paid by "
        "the second.",
        [
            "gridx up                          # a grid on this machine, in one command",
            "gridx run -c 'print(6 * 7)'       # a job, as if it ran here",
            "gridx worker --url https://grid.example.org --user alice",
            "gridx demo                        # see it all work, with money and proof",
        ],
    )
    app.callback(invoke_without_command=True)(_root)
    parts = (
        up, demo, coordinator, machine, doctor, run, jobs, workers, money, account, shell, admin, settings
    )  # fmt: skip
    for part in parts:
        part.add_to(app)
    return app


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)
