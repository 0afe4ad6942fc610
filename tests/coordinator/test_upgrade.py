"""A database of the first schema, with rows in every table: it is migrated, and the grid goes on."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gridx.clock import ManualClock
from gridx.coordinator.grid import verify_store
from gridx.domain.attempt import AttemptStatus
from gridx.domain.job import JobStatus
from gridx.domain.policy import Policy
from gridx.storage.dialect import make_engine
from gridx.storage.schema import HEAD, version_of
from tests.coordinator.driving import BACKOFF_S, Driver
from tests.support import first_rows
from tests.support.first_rows import AT, COST, DONE, FAILED, GRANT, HOLD, RUNNING, SECRET, WAITING


@pytest.fixture
async def driver(empty_database_url: str) -> AsyncGenerator[Driver]:
    """A grid on a database that was made by the first version, a minute after its last word."""

    def prepare() -> None:
        engine = make_engine(empty_database_url, 1)
        first_rows.fill(engine)
        engine.dispose()

    await asyncio.to_thread(prepare)
    driver = Driver(
        Policy(storage_url=empty_database_url, readers=2), ManualClock(start=AT + 60_000_000)
    )
    await driver.open()
    yield driver
    await driver.finish()


async def test_an_old_grid_goes_on(driver: Driver) -> None:
    alice = await driver.grid.users.authenticate(SECRET)
    done = await driver.job(alice, DONE)
    assert (done.job.status, done.job.cost, done.stdout) == (
        JobStatus.SUCCEEDED, COST, b"of the first days\n",
    )  # fmt: skip
    olive = await driver.login("olive")
    hand = await driver.worker(olive, slots=4)
    # What waited is placed; what ran on a machine that is gone runs again after its lease.
    first = await hand.attempt()
    assert first.key.job_id == WAITING
    await hand.run(first, wall_s=2)
    driver.clock.advance(29)
    await hand.heartbeat()
    driver.clock.advance(2)
    await driver.grid._reaper.tick()
    driver.clock.advance(BACKOFF_S)
    again = await hand.attempt()
    assert (again.key.job_id, again.key.attempt) == (RUNNING, 2)
    await hand.run(again, wall_s=2)
    for job_id in (WAITING, RUNNING):
        assert (await driver.final(alice, job_id)).job.status is JobStatus.SUCCEEDED
    assert (await driver.job(alice, RUNNING)).attempts[0].status is AttemptStatus.LOST
    assert await driver.available(alice) == GRANT - 3 * COST
    new = await driver.submit(alice)
    assert new.held == HOLD
    bob = await driver.login("bob")
    assert (await driver.job(bob, FAILED)).job.status is JobStatus.FAILED
    statement = await driver.grid.accounts.statement(bob, "bob", 10, None)
    assert [line.job_id for line in statement.items] == [FAILED, FAILED, None]


async def test_it_is_at_this_versions_schema_and_its_ledger_is_exact(driver: Driver) -> None:
    def look() -> str | None:
        engine = make_engine(driver.policy.storage_url, 1)
        with engine.connect() as connection:
            version = version_of(connection)
        engine.dispose()
        return version

    assert await asyncio.to_thread(look) == HEAD
    verified = await asyncio.to_thread(verify_store, driver.policy)
    assert (verified.ok, verified.transfers, verified.holds) == (True, 10, 4), verified.differences
