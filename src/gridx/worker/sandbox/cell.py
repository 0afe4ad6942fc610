"""A cell: the world of one attempt as the worker sees it, from its spawning to its end.

The worker sends it one program and at most a few orders; what comes back is written by the
supervisor, never by the job. All of it happens on the event loop, nothing blocks.
"""

import asyncio
import fcntl
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from gridx.worker.sandbox.base import Program
from gridx.worker.sandbox.box import Box
from gridx.worker.sandbox.inside import wire
from gridx.worker.sandbox.outputs import Pipes

_WORK_ON_DISK = wire.WORK.removeprefix("/")
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
    """One attempt's world, made ahead of its program, with all that the program will have open.

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
        self.pipes = Pipes()
        self._payload, self._stdin = _memory_file(), _memory_file()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.setblocking(False)
        with theirs:
            files = (theirs.fileno(), self._payload, self._stdin, *self.pipes.writers)
            try:
                box.spawn(slot, files, groups)
            except OSError as failure:
                self._fail(f"the sandbox's box is gone: {failure.strerror}")
        self.pipes.handed_over()
        loop.add_reader(self._line.fileno(), self._hear)

    def wait_as_node(self, path: str, file: str) -> None:
        """Have the Node at `path` started, to wait for its program; of no other language from now."""
        self._say(wire.WAIT + f"{path}\0{file}".encode())

    def start(self, start: wire.Start, program: Program) -> None:
        """Hand the program over and let it run."""
        _seal(self._payload, _payload(program))
        _seal(self._stdin, _encoded(program.stdin))
        try:
            self._line.send(start.to_bytes())
        except OSError as failure:
            self._fail(f"the attempt's supervisor is gone: {failure.strerror}")

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

    @contextmanager
    def work(self) -> Generator[int]:
        """A handle on the job's work folder, whatever mode the job gave it."""
        handle = os.open(
            _WORK_ON_DISK, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.disk
        )
        try:
            yield handle
        finally:
            os.close(handle)

    def close(self) -> None:
        """Let go; whatever still runs in the cell ends."""
        if self._line.fileno() >= 0:
            self._loop.remove_reader(self._line.fileno())
            self._line.close()
        for each in (self._payload, self._stdin, self.disk):
            if each >= 0:
                os.close(each)
        self._payload = self._stdin = self.disk = -1
        self.pipes.close()
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
        except (BlockingIOError, ConnectionResetError):
            # Reset is said, once, before its last words if it ended without having read all of ours.
            return
        except OSError:
            message, descriptors = b"", []
        if message == wire.PONG:
            self._answer.set_result(None)
            self._answer = self._loop.create_future()
            self._asked = False
        elif message == wire.READY:
            (self.disk,) = descriptors
            if not self.ready.done():  # which it is when nobody waits for it any more
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
    args = [_encoded(each) for each in program.args]
    env = {_encoded(name): _encoded(value) for name, value in program.env.items()}
    return wire.Payload(_encoded(program.code), args, env).to_bytes()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _memory_file() -> int:
    return os.memfd_create("job", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _seal(file: int, content: bytes) -> None:
    """Fill `file`, which others read from its start, and let nobody change it any more."""
    view, at = memoryview(content), 0
    while at < len(view):
        at += os.pwrite(file, view[at:], at)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _ALL_SEALS)
