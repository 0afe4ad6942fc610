"""Ten thousand jobs and a thousand reconnects leave nothing behind.

The sandbox here ends each program at once, because the counting is of the worker's own tasks, files
and memory of attempts; what real sandboxes leave is counted with them. The clock runs fast, so that
the backoff of a thousand reconnects passes in seconds.
"""

import asyncio
from pathlib import Path

import psutil

from gridx.clock import SystemClock
from gridx.domain.errors import GridError
from gridx.protocol.frames import Assign, Finished, FromWorker, Heartbeat
from gridx.tasks import Tasks
from gridx.worker.connection import Address, Dialer, trust
from gridx.worker.engine import Engine
from gridx.worker.events import Accepted, LeaseKey, LeaveAsked
from gridx.worker.sandbox.base import Emit, Limits, Outcome, Program, Report, Stream
from gridx.worker.session import Session
from gridx.worker.spool import Spool
from tests.worker.coordinator import Connection, Coordinator
from tests.worker.frames import ack, assignment, kept, new_key, profile, spec, welcome

JOBS = 10_000
RECONNECTS = 1_000
BATCH = 100


class FastClock(SystemClock):
    """A thousand times the pace of the machine's."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 1000)


class Instant:
    """Ends every program at once, with a line of output."""

    name = "bubblewrap"

    async def probe(self) -> Report:
        return Report(self.name, works=True)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def run(
        self,
        attempt_id: str,
        program: Program,
        limits: Limits,
        emit: Emit,
        cancel: asyncio.Event,
    ) -> Outcome:
        emit(Stream.STDOUT, b"1\n")
        return Outcome(0, None)


class Rig:
    """An engine that stays connected to `coordinator`, as the agent keeps it."""

    def __init__(self, coordinator: Coordinator, folder: Path) -> None:
        self.spool = Spool(folder)
        self.dialer = Dialer([Address.parse(coordinator.url)], "t", trust(None), FastClock())
        self.engine = Engine(
            Session(profile(), self.spool.open()),
            Instant(),
            self.spool,
            SystemClock(),
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


class Counts:
    """What a process holds now."""

    def __init__(self) -> None:
        self.tasks = len(asyncio.all_tasks())
        self.files = psutil.Process().num_fds()

    def __repr__(self) -> str:
        return f"{self.tasks} tasks, {self.files} files"


async def settled(connection: Connection) -> Counts:
    """The counts when nothing is under way: half a second of heartbeats has come since."""
    for _ in range(6):
        await connection.take(Heartbeat)
    return Counts()


async def test_nothing_grows(coordinator: Coordinator, tmp_path: Path) -> None:
    ended: set[LeaseKey] = set()

    def hear(connection: Connection, frame: FromWorker) -> None:
        if isinstance(frame, Finished):
            ended.add(LeaseKey.of(frame))

    coordinator.hear = hear
    coordinator.greet = lambda hello: welcome(
        heartbeat_s=0.1,
        keep=[kept(LeaseKey.of(ref), 0) for ref in (*hello.running, *hello.unacknowledged)],
    )
    rig = Rig(coordinator, tmp_path / "spool")
    connection = await coordinator.next()
    before = await settled(connection)

    assigned: set[LeaseKey] = set()
    for _ in range(JOBS // BATCH):
        keys = [new_key() for _ in range(BATCH)]
        await connection.say(Assign([assignment(key, spec()) for key in keys]))
        for _ in keys:
            await connection.say(ack(LeaseKey.of(await connection.take(Finished))))
        assigned.update(keys)
    assert ended == assigned
    after_jobs = await settled(connection)

    for number in range(RECONNECTS):
        key = new_key()
        await connection.say(Assign([assignment(key, spec())]))
        if number % 2:
            await connection.take(Finished)
        await connection.close()
        connection = await coordinator.next()
        assert LeaseKey.of(await connection.take(Finished)) == key
        await connection.say(ack(key))
    after = await settled(connection)

    assert (after_jobs.tasks, after_jobs.files) == (before.tasks, before.files), after_jobs
    assert (after.tasks, after.files) == (before.tasks, before.files), after
    assert rig.spool.size == 0
    assert list((tmp_path / "spool").iterdir()) == []
    await rig.close()
