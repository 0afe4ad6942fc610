"""What the engine does when the wire is slow, the disk is full, or a sandbox is stuck."""

import asyncio
from pathlib import Path

import pytest

from gridx.clock import SystemClock
from gridx.domain.attempt import Reason
from gridx.protocol.frames import (
    LOG_DATA_BYTES_MAX,
    Assign,
    Finished,
    Heartbeat,
    Log,
    WireResources,
)
from gridx.worker.engine import SYNC_AFTER_S
from gridx.worker.events import LeaseKey
from gridx.worker.sandbox.base import Emit, Limits, Outcome, Program
from tests.worker.coordinator import Coordinator
from tests.worker.frames import ack, assignment, drop, new_key, spec, welcome
from tests.worker.rig import Instant, Rig
from tests.worker.test_spool import file_bytes_max


async def test_output_beyond_what_the_outbox_takes_comes_from_the_spool_in_order(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridx.worker.engine.OUTBOX_LOG_BYTES_MAX", LOG_DATA_BYTES_MAX)
    pieces = tuple(bytes([n]) * LOG_DATA_BYTES_MAX for n in range(12))
    rig = Rig(coordinator, tmp_path / "spool", Instant(pieces))
    connection = await coordinator.next()
    what = spec(output_bytes=LOG_DATA_BYTES_MAX * 12)
    await connection.say(Assign([assignment(new_key(), what), assignment(new_key(), what)]))
    for _ in range(2):
        await connection.take(Finished)
    by_lease: dict[str, list[bytes]] = {}
    for frame in connection.heard:
        if isinstance(frame, Log):
            logs = by_lease.setdefault(frame.lease, [])
            assert frame.number == len(logs)
            logs.append(frame.data)
        elif isinstance(frame, Finished):
            assert tuple(by_lease[frame.lease]) == pieces
    assert len(by_lease) == 2
    await rig.close()


async def test_a_full_disk_sends_the_attempt_elsewhere_and_heals(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    coordinator.greet = lambda hello: welcome(heartbeat_s=0.05)
    rig = Rig(coordinator, tmp_path / "spool", Instant((bytes(LOG_DATA_BYTES_MAX),) * 40))
    connection = await coordinator.next()
    what = spec(output_bytes=LOG_DATA_BYTES_MAX * 40)
    with file_bytes_max(1024 * 1024):
        await connection.say(Assign([assignment(first := new_key(), what)]))
        end = await connection.take(Finished)
    assert (LeaseKey.of(end), end.reason) == (first, "sandbox_error")
    assert "disk" in (end.detail or "")
    await connection.say(ack(first))
    await connection.take(Heartbeat)
    await connection.say(Assign([assignment(second := new_key(), what)]))
    end = await connection.take(Finished)
    assert (LeaseKey.of(end), end.exit_code) == (second, 0)
    await rig.close()


class UntilTold(SystemClock):
    """Has the engine wait with its results until it is told that the while is over."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def sleep(self, seconds: float) -> float:
        if seconds != SYNC_AFTER_S:
            return await super().sleep(seconds)
        await self.over.wait()
        return 0.0


async def test_results_that_are_not_acknowledged_soon_are_pushed_to_the_platter(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    coordinator.greet = lambda hello: welcome(heartbeat_s=0.05)
    rig = Rig(coordinator, tmp_path / "spool", clock=(clock := UntilTold()))
    connection = await coordinator.next()
    await connection.say(Assign([assignment(new_key(), spec())]))
    await connection.take(Finished)
    assert rig.spool.unsynced
    clock.over.set()
    while rig.spool.unsynced:
        await connection.take(Heartbeat)
    await rig.close()


async def test_the_spool_is_bounded_while_nobody_takes_its_results(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    """However many come: what is kept is the bound, what ran then, and what was about to."""
    coordinator.greet = lambda hello: welcome(heartbeat_s=0.05)  # room is looked for with each
    size = 10 * LOG_DATA_BYTES_MAX
    rig = Rig(
        coordinator, tmp_path / "spool", Instant((bytes(size),)), spool_bytes_max=3 * size
    )  # at most two run side by side
    connection = await coordinator.next()
    keys = [new_key() for _ in range(40)]
    what = spec(output_bytes=size)
    await connection.say(Assign([assignment(key, what) for key in keys]))
    while (beat := await connection.take(Heartbeat)).free != WireResources():
        pass
    before = connection.heard[: connection.heard.index(beat)]  # more may have come since
    ended = [frame for frame in before if isinstance(frame, Finished)]
    assert 3 <= len(ended) <= 7
    assert len(beat.running) == 40 - len(ended), "the others wait for room, and are named"
    assert rig.spool.size < 8 * size
    # Taken, they make room for the others.
    for frame in ended:
        await connection.say(ack(LeaseKey.of(frame)))
    coordinator.hear = lambda connection, frame: None
    for _ in range(len(ended), 40):
        await connection.say(ack(LeaseKey.of(await connection.take(Finished))))
    await rig.close()
    assert rig.spool.size < 8 * size


class Stuck(Instant):
    """Runs for ever, and answers while `lives`."""

    def __init__(self) -> None:
        super().__init__()
        self.lives = True

    async def answers(self, attempt_id: str) -> bool:
        if not self.lives:
            await asyncio.Event().wait()
        return True

    async def run(
        self,
        attempt_id: str,
        program: Program,
        limits: Limits,
        emit: Emit,
        cancel: asyncio.Event,
    ) -> Outcome:
        await cancel.wait()
        return Outcome(None, Reason.CANCELLED)


async def test_an_attempt_whose_sandbox_is_stuck_is_not_named(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridx.worker.engine.ANSWER_WITHIN_S", 0.05)
    coordinator.greet = lambda hello: welcome(heartbeat_s=0.05)
    sandbox = Stuck()
    rig = Rig(coordinator, tmp_path / "spool", sandbox)
    connection = await coordinator.next()
    key = new_key()
    await connection.say(Assign([assignment(key, spec())]))
    while (await connection.take(Heartbeat)).running != [key.ref]:
        pass
    for lives in (False, True, False):
        sandbox.lives = lives
        while (await connection.take(Heartbeat)).running != ([key.ref] if lives else []):
            pass
    await connection.say(drop(key))
    await rig.close()
