"""`gridx run`: a job on the grid that feels like a program here.

Its output appears as it is written, Ctrl-C cancels it, and its exit code becomes ours.
"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from gridx.cli import output
from gridx.cli.command import command
from gridx.cli.remote import Remote
from gridx.cli.submission import JobFlags, program
from gridx.domain.errors import Conflict, GridError, Unavailable

if TYPE_CHECKING:
    from gridx.client.sync import Client
    from gridx.protocol.http import JobView

TIMEOUT, OUT_OF_MEMORY, CANCELLED, GRID_FAILED = 124, 137, 130, 125
FOLLOW_RETRY_S = 60.0
"""A coordinator that restarts is waited for: the job is accepted and goes on."""
CANCEL_S = 10.0
"""A cancelled job is final within 7 s while its worker is connected."""


def exit_code_of(status: str, reason: str | None, exit_code: int | None) -> int:
    """What `gridx run` exits with for a final job."""
    if status == "succeeded":
        return 0
    if status == "cancelled":
        return CANCELLED
    match reason:
        case "exit_code":
            return exit_code or 1
        case "timeout":
            return TIMEOUT
        case "out_of_memory":
            return OUT_OF_MEMORY
        case "lost" | "sandbox_error" | "expired":
            return GRID_FAILED
        case _:
            return 1


def add_to(app: typer.Typer) -> None:
    """Declare the command."""

    @command(
        app,
        "run",
        examples=[
            "gridx run simulate.py --paths 1000000",
            "gridx run -c 'print(6 * 7)'",
            "gridx run -l javascript -c 'console.log([1, 2].map(n => n * n))'",
            "gridx run --timeout 600 --memory 2048 --env SEED=7 train.py",
        ],
        rest=True,
    )
    def run(  # pyright: ignore[reportUnusedFunction]
        words: Annotated[
            list[str] | None,
            typer.Argument(metavar="FILE [ARGS]...", help="The program (- is standard input)."),
        ] = None,
        code: Annotated[
            str | None, typer.Option("-c", metavar="CODE", help="Run this code instead of a file.")
        ] = None,
        quiet: Annotated[
            bool, typer.Option("--quiet", "-q", help="Print only what the job prints.")
        ] = False,
        *,
        flags: JobFlags,
        remote: Remote,
    ) -> int:
        """Run a program on the grid and follow it.

        Exits with the job's exit code; 124 when it ran out of time, 137 of memory, 130 when it was
        cancelled, 125 when the grid failed, and 1 for any other reason. Ctrl-C cancels the job.
        """
        text, language, args = program(code, words or [], flags.language)
        with remote.client() as client:
            return follow(client, submit(client, flags, text, language, args), quiet=quiet)


def submit(client: "Client", flags: JobFlags, text: str, language: str, args: list[str]) -> str:
    """Submit the job and give its id."""
    from gridx.client import calls

    request = flags.request(text, language, args)
    return client.call(calls.submit(request, client.clock.new_id())).job_id


def follow(client: "Client", job_id: str, *, quiet: bool) -> int:
    """Show the job's output until its end; gives the exit code for it."""
    talks = not quiet and sys.stderr.isatty()
    client.retry_for(FOLLOW_RETRY_S)
    if talks:
        output.note(output.paint(f"job {job_id}", "dim", sys.stderr))
    try:
        show_output(client, job_id, talks=talks)
        view = client.wait(job_id)
    except KeyboardInterrupt:
        output.note(f"cancelling job {job_id} (Ctrl-C again leaves it to the grid)")
        return _cancel(client, job_id)
    except Unavailable as error:
        output.fail(error)
        output.complain(f"the job goes on without us: `gridx logs -f {job_id}` follows it again")
        return GRID_FAILED
    if not quiet:
        tell_end(view, talks=talks)
    return exit_code_of(view.status, view.reason, view.exit_code)


def show_output(client: "Client", job_id: str, *, talks: bool, stream: str | None = None) -> None:
    """Copy what the job writes to our own streams until its log ends."""
    from gridx.client.events import LogPiece

    attempt = 1
    for told in client.follow_logs(job_id):
        if not isinstance(told, LogPiece) or stream not in (None, told.stream):
            continue
        if told.attempt != attempt and talks:
            output.note(output.paint(f"attempt {told.attempt}", "dim", sys.stderr))
        attempt = told.attempt
        output.write(told.text, sys.stderr if told.stream == "stderr" else sys.stdout)


def tell_end(view: "JobView", *, talks: bool) -> None:
    """One line on what became of the job: always when it failed, else where somebody watches."""
    cost = f", {view.cost} credits" if view.cost and view.cost != "0.000000" else ""
    ran = f" in {output.duration(view.run_s)}" if view.run_s is not None else ""
    if view.status != "succeeded":
        why = f": {view.reason}" if view.reason else ""
        if view.reason == "exit_code":
            why = f" with exit code {view.exit_code}"
        line = f"job {view.job_id} {view.status}{why}{ran}{cost}"
        output.note(output.paint(line, "red", sys.stderr))
        return
    if talks:
        output.note(output.paint(f"succeeded{ran}{cost}", "dim", sys.stderr))


def _cancel(client: "Client", job_id: str) -> int:
    try:
        client.job(job_id).cancel()
    except Conflict:
        pass  # it ended first
    except GridError as error:
        output.fail(error)
        return GRID_FAILED
    try:
        view = client.wait(job_id, CANCEL_S)
    except (TimeoutError, GridError):
        output.note(f"job {job_id} will be cancelled as soon as its worker answers")
        return CANCELLED
    tell_end(view, talks=True)
    return exit_code_of(view.status, view.reason, view.exit_code)
