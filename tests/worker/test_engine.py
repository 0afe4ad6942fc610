"""What the engine does when the wire is slow or the disk is full."""

from pathlib import Path

import pytest

from gridx.protocol.frames import LOG_DATA_BYTES_MAX, Assign, Finished, Heartbeat, Log
from gridx.worker.events import LeaseKey
from tests.worker.coordinator import Coordinator
from tests.worker.frames import ack, assignment, new_key, spec, welcome
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


async def test_results_that_are_not_acknowledged_soon_are_pushed_to_the_platter(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    coordinator.greet = lambda hello: welcome(heartbeat_s=0.05)
    rig = Rig(coordinator, tmp_path / "spool")
    connection = await coordinator.next()
    await connection.say(Assign([assignment(new_key(), spec())]))
    await connection.take(Finished)
    assert rig.spool.unsynced
    while rig.spool.unsynced:
        await connection.take(Heartbeat)
    await rig.close()
