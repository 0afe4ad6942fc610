"""The command `gridx` as a whole: every command under its name.

A command is used alone, so that only the part it is in is loaded and declared for it.
"""

from importlib import import_module
from typing import Annotated

import typer

from gridx import __version__
from gridx.cli import command

PARTS = {
    "gridx.cli.service.up": ("up",),
    "gridx.cli.demo": ("demo",),
    "gridx.cli.service.coordinator": ("coordinator", "init"),
    "gridx.cli.service.archive": ("backup", "restore"),
    "gridx.cli.service.machine": ("worker",),
    "gridx.cli.service.doctor": ("doctor",),
    "gridx.cli.run": ("run",),
    "gridx.cli.jobs": ("submit", "ps", "show", "logs", "wait", "cancel", "retry"),
    "gridx.cli.workers": ("workers",),
    "gridx.cli.money": ("credits", "ledger"),
    "gridx.cli.account": ("login", "register", "logout", "whoami", "password", "key"),
    "gridx.cli.shell": ("shell",),
    "gridx.cli.admin": ("admin",),
    "gridx.cli.service.settings": ("config",),
}
"""Module -> the commands that its `add_to` declares, in the order of the overview."""


def build(word: str = "") -> typer.Typer:
    """The program with the commands of the part that knows `word`; of all parts if none does."""
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
    for part in [each for each in PARTS if word in PARTS[each]] or PARTS:
        import_module(part).add_to(app)
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
