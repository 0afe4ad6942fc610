"""Worlds made ahead: each is made before its program is known, used once and thrown away.

Making one takes longer than most of starting a program in it (control groups of version 1 alone
may take 20 ms), so a few wait ready and are replaced in the background. In each a Python waits
anyway; a Node takes so much more that it waits only in worlds made for it, and only while jobs in
its language were asked for lately.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from gridx.domain.errors import Unavailable
from gridx.tasks import Tasks
from gridx.telemetry import get_logger
from gridx.worker.sandbox.box import Box
from gridx.worker.sandbox.cell import Cell
from gridx.worker.sandbox.cgroups.groups import Group, Groups
from gridx.worker.sandbox.languages import Interpreter
from gridx.worker.sandbox.running import World

_MAKING_TIMEOUT_S = 10.0
_LETTING_GO_TIMEOUT_S = 5.0
_REFILL_AFTER_S = 0.05
_LATELY_S = 300.0
_log = get_logger(__name__)


class Pool:
    """The worlds of one box; keeps `waiting_max` of them ready.

    Up to `nodes_max` more have `node` waiting in them once `take` was asked for one.
    """

    def __init__(
        self,
        box: Box,
        groups: Groups | None,
        waiting_max: int,
        *,
        node: Interpreter | None = None,
        nodes_max: int = 0,
    ) -> None:
        self._box = box
        self._groups = groups
        self._waiting_max = waiting_max
        self._waiting: deque[World] = deque()
        self._node = node
        self._nodes_max = nodes_max
        self._nodes: deque[World] = deque()
        self._making_nodes = 0
        self._nodes_forgotten: asyncio.TimerHandle | None = None
        self._slots: set[int] = set()
        self._made = 0
        self._tasks = Tasks()
        self._making = 0
        self._closing = False
        self._in_use = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def alive(self) -> bool:
        """Whether its box still runs."""
        return self._box.alive

    async def take(self, *, node: bool = False) -> World:
        """A world for one attempt, to be given back; raises `Unavailable` or `OSError`.

        With `node` it is one in which Node waits, when there is one.
        """
        if node:
            self._node_is_asked_for()
        world = (_living(self._nodes, self._take_down) if node else None) or (
            _living(self._waiting, self._take_down) or await self._make()
        )
        if not self._waiting:
            self.refill()
        else:  # making another now would slow down the start of this one
            asyncio.get_running_loop().call_later(_REFILL_AFTER_S, self.refill)
        self._in_use += 1
        self._idle.clear()
        return world

    def give_back_soon(self, world: World) -> None:
        """Take down a world that was used, once whoever waits for its outcome has had a turn."""
        asyncio.get_running_loop().call_soon(self._give_back, world)

    def _give_back(self, world: World) -> None:
        self._take_down(world)
        self.refill()
        self._in_use -= 1
        if not self._in_use:
            self._idle.set()

    async def ends_within(self, seconds: float) -> bool:
        """Whether its box is at its end, which shows a moment after it is."""
        return await self._box.ends_within(seconds)

    def refill(self) -> None:
        """Make what is missing, in the background and side by side: making is mostly waiting."""
        if self._closing or not self._box.alive:
            return
        for _ in range(self._waiting_max - len(self._waiting) - self._making):
            self._making += 1
            self._tasks.start("make a world", self._add_one())
        if self._node is not None and self._nodes_forgotten is not None:
            for _ in range(self._nodes_max - len(self._nodes) - self._making_nodes):
                self._making_nodes += 1
                self._tasks.start("make a world with Node", self._add_one_with(self._node))

    async def close(self) -> None:
        """Take down every world with its box, and wait until those in use were let go."""
        self._closing = True
        await self._tasks.close()
        self._forget_nodes()
        while self._waiting:
            self._take_down(self._waiting.popleft())
        await self._box.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LETTING_GO_TIMEOUT_S):
                await self._idle.wait()

    def complaint(self) -> str:
        """What its box said on its way out, for a person."""
        return self._box.complaint()

    def _node_is_asked_for(self) -> None:
        if self._nodes_forgotten is not None:
            self._nodes_forgotten.cancel()
        loop = asyncio.get_running_loop()
        self._nodes_forgotten = loop.call_later(_LATELY_S, self._forget_nodes)

    def _forget_nodes(self) -> None:
        """No Node waits until one is asked for again."""
        if self._nodes_forgotten is not None:
            self._nodes_forgotten.cancel()
        self._nodes_forgotten = None
        while self._nodes:
            self._take_down(self._nodes.popleft())

    async def _add_one(self) -> None:
        try:
            self._waiting.append(await self._make())
        except (OSError, Unavailable) as failure:
            _log.warning("world_not_made", why=str(failure))
        finally:
            self._making -= 1

    async def _add_one_with(self, node: Interpreter) -> None:
        try:
            world = await self._make()
            world.cell.wait_as_node(node.path, node.file)
            self._nodes.append(world)
            if self._nodes_forgotten is None:  # while it was made
                self._forget_nodes()
        except (OSError, Unavailable) as failure:
            _log.warning("world_not_made", why=str(failure))
        finally:
            self._making_nodes -= 1

    async def _make(self) -> World:
        slot = next(each for each in range(len(self._slots) + 1) if each not in self._slots)
        self._slots.add(slot)
        group: Group | None = None
        cell: Cell | None = None
        try:
            if self._groups is not None:
                self._made += 1
                group = self._groups.make(f"attempt-{self._made}")
            cell = Cell(self._box, slot, group.joins if group is not None else ())
            async with asyncio.timeout(_MAKING_TIMEOUT_S):
                failure = await cell.ready
        except TimeoutError:
            failure = "it did not become ready in time"
        except BaseException:
            self._undo(slot, cell, group)
            raise
        if failure or cell is None:
            self._undo(slot, cell, group)
            raise Unavailable(f"a world for the job could not be made: {failure}")
        return World(slot, cell, group)

    def _take_down(self, world: World) -> None:
        self._undo(world.slot, world.cell, world.group)

    def _undo(self, slot: int, cell: Cell | None, group: Group | None) -> None:
        if cell is not None:
            cell.close()
        if group is not None:
            group.close()
        self._slots.discard(slot)


def _living(worlds: deque[World], take_down: Callable[[World], None]) -> World | None:
    """The first of `worlds` that has not ended while it waited; those that have are taken down."""
    while worlds:
        world = worlds.popleft()
        if not world.cell.ended.done():
            return world
        take_down(world)
    return None
