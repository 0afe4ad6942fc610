"""Runs one program in a sandbox and keeps all that came of it."""

import asyncio
from dataclasses import dataclass

from gridx.domain.attempt import Reason
from gridx.worker.sandbox.base import Limits, Outcome, Program, Sandbox, Stream

ATTEMPT = "11111111-1111-4111-8111-111111111111"
WITHIN_S = 60.0
IN_TURN = """
import fcntl, os, termios

def say(stream, text):
    os.write(stream, text)
    while any(fcntl.ioctl(stream, termios.FIONREAD, bytes(4))):
        pass  # of two pipes nobody knows which was written to first

for number in 1, 2, 3:
    say(1, b"out %d\\n" % number)
    say(2, b"err %d\\n" % number)
"""
"""Writes to each of its streams in turn, as soon as what it wrote before was read."""


@dataclass(frozen=True)
class Ran:
    """What a program wrote and how it ended."""

    outcome: Outcome
    stdout: bytes
    stderr: bytes
    pieces: tuple[tuple[Stream, bytes], ...]

    @property
    def end(self) -> tuple[int | None, Reason | None]:
        return self.outcome.exit_code, self.outcome.reason


class Watcher:
    """Collects output and lets a test wait for a piece of it."""

    def __init__(self) -> None:
        self.pieces: list[tuple[Stream, bytes]] = []
        self._changed = asyncio.Event()

    def emit(self, stream: Stream, piece: bytes) -> None:
        self.pieces.append((stream, piece))
        self._changed.set()

    def text(self, stream: Stream) -> bytes:
        return b"".join(piece for name, piece in self.pieces if name is stream)

    async def until(self, wanted: bytes) -> None:
        """Wait until the program has written `wanted` to stdout."""
        async with asyncio.timeout(WITHIN_S):
            while wanted not in self.text(Stream.STDOUT):
                self._changed.clear()
                await self._changed.wait()


async def run(
    sandbox: Sandbox,
    program: Program,
    limits: Limits | None = None,
    *,
    cancel: asyncio.Event | None = None,
    watcher: Watcher | None = None,
) -> Ran:
    """Run `program` to its end, within a minute."""
    seen = watcher or Watcher()
    async with asyncio.timeout(WITHIN_S):
        outcome = await sandbox.run(
            ATTEMPT,
            program,
            limits or Limits(timeout_s=WITHIN_S / 2),
            seen.emit,
            cancel or asyncio.Event(),
        )
    stdout, stderr = seen.text(Stream.STDOUT), seen.text(Stream.STDERR)
    return Ran(outcome, stdout, stderr, tuple(seen.pieces))


async def python(sandbox: Sandbox, code: str, limits: Limits | None = None) -> Ran:
    return await run(sandbox, Program("python", code), limits)


async def bash(sandbox: Sandbox, code: str, limits: Limits | None = None) -> Ran:
    return await run(sandbox, Program("bash", code), limits)
