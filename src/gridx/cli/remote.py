"""How a command reaches the coordinator: the options for it, the client, and passwords."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridx.cli import output
from gridx.cli.command import Options
from gridx.domain.errors import InvalidInput

if TYPE_CHECKING:
    from gridx.client.sync import Client

RETRY_S = 2.0
"""A person waits: a coordinator that does not answer is soon told."""
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote(Options):
    """The coordinator to talk to, and as whom."""

    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The coordinator. Default: GRIDX_URL, then the stored login."
        ),
    ] = None
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="A token or API key; GRIDX_TOKEN is safer."),
    ] = None
    ca: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Trust this authority for the grid's certificate."),
    ] = None
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Send secrets over plain HTTP to another machine.")
    ] = False

    def client(self) -> "Client":
        """A client for this coordinator; refuses settings nobody knows."""
        from stamina.instrumentation import set_on_retry_hooks

        from gridx.client.sync import Client

        set_on_retry_hooks([])
        check_names()
        if self.token is not None:
            warn_of_secret("--token", "GRIDX_TOKEN or `gridx login`")
        return Client(self.url, self.token, ca=self.ca, insecure=self.insecure, retry_s=RETRY_S)


def check_names() -> None:
    """Raises `InvalidInput` for a GRIDX_* variable that no program of Grid-X knows."""
    if any(name.startswith("GRIDX_") for name in os.environ):
        from gridx.config import load_settings

        load_settings()


def user_of(client: "Client", given: str | None = None) -> str:
    """The user a command is about: the one named, else whose token it is."""
    return given or client.endpoint.user_id or client.caller().user_id


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordSource(Options):
    """Where a password comes from: a file, GRIDX_PASSWORD, or a question on the terminal."""

    password: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The password itself; others on the machine can see it."),
    ] = None
    password_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read the password from the file's first line."),
    ] = None

    def read(self, question: str = "Password", *, twice: bool = False) -> str:
        """The password; raises `InvalidInput` when there is nobody to ask."""
        if self.password is not None:
            warn_of_secret("--password", "--password-file or GRIDX_PASSWORD")
            return self.password
        if self.password_file is not None:
            return first_line(self.password_file)
        if "GRIDX_PASSWORD" in os.environ:
            return os.environ["GRIDX_PASSWORD"]
        return ask_secret(question, twice=twice)


def ask_secret(question: str, *, twice: bool = False) -> str:
    """Ask on the terminal, without showing what is typed."""
    if not sys.stdin.isatty():
        raise InvalidInput(
            "There is no terminal to ask for a password on: give --password-file FILE or set "
            "GRIDX_PASSWORD"
        )
    return str(typer.prompt(question, hide_input=True, confirmation_prompt=twice, err=True))


def first_line(file: Path) -> str:
    """A secret that stands in a file."""
    try:
        return file.read_text(encoding="utf-8").split("\n", 1)[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The password file {file} cannot be read: {error}") from None


def warn_of_secret(flag: str, better: str) -> None:
    output.warn(f"{flag} can be read by everybody on this machine: use {better} instead")


def moment(text: str | None) -> str | None:
    """A time for the API from `30d`, `12h`, `45m` (from now) or RFC 3339."""
    from gridx.clock import SystemClock, from_rfc3339, to_rfc3339

    if text is None:
        return None
    units = {"d": 86_400, "h": 3_600, "m": 60}
    number, unit = text[:-1], text[-1:]
    try:
        if unit in units and number.isascii() and number.isdigit():
            return to_rfc3339(SystemClock().now() + int(number) * units[unit] * 1_000_000)
        return to_rfc3339(from_rfc3339(text))
    except (ValueError, OverflowError):
        raise InvalidInput(f"{text!r} is no time: write 30d, 12h or 2027-01-31T12:00:00Z") from None
