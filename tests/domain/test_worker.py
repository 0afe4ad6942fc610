"""A worker's status, and whom it may serve."""

from dataclasses import replace

import pytest

from gridx.domain.worker import Capabilities, Standing, Worker, WorkerStatus

ONLINE = Worker("w", "bob", "w", Capabilities(), "1", 0, 0, True, False, False, Standing.GOOD, True)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, WorkerStatus.ONLINE),
        ({"online": False}, WorkerStatus.OFFLINE),
        ({"paused": True}, WorkerStatus.PAUSED),
        ({"draining": True, "paused": True}, WorkerStatus.DRAINING),
        ({"standing": Standing.SUSPENDED, "draining": True}, WorkerStatus.SUSPENDED),
        ({"standing": Standing.SUSPENDED, "online": False}, WorkerStatus.SUSPENDED),
        ({"standing": Standing.BANNED}, WorkerStatus.BANNED),
        ({"standing": Standing.BANNED, "online": False}, WorkerStatus.BANNED),
    ],
)
def test_status(changes: dict[str, object], status: WorkerStatus) -> None:
    worker = replace(ONLINE, **changes)  # type: ignore[arg-type]
    assert worker.status is status
    assert worker.may_serve("alice") == (status is WorkerStatus.ONLINE)


def test_until_it_is_admitted_a_worker_serves_its_owner_only() -> None:
    worker = replace(ONLINE, admitted=False)
    assert worker.may_serve("bob")
    assert not worker.may_serve("alice")
