"""Coordinators: the real grid on the shared store, with a door for workers and one for people."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from websockets.exceptions import ConnectionClosed

from gridx.coordinator.grid import Grid
from gridx.coordinator.sessions import Session
from gridx.domain.errors import GridError, Unavailable
from gridx.domain.policy import Policy
from gridx.protocol import frames
from gridx.protocol.frames import SUBPROTOCOL, Codec, Hello
from gridx.server import worker_frames
from tests.simulation.network import End, Network
from tests.simulation.store import Store
from tests.simulation.story import Story, short
from tests.simulation.virtual import Process, VirtualClock, VirtualLoop

T = TypeVar("T")
PATIENCE_S = 30.0
REOPEN_S = 1.0


class Lost(Exception):
    """A request whose answer never came: whether it was done is not known."""


class Coordinator:
    """One address with a coordinator behind it, again and again."""

    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        loop: VirtualLoop,
        network: Network,
        store: Store,
        story: Story,
        draws: random.Random,
        seed: str,
    ) -> None:
        self.name = name
        self.policy = policy
        self.network = network
        self.grid: Grid | None = None
        self.process: Process | None = None
        self.clock = VirtualClock(loop, f"{seed}:{name}")
        self.lost_share = 0.0
        """How many of the answers to people do not arrive."""
        self.graveyard: list[Process] = []
        self._loop = loop
        self._store = store
        self._story = story
        self._draws = draws
        self._codec = Codec(SUBPROTOCOL)

    @property
    def up(self) -> bool:
        return self.grid is not None

    # -------------------------------------------------------------- life and death

    def start(self) -> None:
        """Start a coordinator here; it serves once its store lets it."""
        assert self.process is None
        self.process = Process(self._loop, self.name, self._store.lag_s)
        self.process.start(self._open(self.process))
        self._story.tell(f"{self.name} starts")

    async def _open(self, process: Process) -> None:
        while True:
            grid = Grid(self.policy, self.clock)
            try:
                await grid.open()
            except Unavailable:
                await self.clock.sleep(REOPEN_S)
                continue
            break
        self._store.watch(grid._database.engine)
        self.grid = grid
        self._story.tell(f"{self.name} serves")

    def kill(self) -> None:
        """kill -9."""
        if self.process is None:
            return
        self._story.tell(f"{self.name} is killed")
        self.process.kill()
        self.graveyard.append(self.process)
        self.network.died(self.process)
        if self.grid is not None:
            self.grid._database.engine.dispose()
        self.process = self.grid = None

    async def stop(self) -> None:
        """SIGTERM: it ends in order."""
        process, grid = self.process, self.grid
        if process is None or grid is None:
            return
        self._story.tell(f"{self.name} stops")
        self.grid = None
        ending = process.start(grid.close())
        while not ending.done() and process.alive:
            await self.clock.sleep(0.1)
        if process is self.process:
            process.kill()
            self.graveyard.append(process)
            self.network.died(process)
            self.process = None

    # -------------------------------------------------------------- people's requests

    async def ask(self, what: Callable[[Grid], Awaitable[T]]) -> T:
        """Have a request served, over the network. Raises `Lost`, and what the grid refuses."""
        answer: asyncio.Future[T] = self._loop.create_future()
        self._loop.later(self.network.latency_s(), self._serve_request, what, answer)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await answer
        except TimeoutError:
            raise Lost from None

    def _serve_request(
        self, what: Callable[[Grid], Awaitable[T]], answer: "asyncio.Future[T]"
    ) -> None:
        if self.grid is None or self.process is None:
            self._answer(answer, Lost())
            return
        self.process.start(self._handle(self.grid, what, answer))

    async def _handle(
        self, grid: Grid, what: Callable[[Grid], Awaitable[T]], answer: "asyncio.Future[T]"
    ) -> None:
        try:
            result = await what(grid)
        except GridError as refusal:
            result = refusal
        except Exception as error:
            self._story.broken(f"{self.name} failed to serve a request: {error!r}")
            raise
        if self._draws.random() >= self.lost_share:
            self._loop.later(self.network.latency_s(), self._answer, answer, result)

    @staticmethod
    def _answer(answer: "asyncio.Future[T]", result: T | Exception) -> None:
        if answer.done():
            return
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    # -------------------------------------------------------------- workers' connections

    def accept(self, token: str, end: End) -> None:
        """A worker's connection has come; whoever is not let in is hung up on."""
        if self.grid is None or self.process is None:
            end.hang_up()
        else:
            self.process.start(self._serve_worker(self.grid, token, end))

    async def _serve_worker(self, grid: Grid, token: str, end: End) -> None:
        """What `server.worker_socket` does with a connection, without HTTP around it."""
        try:
            session = await self._greet(grid, token, end)
        except ConnectionClosed:
            return
        except Exception as error:
            self._story.broken(f"{self.name} failed to let a worker in: {error!r}")
            raise
        if session is None:
            await end.close()
            return
        reading = asyncio.ensure_future(self._read(session, end))
        writing = asyncio.ensure_future(self._write(session, end))
        await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
        for task in (reading, writing):
            task.cancel()
        await end.close()
        await session.close()

    async def _greet(self, grid: Grid, token: str, end: End) -> Session | None:
        try:
            who = await grid.users.authenticate(token)
            hello = self._codec.from_worker(await end.recv())
            assert isinstance(hello, Hello)
            session = await grid.sessions.connect(who, worker_frames.greeting(hello))
        except GridError as refusal:
            refused = frames.Refused(refusal.message, refusal.retryable)
            await end.send(self._codec.encode(refused))
            return None
        kept = [frames.Kept(*_words(k.key), k.log_frames) for k in session.keep]
        dropped = [worker_frames.lease_ref(key) for key in session.drop]
        self._story.tell(
            f"{self.name} welcomes worker {short(session.worker_id)}: "
            f"keeps {[short(k.lease) for k in kept]}, drops {[short(d.lease) for d in dropped]}"
        )
        welcome = frames.Welcome(
            session.worker_id,
            self.policy.heartbeat_s,
            self.policy.lease_s,
            kept,
            dropped,
            session.worker_token,
            paused=session.paused,
            draining=session.draining,
        )
        try:
            await end.send(self._codec.encode(welcome))
        except ConnectionClosed:
            await session.close()
            raise
        return session

    async def _read(self, session: Session, end: End) -> None:
        try:
            while True:
                frame = self._codec.from_worker(await end.recv())
                await session.report(worker_frames.report(frame))
        except ConnectionClosed:
            return

    async def _write(self, session: Session, end: End) -> None:
        try:
            while orders := await session.outgoing():
                for frame in worker_frames.ordered(orders):
                    await end.send(self._codec.encode(frame))
                    if isinstance(frame, frames.Disconnect):
                        return
        except ConnectionClosed:
            return


def _words(key: worker_frames.LeaseKey) -> tuple[str, int, str]:
    return key.job_id, key.attempt, key.lease
