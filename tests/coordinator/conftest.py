"""A grid of the test's own, on each kind of database; after each test its ledger is verified."""

from collections.abc import AsyncGenerator, Generator

import pytest
import structlog

from gridx.clock import ManualClock
from gridx.domain.policy import Policy
from gridx.domain.user import Principal
from tests.coordinator.driving import GRANT, Driver, Hand


@pytest.fixture(scope="package", autouse=True)
def short_tracebacks() -> Generator[None]:
    """Logs as plain lines: a picture of every local variable takes seconds to draw."""
    structlog.configure(
        processors=[
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(bool_as_flag=False),
        ]
    )
    yield
    structlog.reset_defaults()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(autouse=True)
async def driver(database_url: str, clock: ManualClock) -> AsyncGenerator[Driver]:
    """An open grid; when the test is over it is closed and its ledger must be exact."""
    policy = Policy(storage_url=database_url, initial_grant=GRANT, readers=2)
    driver = Driver(policy, clock)
    await driver.open()
    yield driver
    await driver.finish()


@pytest.fixture
async def alice(driver: Driver) -> Principal:
    """A submitter."""
    return await driver.user("alice")


@pytest.fixture
async def bob(driver: Driver) -> Principal:
    """An owner of workers."""
    return await driver.user("bob")


@pytest.fixture
async def hand(driver: Driver, bob: Principal) -> Hand:
    """A worker of his."""
    return await driver.worker(bob)


@pytest.fixture
async def admin(driver: Driver) -> Principal:
    return await driver.admin()
