"""An engine put together by hand, with a sandbox that ends each program at once."""

import asyncio
from pathlib import Path

from gridx.clock import Clock, SystemClock
from gridx.domain.errors import GridError
from gridx.domain.sandbox import Backend
from gridx.tasks import Tasks
from gridx.worker.connection import Address, Dialer, trust
from gridx.worker.engine import Engine
from gridx.worker.events import Accepted, LeaveAsked
from gridx.worker.sandbox.base import Emit, Limits, Outcome, Program, Report, Stream
from gridx.worker.session import Session
from gridx.worker.spool import SPOOL_BYTES_MAX, Spool
from tests.worker.coordinator import Coordinator
from tests.worker.frames import profile


class FastClock(SystemClock):
    """A thousand times the pace of the machine's."""

    async def sleep(self, seconds: float) -> float:
        return await super().sleep(seconds / 1000)


class Instant:
    """Ends every program at once, after it has written `output` to standard output."""

    name = "bubblewrap"
    lacks = ()

    def __init__(self, output: tuple[bytes, ...] = (b"1\n",)) -> None:
        self._output = output

    async def probe(self) -> Report:
        return Report(self.name, works=True)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def answers(self, attempt_id: str) -> bool:
        return True

    async def run(
        self,
        attempt_id: str,
        program: Program,
        limits: Limits,
        emit: Emit,
        cancel: asyncio.Event,
    ) -> Outcome:
        for piece in self._output:
            emit(Stream.STDOUT, piece)
        return Outcome(0, None)


class Rig:
    """An engine that stays connected to `coordinator`, as the agent keeps it."""

    def __init__(
        self,
        coordinator: Coordinator,
        folder: Path,
        sandbox: Instant | None = None,
        *,
        spool_bytes_max: int = SPOOL_BYTES_MAX,
        clock: Clock | None = None,
    ) -> None:
        self.spool = Spool(folder, spool_bytes_max)
        self.dialer = Dialer([Address.parse(coordinator.url)], "t", trust(None), FastClock())
        self.engine = Engine(
            Session(profile(), self.spool.open()),
            {Backend.BUBBLEWRAP: sandbox or Instant()},
            self.spool,
            clock or SystemClock(),
            accepted=self._accepted,
            tell=lambda text: None,
        )
        self.tasks = Tasks()
        self.tasks.start("connection", self._stay())

    def _accepted(self, news: Accepted) -> None:
        self.dialer.accepted()

    async def _stay(self) -> GridError:
        while True:
            _, socket = await self.dialer.dial()
            self.dialer.lost(await self.engine.serve(socket))

    async def close(self) -> None:
        self.engine.handle(LeaveAsked())
        await self.tasks.close()
        await self.engine.close()
        self.spool.close()
