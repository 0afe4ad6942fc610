"""The prompt of the hybrid worker: commands from standard input, one a line.

It starts when the coordinator has accepted the worker, never before. What concerns the worker
itself is answered here; everything else goes to the `Shell` it was given, because the worker knows
no client. Reading waits for readiness and takes no thread, so that it can be ended at any moment.
"""

import asyncio
import os
import select
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol, TextIO

from gridx.domain.errors import GridError
from gridx.telemetry import get_logger

LINE_BYTES_MAX = 1024 * 1024
CHUNK_BYTES = 65_536
_log = get_logger(__name__)

HELP = """\
pause      take no more work; what runs goes on
resume     take work again
status     what this worker is doing
help       this list
quit       hand over what runs, and end (so does the end of the input)
"""
SHELL_HELP = """\
submit     submit code, for example: submit print(1)
file       submit a file, for example: file sim.py 10
jobs       your jobs
log        the output of a job
workers    the workers of the grid
credits    your balance
"""


class Shell(Protocol):
    """Commands that are a client's, put in by whoever starts the worker."""

    async def run(self, line: str) -> str | None:
        """What to print for a command line; None when there is no such command."""
        ...


class Controls(Protocol):
    """What the prompt can do with its worker."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def status(self) -> str: ...


class Console:
    """Reads commands until `quit` or the end of the input."""

    def __init__(
        self,
        user_id: str,
        controls: Controls,
        shell: Shell | None,
        out: TextIO | None = None,
        *,
        mark: str = "",
    ) -> None:
        """`mark` stands before each prompt."""
        self._prompt = f"{mark}{user_id}> "
        self._controls = controls
        self._shell = shell
        self._out = out or sys.stdout
        self._prompting = False

    async def run(self, lines: "Lines") -> None:
        """Answer commands; returns when the worker is to end."""
        while True:
            self._show(self._prompt)
            self._prompting = True
            line = await lines.next()
            self._prompting = False
            if line is None:
                self._show("\n")
            if line is None or line.strip() in ("quit", "exit"):
                return
            if answer := await self._answer(line.strip()):
                self._show(f"{answer.rstrip()}\n")

    def tell(self, text: str) -> None:
        """Show a message that nobody asked for, and the prompt again."""
        clean = "".join(c if c.isprintable() else " " for c in text)
        self._show(f"\n{clean}\n{self._prompt}" if self._prompting else f"{clean}\n")

    async def _answer(self, line: str) -> str | None:
        match line:
            case "":
                return None
            case "help":
                return HELP if self._shell is None else HELP + SHELL_HELP
            case "status":
                return self._controls.status()
            case "pause":
                self._controls.pause()
                return "Paused: what runs goes on, nothing more is taken."
            case "resume":
                self._controls.resume()
                return "Resumed."
            case _:
                answer = None if self._shell is None else await _ask(self._shell.run, line)
                word = line.split(maxsplit=1)[0]
                return answer if answer is not None else f"There is no command {word!r}: see help."

    def _show(self, text: str) -> None:
        with suppress(OSError, ValueError):  # nobody reads it any more
            self._out.write(text)
            self._out.flush()


async def _ask(run: Callable[[str], Awaitable[str | None]], line: str) -> str | None:
    try:
        return await run(line)
    except GridError as refusal:
        return refusal.message
    except Exception as error:  # noqa: BLE001  (a bug in one command must not end the worker)
        _log.error("command_failed", exc_info=error)
        return "The command failed; the log says more."


class Lines:
    """Lines of a file descriptor: a terminal, a pipe, or a plain file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = b""
        self._ended = False

    def is_empty(self) -> bool:
        """Whether there is no terminal and the input has ended before it began."""
        try:
            if os.isatty(self._descriptor):
                return False
            ready, _, _ = select.select([self._descriptor], [], [], 0)
            if ready:
                self._take(os.read(self._descriptor, CHUNK_BYTES))
        except (OSError, ValueError):
            self._ended = True
        return self._ended and not self._buffer

    async def next(self) -> str | None:
        """The next line without its end, None when there are no more."""
        while b"\n" not in self._buffer and not self._ended:
            await self._readable()
            try:
                self._take(os.read(self._descriptor, CHUNK_BYTES))
            except OSError:
                self._ended = True
        if not self._buffer:
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode("utf-8", "replace")

    def _take(self, data: bytes) -> None:
        self._buffer += data
        self._ended = not data or len(self._buffer) > LINE_BYTES_MAX

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        try:
            loop.add_reader(self._descriptor, lambda: ready.done() or ready.set_result(None))
        except PermissionError:
            return  # a plain file is always readable
        try:
            await ready
        finally:
            loop.remove_reader(self._descriptor)
