"""A cell: the world of one attempt as the worker sees it, from its spawning to its end.

The worker sends it one program and at most a few orders; what comes back is written by the
supervisor, never by the job. All of it happens on the event loop, nothing blocks.
"""

import asyncio
import fcntl
import json
import os
import socket
from dataclasses import dataclass

from gridx.worker.sandbox.base import Program
from gridx.worker.sandbox.box import Box
from gridx.worker.sandbox.inside import wire

_ALL_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Ended:
    """How the program's first process ended; CPU and memory as far as `wait` tells.

    With a `failure` (for a person) the cell did not get that far, and the rest means nothing.
    """

    exit_code: int = 0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    memory_exceeded: bool = False
    failure: str = ""


class Cell:
    """One attempt's world, made ahead of its program.

    `ready` gives what went wrong, or nothing; `ended` comes once no process of the job is left.
    """

    def __init__(self, box: Box, slot: int, groups: tuple[int, ...]) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._box = box
        self._slot = slot
        self._answer: asyncio.Future[None] = loop.create_future()
        self._asked = False
        self.ready: asyncio.Future[str] = loop.create_future()
        self.ended: asyncio.Future[Ended] = loop.create_future()
        self.disk = -1
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.setblocking(False)
        with theirs:
            try:
                box.spawn(slot, theirs, groups)
            except OSError as failure:
                self._fail(f"the sandbox's box is gone: {failure.strerror}")
        loop.add_reader(self._line.fileno(), self._hear)

    def start(self, start: wire.Start, program: Program, streams: tuple[int, int]) -> None:
        """Send the program; `streams` are the ends it writes its outputs to."""
        payload = _sealed(_payload(program))
        stdin = _sealed(program.stdin.encode("utf-8", "surrogatepass"))
        try:
            socket.send_fds(self._line, [start.to_bytes()], [payload, stdin, *streams])
        except OSError as failure:
            self._fail(f"the attempt's supervisor is gone: {failure.strerror}")
        finally:
            os.close(payload)
            os.close(stdin)

    def terminate(self) -> None:
        """Ask every process of the job to end."""
        self._say(wire.TERMINATE)

    def kill(self) -> None:
        """End every process of the job."""
        self._say(wire.KILL)

    async def answers(self) -> bool:
        """Whether its supervisor answers, asked now; waits until it does or has ended."""
        if not self._asked:
            try:
                self._line.send(wire.PING)
            except OSError:  # it reads nothing any more, or has just ended, which `ended` says
                return self.ended.done()
            self._asked = True
        await asyncio.wait((self._answer, self.ended), return_when=asyncio.FIRST_COMPLETED)
        return True

    def give_up(self) -> None:
        """Stop waiting for an end that does not come, and end the supervisor itself."""
        self._box.end(self._slot)
        self._fail("its processes could not be ended")

    def disk_used(self) -> int:
        """Bytes of the job's disk that are taken."""
        found = os.statvfs(self.disk)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def disk_full(self) -> bool:
        """Whether not one more block, or not one more file, fits on the job's disk."""
        found = os.statvfs(self.disk)
        return found.f_bfree == 0 or found.f_ffree == 0

    def close(self) -> None:
        """Let go; whatever still runs in the cell ends."""
        if self._line.fileno() >= 0:
            self._loop.remove_reader(self._line.fileno())
            self._line.close()
        if self.disk >= 0:
            os.close(self.disk)
            self.disk = -1
        for future in (self.ready, self.ended, self._answer):
            future.cancel()

    def _say(self, order: bytes) -> None:
        try:
            self._line.send(order)
        except OSError:
            return  # it has just ended by itself, and `ended` says so

    def _hear(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(
                self._line, wire.MESSAGE_BYTES_MAX, 1, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        if message == wire.PONG:
            self._answer.set_result(None)
            self._answer = self._loop.create_future()
            self._asked = False
        elif message == wire.READY:
            (self.disk,) = descriptors
            self.ready.set_result("")
        elif len(message) == wire.ENDED.size and not message.startswith(wire.FAILED):
            self._end(_ended(message))
        else:
            said = message.removeprefix(wire.FAILED).decode("utf-8", "replace")
            self._fail(said or "the attempt's supervisor ended without a word")

    def _fail(self, why: str) -> None:
        if not self.ready.done():
            self.ready.set_result(why)
        self._end(Ended(failure=why))

    def _end(self, ended: Ended) -> None:
        self._loop.remove_reader(self._line.fileno())
        if not self.ended.done():
            self.ended.set_result(ended)


def _ended(message: bytes) -> Ended:
    status, exceeded, user_s, system_s, peak = wire.ENDED.unpack(message)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code if code >= 0 else 128 - code, user_s + system_s, peak, exceeded)


def _payload(program: Program) -> bytes:
    asked = {"code": program.code, "args": program.args, "env": dict(program.env)}
    return json.dumps(asked).encode()


def _sealed(content: bytes) -> int:
    """A file of `content` in memory that nobody can change, read from its start."""
    descriptor = os.memfd_create("job", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _ALL_SEALS)
    return descriptor
