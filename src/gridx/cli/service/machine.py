"""`gridx worker`: this machine as a part of a grid."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridx.cli.command import command
from gridx.cli.remote import PasswordSource, check_names, warn_of_secret
from gridx.cli.service import secrecy
from gridx.cli.service.sandboxes import SandboxChoice, raise_alarm
from gridx.domain.errors import InvalidInput

if TYPE_CHECKING:
    from gridx.cli.shell import Commands
    from gridx.worker.options import WorkerOptions


def add_to(app: typer.Typer) -> None:
    """Declare the commands."""
    command(
        app,
        "worker",
        examples=[
            "gridx worker --user alice",
            "gridx worker --url https://grid.example.org --user alice --password-file FILE",
            "gridx worker --no-cli --slots 4 --name lab-2 --label site=lab   # as a service",
            "gridx worker --sandbox-at-least bubblewrap                       # in nothing weaker",
        ],
    )(worker)


def worker(
    *,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL[,URL...]", help="Coordinators. Default: GRIDX_URL, the login."),
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", "-u", metavar="NAME", help="The worker's owner.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Enrol with a token; GRIDX_TOKEN is safer.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="CPUs to offer. Default: all.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Its name. Default: the machine's.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="A label jobs can require.")
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Who it is, and results not yet sent.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Trust this authority's certificates.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Send secrets over plain HTTP to another machine.")
    ] = False,
    no_cli: Annotated[bool, typer.Option("--no-cli", help="No prompt; run until stopped.")] = False,
    source: PasswordSource,
    sandboxes: SandboxChoice,
) -> int:
    """Run other people's jobs here, sandboxed, for credits.

    The prompt appears once the coordinator has accepted the worker. `help` there lists its commands,
    `quit` or the end of the input ends it in order.
    """
    from gridx.worker.apart import process
    from gridx.worker.options import WorkerOptions

    check_names()
    _start_log(interactive=not no_cli)
    choice = sandboxes.read()
    warden = process.separate(choice, secrecy.hide)
    owner = user or os.environ.get("GRIDX_USER")
    urls = _addresses(url)
    secret = _token(token)
    password = None if secret else _password(owner, source, state_dir)
    if len(urls) == 1 and not (secret or password or owner or _is_enrolled(state_dir)):
        # Whoever is logged in here may start a worker of their own without another word.
        secret = _login_at(urls[0])
    options = WorkerOptions(
        urls=urls,
        user_id=owner,
        password=password,
        token=secret,
        state_dir=state_dir,
        name=name,
        labels=_labels(label),
        slots=slots,
        sandbox=choice,
        prompt_mark=raise_alarm(choice),
        ca=ca.absolute() if ca else None,
        insecure=insecure,
        interactive=not no_cli,
    )
    secrecy.hide()
    return process.run(options, warden, LazyShell(options) if options.interactive else None)


class LazyShell:
    """The client's commands behind a worker's prompt; the client is made when first needed."""

    def __init__(self, options: "WorkerOptions") -> None:
        self._options = options
        self._commands: Commands | None = None

    async def run(self, line: str) -> str | None:
        """Answer one line; None for a command there is not."""
        import asyncio

        if self._commands is None:
            self._commands = await asyncio.to_thread(self._log_in)
        return await self._commands.run(line)

    def _log_in(self) -> "Commands":
        from gridx.cli.shell import Commands
        from gridx.client import calls
        from gridx.client.sync import Client

        options = self._options
        ca = str(options.ca) if options.ca else None
        client = Client(
            options.urls[0], options.token, ca=ca, insecure=options.insecure, retry_s=5.0
        )
        user_id = options.user_id or client.endpoint.user_id
        if options.token is None and options.user_id and options.password:
            token = client.call(calls.log_in(options.user_id, options.password)).token
            client.close()
            client = Client(options.urls[0], token, ca=ca, insecure=options.insecure, retry_s=5.0)
        if user_id is None or client.endpoint.token is None:
            raise InvalidInput("This worker knows no login for that: start it with --user")
        return Commands(client, user_id)


def _addresses(url: str | None) -> tuple[str, ...]:
    from gridx.client.login import clean_url, find_endpoint

    given = url or os.environ.get("GRIDX_URL")
    if given is None:
        return (find_endpoint().url,)
    found = tuple(clean_url(part) for part in given.split(",") if part.strip())
    if not found:
        raise InvalidInput("--url names no coordinator")
    return found


def _login_at(url: str) -> str | None:
    from gridx.client.login import find_endpoint

    return find_endpoint(url, environ=os.environ).token


def _token(given: str | None) -> str | None:
    if given is not None:
        warn_of_secret("--token", "GRIDX_TOKEN or --password-file")
    return given or os.environ.get("GRIDX_TOKEN") or None


def _password(owner: str | None, source: PasswordSource, state_dir: Path | None) -> str | None:
    """The password to enrol with: given, or asked for where a person starts a new worker."""
    given = source.password or source.password_file or os.environ.get("GRIDX_PASSWORD")
    if given:
        return source.read()
    if owner and not _is_enrolled(state_dir) and sys.stdin.isatty():
        return source.read(f"Password of {owner}")
    return None


def _is_enrolled(state_dir: Path | None) -> bool:
    from gridx.worker.identity import default_state_dir

    return ((state_dir or default_state_dir(os.environ)) / "identity.json").exists()


def _labels(texts: list[str] | None) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"--label takes NAME=VALUE, not {text!r}")
        labels[name] = value
    return labels


def _start_log(*, interactive: bool) -> None:
    from gridx.config import load_settings
    from gridx.telemetry import configure_logging

    log = load_settings().log
    quiet = interactive and sys.stdin.isatty() and "GRIDX_LOG__LEVEL" not in os.environ
    configure_logging("warning" if quiet else log.level, log.format)
