"""Ten thousand jobs and a thousand reconnects leave nothing behind.

The sandbox here ends each program at once, because the counting is of the worker's own tasks, files
and memory of attempts; what real sandboxes leave is counted with them. The clock runs fast, so that
the backoff of a thousand reconnects passes in seconds.
"""

import asyncio
import gc
from pathlib import Path

import psutil
import pytest

from gridx.protocol.frames import Assign, Finished, FromWorker, Heartbeat
from gridx.worker.events import LeaseKey
from tests.worker.coordinator import Connection, Coordinator
from tests.worker.frames import ack, assignment, kept, new_key, spec, welcome
from tests.worker.rig import Rig

JOBS = 10_000
RECONNECTS = 1_000
BATCH = 100


class Counts:
    """What a process holds now."""

    def __init__(self) -> None:
        self.tasks = len(asyncio.all_tasks())
        self.files = psutil.Process().num_fds()

    def __repr__(self) -> str:
        return f"{self.tasks} tasks, {self.files} files"

    def beyond(self, before: "Counts") -> bool:
        """Whether there is more of anything; what others forgot may have been collected."""
        return self.tasks > before.tasks or self.files > before.files


async def settled(connection: Connection) -> Counts:
    """The counts when nothing is under way: half a second of heartbeats has come since."""
    gc.collect()
    for _ in range(6):
        await connection.take(Heartbeat)
    return Counts()


async def come_down(connection: Connection, before: Counts) -> Counts:
    """The counts once there is no more than before, or as they still are after long."""
    counts = await settled(connection)
    for _ in range(30):
        if not counts.beyond(before):
            break
        counts = await settled(connection)
    return counts


@pytest.mark.timeout(300)
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
    after_jobs = await come_down(connection, before)

    for number in range(RECONNECTS):
        key = new_key()
        await connection.say(Assign([assignment(key, spec())]))
        if number % 2:
            await connection.take(Finished)
        await connection.close()
        connection = await coordinator.next()
        assert LeaseKey.of(await connection.take(Finished)) == key
        await connection.say(ack(key))
    after = await come_down(connection, before)

    assert not after_jobs.beyond(before), (before, after_jobs)
    assert not after.beyond(before), (before, after)
    assert rig.spool.size == 0
    assert list((tmp_path / "spool").iterdir()) == []
    await rig.close()
