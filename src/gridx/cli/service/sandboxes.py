"""In what a worker runs jobs, as its owner says it: the options, and what must be said loudly."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridx.cli import output
from gridx.cli.command import Options
from gridx.domain.sandbox import STRONGEST_FIRST, WEAKEST_SANDBOX, Backend
from gridx.worker.sandbox.docker.images import DEFAULT_IMAGE, Pull

if TYPE_CHECKING:
    from gridx.worker.sandbox.backends import Choice

KNOWN = ", ".join(each.value for each in STRONGEST_FIRST)
WHEN = ", ".join(each.value for each in Pull)
TRUST = "--i-trust-every-submitter"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxChoice(Options):
    """Which sandboxes a worker offers."""

    sandbox: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,NAME...]", help=f"Offer only these of {KNOWN}. Default: all."),
    ] = None
    sandbox_at_least: Annotated[
        str | None, typer.Option(metavar="NAME", help="Offer none that is weaker than this one.")
    ] = None
    i_trust_every_submitter: Annotated[
        bool, typer.Option(TRUST, help="Needed for `--sandbox none`: jobs may do all you may.")
    ] = False

    image: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Containers: the image ({DEFAULT_IMAGE}).")
    ] = None
    allow_image: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Containers: images that jobs may name; repeatable."),
    ] = None
    pull: Annotated[
        str | None, typer.Option(metavar="WHEN", help=f"Containers: fetch images {WHEN} (never).")
    ] = None
    container_runtime: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Containers: a runtime that the engine knows."),
    ] = None
    container_socket: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Containers: the socket of the engine.")
    ] = None

    def read(self) -> "Choice":
        """The owner's choice; a usage error when it makes no sense."""
        from gridx.worker.sandbox.backends import Choice, Containers

        containers = Containers(
            self.container_socket,
            self.container_runtime,
            self.image or DEFAULT_IMAGE,
            tuple(self.allow_image or ()),
            _pull(self.pull),
        )
        named = tuple(
            _backend("--sandbox", word.strip())
            for text in self.sandbox or ()
            for word in text.split(",")
        )
        is_none = Backend.NONE in named
        if is_none and len(set(named)) > 1:
            raise typer.BadParameter("--sandbox none goes with no other: it is all or nothing")
        if is_none and not self.i_trust_every_submitter:
            raise typer.BadParameter(
                f"--sandbox none runs jobs with nothing between them and you: only with {TRUST}"
            )
        if self.i_trust_every_submitter and not is_none:
            raise typer.BadParameter(f"{TRUST} goes with --sandbox none and nothing else")
        floor = Backend.NONE if is_none else WEAKEST_SANDBOX
        if self.sandbox_at_least is not None:
            floor = _backend("--sandbox-at-least", self.sandbox_at_least)
            if floor is Backend.NONE:
                raise typer.BadParameter("--sandbox-at-least none says nothing: leave it away")
        return Choice(named, floor, containers)


def raise_alarm(choice: "Choice") -> str:
    """Say on standard error what endangers this machine; the word for the prompt of no sandbox."""
    unsandboxed = Backend.NONE in choice.named
    if os.geteuid() == 0:
        what = "for nothing where it can" if unsandboxed else "for its sandboxes alone"
        output.warn(
            f"this worker was started by root, which it stays {what}. An ordinary user is safer: "
            "`gridx doctor` as that user says what it lacks"
        )
    if not unsandboxed:
        return ""
    output.alarm(
        f"{output.UNSANDBOXED}: jobs on this worker may read, change and send away all that you may, this "
        "worker's token included. Nothing holds them but their time and output limits."
    )
    return output.paint(output.UNSANDBOXED, "red") + " "


def _pull(name: str | None) -> Pull:
    try:
        return Pull(name or Pull.NEVER)
    except ValueError:
        raise typer.BadParameter(f"--pull {name!r} is none of {WHEN}") from None


def _backend(flag: str, name: str) -> Backend:
    try:
        return Backend(name)
    except ValueError:
        raise typer.BadParameter(f"{flag} {name!r} is none of {KNOWN}") from None
