"""The prompt: a few commands, one a line, for a person at a worker or at a terminal.

`Commands` answers those that are a client's; `gridx shell` reads them from standard input, and
`gridx worker` puts them behind its own prompt.
"""

import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import typer

from gridx.cli import output
from gridx.cli.command import command
from gridx.cli.remote import Remote, user_of
from gridx.cli.submission import language_of, read_source
from gridx.domain.errors import GridError, InvalidInput, NotFound

if TYPE_CHECKING:
    from gridx.client.sync import Client
    from gridx.protocol.http import WorkerView

HELP = """\
submit CODE        run a line of Python; a first word python:, javascript: or bash: names another
file PATH [ARGS]   run a program file
jobs               your newest jobs
log [JOB]          what a job wrote; by default the last one submitted here
workers            the workers of the grid
credits            what you have
status             the grid at a glance
pause, resume      your workers take no more work, or take it again
help               this list
quit               leave (so does Ctrl-D)"""
LISTED_MAX = 15


def add_to(app: typer.Typer) -> None:
    """Declare the command."""
    command(
        app,
        "shell",
        examples=["gridx shell", "echo 'submit print(1)' | gridx shell"],
    )(shell)


def shell(*, remote: Remote) -> None:
    """A prompt for jobs, workers and credits."""
    with remote.client() as client:
        user_id = user_of(client)
        client.balance(user_id)  # a login that does not hold is told now
        commands = Commands(client, user_id)
        prompt = f"{user_id}> " if sys.stdin.isatty() else ""
        if prompt:
            import_module("readline")  # input() takes line editing from it

            output.note(f"{client.endpoint.url}: `help` lists the commands, `quit` leaves")
        while (line := _next_line(prompt)) is not None:
            words = line.split()
            if words[:1] in (["quit"], ["exit"]):
                return
            if words:
                _answer(commands, line)


def _next_line(prompt: str) -> str | None:
    try:
        return input(prompt)
    except EOFError:
        if prompt:
            print()
        return None


def _answer(commands: "Commands", line: str) -> None:
    try:
        answer = commands.answer(line)
    except GridError as error:
        output.fail(error)
        return
    if answer is None:
        output.complain(f"there is no command {line.split(maxsplit=1)[0]!r}: `help` lists them")
    else:
        print(output.harmless(answer))


class Commands:
    """Answers command lines with text; remembers the job submitted last."""

    def __init__(self, client: "Client", user_id: str) -> None:
        self._client = client
        self._user_id = user_id
        self._last_job: str | None = None
        self._known: dict[str, Callable[[str], str]] = {
            "submit": self._submit,
            "file": self._file,
            "jobs": self._jobs,
            "log": self._log,
            "workers": self._workers,
            "credits": self._credits,
            "status": self._status,
            "pause": lambda rest: self._change("pause", rest),
            "resume": lambda rest: self._change("resume", rest),
            "help": lambda _rest: HELP,
        }

    def answer(self, line: str) -> str | None:
        """What to print for a line, None when there is no such command; raises `GridError`."""
        word, _, rest = line.strip().partition(" ")
        known = self._known.get(word)
        return None if known is None else known(rest.strip())

    def run(self, line: str) -> Awaitable[str | None]:
        """The same for a program with an event loop (the worker's `Shell`)."""
        import asyncio

        return asyncio.to_thread(self.answer, line)

    def _submit(self, rest: str) -> str:
        language, code = "python", rest
        first, colon, after = rest.partition(":")
        if colon and first in ("python", "javascript", "node", "bash"):
            language, code = first, after.strip()
        if not code:
            raise InvalidInput("Say what to run, for example: submit print(6 * 7)")
        return self._made(code, language, ())

    def _file(self, rest: str) -> str:
        try:
            words = shlex.split(rest)
        except ValueError as error:
            raise InvalidInput(f"This line cannot be read: {error}") from None
        if not words:
            raise InvalidInput("Say which file, for example: file sim.py 10")
        text = read_source(words[0])
        return self._made(text, language_of(words[0], text), words[1:])

    def _made(self, code: str, language: str, args: Sequence[str]) -> str:
        job = self._client.submit(code, language, args=list(args))
        self._last_job = job.job_id
        return f"{job.job_id} is submitted: `log` shows what it writes"

    def _jobs(self, _rest: str) -> str:
        from itertools import islice

        lines = [
            f"{job.job_id}  {job.status:<9}  {job.cost or '':>12}  {job.name or job.language}"
            for job in islice(self._client.jobs(), LISTED_MAX)
        ]
        return "\n".join(lines) or "You have no jobs yet."

    def _log(self, rest: str) -> str:
        job_id = rest or self._last_job
        if not job_id:
            raise NotFound("Say which job, for example: log JOB (`jobs` lists them)")
        view = self._client.job(job_id).show()
        text = self._client.job(job_id).logs()
        why = f" ({view.reason})" if view.reason else ""
        return f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{view.status}{why}"

    def _workers(self, _rest: str) -> str:
        lines = [
            f"{worker.worker_id}  {worker.status:<9}  {worker.running:>3} running  "
            f"{output.paint('UNSANDBOXED  ', 'red') if worker.unsandboxed else ''}"
            f"{output.amounts(worker.free)} free  {worker.name} of {worker.owner_id}"
            for worker in self._client.workers()
        ]
        return "\n".join(lines) or "There are no workers yet."

    def _credits(self, _rest: str) -> str:
        have = self._client.balance(self._user_id)
        return f"{have.available} available, {have.held} held"

    def _status(self, _rest: str) -> str:
        seen = self._client.status()
        return (
            f"{self._client.endpoint.url}: version {seen.version}, up "
            f"{output.duration(seen.uptime_s)}, {seen.workers.active} of {seen.workers.total} "
            f"workers active, {seen.queue_size} jobs queued, {seen.running} running"
        )

    def _change(self, change: str, rest: str) -> str:
        from gridx.client import calls

        lines: list[str] = []
        for worker in self._own_workers(rest):
            after = self._client.call(calls.change_worker(worker.worker_id, change))
            lines.append(f"{after.name}: {after.status}")
        return "\n".join(lines) or "You have no such worker connected."

    def _own_workers(self, named: str) -> "list[WorkerView]":
        return [
            worker
            for worker in self._client.workers()
            if worker.owner_id == self._user_id
            and worker.status not in ("offline", "banned")
            and named in ("", worker.worker_id, worker.name)
        ]
