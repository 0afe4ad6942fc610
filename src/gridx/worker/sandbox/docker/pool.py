"""Containers made ahead: each is made before its program is known, used once and thrown away.

Those that wait are of the shape that was asked for last, because jobs come in batches of one kind;
a job of another shape waits for its own to be made. Making takes a few hundred milliseconds.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from gridx.domain.errors import Unavailable
from gridx.tasks import Tasks
from gridx.telemetry import get_logger
from gridx.worker.sandbox.docker.container import Container
from gridx.worker.sandbox.docker.engine import Engine
from gridx.worker.sandbox.docker.recipe import Shape

_LETTING_GO_TIMEOUT_S = 5.0
Make = Callable[[Shape, int], Awaitable[Container]]
_log = get_logger(__name__)


class Pool:
    """The containers of one connection to an engine; keeps `waiting_max` of them ready."""

    def __init__(self, engine: Engine, make: Make, waiting_max: int) -> None:
        self.engine = engine
        self._make = make
        self._waiting_max = waiting_max
        self._shape: Shape | None = None
        self._waiting: deque[Container] = deque()
        self._used: set[Container] = set()
        self._slots: set[int] = set()
        self._making = 0
        self._tasks = Tasks()
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def take(self, shape: Shape) -> Container:
        """A container of this shape for one attempt, to be given back; raises `Unavailable`."""
        container = self._take_waiting(shape)
        if container is None:
            container = await self._make_one(shape)
        self._used.add(container)
        self._idle.clear()
        return container

    async def give_back(self, container: Container) -> None:
        """Throw away a container that was used."""
        try:
            await self._remove(container)
        finally:
            self._used.discard(container)
            if not self._used:
                self._idle.set()
        self.refill()

    def prepare(self, shape: Shape) -> None:
        """Have containers of this shape wait from now on, in place of others."""
        self._shape = shape
        others = [each for each in self._waiting if each.shape != shape]
        for each in others:
            self._waiting.remove(each)
            self._tasks.start("remove a container", self._remove(each))
        self.refill()

    def refill(self) -> None:
        """Make what is missing, in the background and side by side."""
        if self._closing or self._shape is None or not self.engine.alive:
            return
        for _ in range(self._waiting_max - len(self._waiting) - self._making):
            self._making += 1
            self._tasks.start("make a container", self._add_one(self._shape))

    async def close(self) -> None:
        """Remove every container; those in use end."""
        self._closing = True
        await self._tasks.close()
        async with asyncio.TaskGroup() as tasks:
            for each in self._waiting:
                tasks.create_task(each.remove())
            for each in self._used:
                tasks.create_task(each.abandon())
        self._waiting.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LETTING_GO_TIMEOUT_S):
                await self._idle.wait()
        await self.engine.close()

    def _take_waiting(self, shape: Shape) -> Container | None:
        if shape != self._shape:
            self.prepare(shape)
        while self._waiting:
            container = self._waiting.popleft()
            if not container.died.done():
                return container
            self._tasks.start("remove a container", self._remove(container))
        return None

    async def _add_one(self, shape: Shape) -> None:
        try:
            container = await self._make_one(shape)
        except Unavailable as failure:
            _log.warning("container_not_made", why=str(failure))
            return
        finally:
            self._making -= 1
        self._waiting.append(container)
        if shape != self._shape and self._shape is not None:
            self.prepare(self._shape)

    async def _make_one(self, shape: Shape) -> Container:
        slot = next(each for each in range(len(self._slots) + 1) if each not in self._slots)
        self._slots.add(slot)
        try:
            return await self._make(shape, slot)
        except BaseException:
            self._slots.discard(slot)
            raise

    async def _remove(self, container: Container) -> None:
        await container.remove()
        self._slots.discard(container.slot)
