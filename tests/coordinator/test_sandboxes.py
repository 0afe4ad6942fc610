"""In which sandbox an attempt runs: what its job requires, and what the grid demands."""

import pytest

from gridx.coordinator.sessions import ControlOrder, LogReport, StartedReport
from gridx.domain.attempt import AttemptStatus, Reason
from gridx.domain.job import JobSpec, JobStatus
from gridx.domain.sandbox import Backend
from gridx.domain.user import Principal
from gridx.domain.worker import Capabilities
from tests.coordinator.driving import BACKOFF_S, GRANT, SLOT, Driver, Hand, finished


def offer(*sandboxes: str) -> Capabilities:
    return Capabilities(SLOT, sandboxes=sandboxes)


def job(sandbox: str | None = None, **more: object) -> JobSpec:
    require = {} if sandbox is None else {"sandbox": sandbox}
    return JobSpec(code="x", require=require, **more)  # type: ignore[arg-type]


async def nothing_comes(driver: Driver, hand: Hand) -> None:
    await driver.grid._dispatcher._round()
    assert hand.nothing_told()


async def test_a_job_is_told_with_the_sandbox_it_requires_and_the_grids_floor(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    await driver.restart(sandbox_at_least=Backend.BUBBLEWRAP)
    await driver.worker(bob, offer=offer("bubblewrap"))
    hand = await driver.worker(bob, offer=offer("gvisor", "bubblewrap"))
    submitted = await driver.submit(alice, job("gvisor"))
    attempt = await hand.attempt()
    assert attempt.spec.require == {"sandbox": "gvisor"}
    assert attempt.sandbox_at_least is Backend.BUBBLEWRAP
    assert (await driver.job(alice, submitted.job_id)).attempts[0].started_at is None
    await hand.report(StartedReport(attempt.key, None), finished(attempt.key))
    await hand.told("ack", attempt.key)
    whole = await driver.final(alice, submitted.job_id)
    assert [each.sandbox for each in whole.attempts] == ["gvisor"]


async def test_a_worker_below_the_floor_serves_its_owner_and_is_told_so(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    await driver.restart(sandbox_at_least=Backend.BUBBLEWRAP)
    await driver.submit(alice)
    hand = await driver.worker(bob, offer=offer("docker"))
    told = await hand.next()
    assert isinstance(told, ControlOrder)
    assert told.text is not None
    assert "bubblewrap" in told.text
    assert not (await driver.grid.workers.get(bob, hand.worker_id)).serves_others
    await nothing_comes(driver, hand)
    await driver.submit(bob)
    attempt = await hand.attempt()
    assert attempt.sandbox_at_least is Backend.NONE
    await hand.report(StartedReport(attempt.key, "docker"), finished(attempt.key))
    await hand.told("ack", attempt.key)


@pytest.mark.parametrize("sandbox", [None, "none"])
async def test_nobody_elses_job_runs_unsandboxed(
    driver: Driver, alice: Principal, bob: Principal, sandbox: str | None
) -> None:
    hand = await driver.worker(bob, offer=offer("none"))
    assert isinstance(await hand.next(), ControlOrder)
    await driver.submit(alice, job(sandbox))
    await nothing_comes(driver, hand)
    await driver.submit(bob, job(sandbox))
    assert (await hand.attempt()).sandbox_at_least is Backend.NONE


async def test_an_administrator_may_allow_it(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    await driver.restart(sandbox_at_least=Backend.NONE)
    hand = await driver.worker(bob, offer=offer("none"))
    assert (await driver.grid.workers.get(bob, hand.worker_id)).serves_others
    submitted = await driver.submit(alice)
    attempt = await hand.attempt()
    await hand.report(StartedReport(attempt.key, "none"), finished(attempt.key))
    await hand.told("ack", attempt.key)
    assert (await driver.final(alice, submitted.job_id)).attempts[0].sandbox == "none"


@pytest.mark.parametrize(
    "case",
    [
        (Backend.DOCKER, None, "none"),
        (Backend.BUBBLEWRAP, None, "docker"),
        (Backend.BUBBLEWRAP, None, None),
        (Backend.DOCKER, "gvisor", "bubblewrap"),
    ],
)
async def test_a_start_in_a_weaker_sandbox_is_a_broken_one(
    driver: Driver,
    alice: Principal,
    bob: Principal,
    case: tuple[Backend, str | None, str | None],
) -> None:
    floor, wanted, said = case
    await driver.restart(sandbox_at_least=floor)
    hand = await driver.worker(bob, offer=offer("gvisor", "bubblewrap"))
    submitted = await driver.submit(alice, job(wanted, max_attempts=1))
    key = (await hand.attempt()).key
    await hand.report(
        StartedReport(key, said), LogReport(key, 0, "stdout", b"hello"), finished(key)
    )
    whole = await driver.final(alice, submitted.job_id)
    assert (whole.job.status, whole.job.reason) == (JobStatus.FAILED, Reason.SANDBOX_ERROR)
    assert (whole.job.cost, whole.stdout) == (0, b"")
    assert await driver.available(alice) == GRANT
    assert await driver.available(bob) == GRANT
    await hand.told("take_back", key)
    assert (await driver.grid.workers.get(bob, hand.worker_id)).free == SLOT


async def test_it_is_tried_again_elsewhere(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hand = await driver.worker(bob, offer=offer("bubblewrap"))
    submitted = await driver.submit(alice)
    first = (await hand.attempt()).key
    await hand.report(StartedReport(first, "none"))
    await hand.told("take_back", first)
    driver.clock.advance(BACKOFF_S)
    second = await hand.attempt()
    await hand.run(second)
    whole = await driver.final(alice, submitted.job_id)
    assert [each.status for each in whole.attempts] == [
        AttemptStatus.FAILED,
        AttemptStatus.SUCCEEDED,
    ]


async def test_an_end_without_a_start_does_not_pass_below_the_floor(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    await driver.restart(sandbox_at_least=Backend.GVISOR)
    hand = await driver.worker(bob, offer=offer("gvisor"))
    submitted = await driver.submit(alice, job(max_attempts=1))
    key = (await hand.attempt()).key
    await hand.report(finished(key))
    await hand.told("ack", key)
    whole = await driver.final(alice, submitted.job_id)
    assert (whole.job.reason, whole.job.cost) == (Reason.SANDBOX_ERROR, 0)
