"""The two output streams of an attempt, up to their limit: pipes, read as the job writes."""

import asyncio
import os
from collections.abc import Callable

from gridx.worker.sandbox.base import Emit, Stream

_READ_BYTES = 65_536


class Bound:
    """Hands each piece of output on, up to the limit of its stream.

    The byte past `limit_bytes` of a stream is dropped with all that follow it, and `exceeded` is
    called once.
    """

    def __init__(self, limit_bytes: int, emit: Emit, exceeded: Callable[[], None]) -> None:
        self._left = dict.fromkeys(Stream, limit_bytes)
        self._emit = emit
        self._exceeded = exceeded
        self._over = False

    def take(self, stream: Stream, piece: bytes) -> None:
        kept = piece[: self._left[stream]]
        self._left[stream] -= len(kept)
        if kept:
            self._emit(stream, kept)
        if len(kept) < len(piece) and not self._over:
            self._over = True
            self._exceeded()


class Pipes:
    """A pipe for each stream; what is not taken over by somebody is closed with it."""

    def __init__(self) -> None:
        self.readers: dict[Stream, int] = {}
        self._writers: list[int] = []
        for stream in Stream:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            os.fchmod(writer, 0o666)  # so that the job, another user, may open /dev/stdout
            self.readers[stream] = reader
            self._writers.append(writer)

    @property
    def writers(self) -> tuple[int, int]:
        """The ends that the job writes to: its stdout and its stderr."""
        stdout, stderr = self._writers
        return stdout, stderr

    def handed_over(self) -> None:
        """The job has its ends; close ours, so that the end of its output is seen."""
        for each in self._writers:
            os.close(each)
        self._writers.clear()

    def close(self) -> None:
        self.handed_over()
        for each in self.readers.values():
            os.close(each)
        self.readers.clear()


class Outputs:
    """Reads both streams on the event loop and hands each piece on, within its bound.

    Reading goes on beyond it, so that a job that is being ended does not block.
    """

    def __init__(
        self, pipes: Pipes, limit_bytes: int, emit: Emit, exceeded: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._bound = Bound(limit_bytes, emit, exceeded)
        self._readers = pipes.readers
        for stream, reader in self._readers.items():
            self._loop.add_reader(reader, self._read, stream)

    def finish(self) -> None:
        """Take what is left in the pipes once nobody can write to them, and close them."""
        for stream in list(self._readers):
            while stream in self._readers and self._read(stream):
                continue
        self.close()

    def close(self) -> None:
        for stream in list(self._readers):
            self._close(stream)

    def _read(self, stream: Stream) -> bool:
        """Take one piece; False when there is none now, or there will be none."""
        try:
            piece = os.read(self._readers[stream], _READ_BYTES)
        except BlockingIOError:
            return False
        if not piece:
            self._close(stream)
            return False
        self._bound.take(stream, piece)
        return True

    def _close(self, stream: Stream) -> None:
        reader = self._readers.pop(stream)
        self._loop.remove_reader(reader)
        os.close(reader)
