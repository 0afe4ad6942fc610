"""One container, from its making to its removal: takes one program's files, and starts it.

What the keeper says is believed only until the job's program begins: from then on its output is the
job's to write, and is not read any more.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
from aiodocker.stream import Stream

from gridx.domain.errors import Unavailable
from gridx.worker.sandbox.docker import recipe
from gridx.worker.sandbox.docker.account import Account
from gridx.worker.sandbox.docker.engine import CALL_TIMEOUT_S, Engine
from gridx.worker.sandbox.docker.recipe import Shape

_LINE_BYTES_MAX = 4096
_STDOUT = 1


@dataclass(frozen=True, slots=True)
class Started:
    """A program that waits for its go: where it reads and writes, and its end to come."""

    identity: str
    stream: Stream
    ended: asyncio.Future[int]


class Container:
    """A container in which nothing has run yet, and one program will."""

    def __init__(
        self, engine: Engine, identity: str, shape: Shape, slot: int, keeper: Stream
    ) -> None:
        self.engine = engine
        self.identity = identity
        self.shape = shape
        self.slot = slot
        self.died = engine.expect_end(identity)
        self.account = Account(None, ())
        self._keeper = keeper
        self._started: Started | None = None
        self._ending = False
        self.abandoned = False

    @property
    def was_ended_by_others(self) -> bool:
        """Whether somebody else (the engine when it stops, an administrator) has ended it."""
        return not self._ending and self.engine.was_killed(self.identity)

    @classmethod
    async def make(
        cls, engine: Engine, shape: Shape, slot: int, body: dict[str, object]
    ) -> "Container":
        """A container that waits; raises `Unavailable`."""
        identity = await engine.create(body)
        container: Container | None = None
        try:
            keeper = await engine.attach(identity)
            container = cls(engine, identity, shape, slot, keeper)
            await engine.start(identity)
            await container._hear(b"ready\n")
            container.account = Account.look(identity, await engine.process_of(identity))
        except BaseException:
            if container is None:
                await engine.remove(identity)
            else:
                await container.remove()
            raise
        return container

    async def put(self, path: str, content: bytes) -> None:
        """Write a file, as the job's user."""
        await self._say(f"{len(content)} {path}\n".encode() + content)
        await self._hear(b"taken\n")

    async def start(self, command: list[str]) -> Started:
        """Start a program up to where it waits for its go, with its limits set."""
        await self._say(b"0\n")
        identity, stream = await self.engine.run_in(self.identity, command)
        self._started = Started(identity, stream, self.engine.expect_end(identity))
        said = await _line(stream, self.shape.image.name)
        if said != b"here\n":
            raise Unavailable(f"image {self.shape.image.name} could not start a program")
        most = recipe.processes_max(self.shape)
        await self.engine.limit_processes(self.identity, most)
        return self._started

    async def terminate(self) -> None:
        """Ask every process of the job to end."""
        self._ending = True
        await self.engine.signal(self.identity, "SIGTERM")

    async def kill(self) -> None:
        """End every process in the container; it is removed with them."""
        self._ending = True
        await self.engine.remove(self.identity)

    async def abandon(self) -> None:
        """End what runs in it, whose run tells that it was not the job's doing."""
        self.abandoned = True
        with suppress(Unavailable):
            await self.kill()

    async def remove(self) -> None:
        """Leave nothing of it, whatever state it is in."""
        try:
            with suppress(Unavailable):
                await self.kill()
        finally:
            self.account.close()
            await _close(self._keeper)
            self.engine.forget(self.identity)
            if self._started is not None:
                await _close(self._started.stream)
                self.engine.forget(self._started.identity)

    async def _say(self, words: bytes) -> None:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._keeper.write_in(words)
        except (TimeoutError, OSError, RuntimeError, AssertionError, aiohttp.ClientError) as error:
            raise Unavailable("the container's keeper does not listen") from error

    async def _hear(self, expected: bytes) -> None:
        said = await _line(self._keeper, self.shape.image.name)
        if said != expected:
            raise Unavailable(f"the keeper in image {self.shape.image.name} did not start")


async def _line(stream: Stream, image: str) -> bytes:
    """The first line of what comes; shorter when it ends before."""
    said = b""
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            while b"\n" not in said and len(said) < _LINE_BYTES_MAX:
                message = await stream.read_out()
                if message is None:
                    break
                if message.stream == _STDOUT:
                    said += message.data
    except (TimeoutError, OSError, aiohttp.ClientError) as failure:
        raise Unavailable(f"a container of image {image} does not answer") from failure
    return said


async def _close(stream: Stream) -> None:
    with suppress(OSError, AssertionError, aiohttp.ClientError):
        await stream.close()
