"""The times of a job: not before one, given up at another, over restarts and replays."""

import asyncio

import pytest

from gridx.clock import MICROSECONDS
from gridx.coordinator.idempotency import IdempotencyKey
from gridx.coordinator.sessions import StartedReport
from gridx.domain.attempt import AttemptStatus, Reason
from gridx.domain.errors import InvalidInput
from gridx.domain.job import JobSpec, JobStatus
from gridx.domain.user import Principal
from tests.coordinator.driving import BACKOFF_S, GRANT, PATIENCE_S, Driver, finished


def timed(
    driver: Driver, *, not_before_s: float | None = None, deadline_s: float | None = None
) -> JobSpec:
    """A job with times so many seconds from now."""
    now = driver.clock.now()
    at = [None if s is None else now + round(s * MICROSECONDS) for s in (not_before_s, deadline_s)]
    return JobSpec(code="x", not_before=at[0], deadline=at[1])


async def expired(driver: Driver, who: Principal, job_id: str) -> None:
    """The job has failed as expired, and cost nothing.

    One look may skip it: whoever else is at it just then has it locked on PostgreSQL.
    """
    async with asyncio.timeout(PATIENCE_S):
        while not (await driver.job(who, job_id)).job.status.final:
            await driver.grid._reaper.tick()
    whole = await driver.job(who, job_id)
    assert (whole.job.status, whole.job.reason) == (JobStatus.FAILED, Reason.EXPIRED)
    assert whole.job.cost == 0
    assert await driver.available(who) == GRANT


# ------------------------------------------------------------------ not before


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_job_is_held_back_until_its_time(
    driver: Driver, alice: Principal, bob: Principal, restarted: bool
) -> None:
    job_id = (await driver.submit(alice, timed(driver, not_before_s=20))).job_id
    if restarted:
        await driver.restart()
    hand = await driver.worker(bob)
    driver.clock.advance(19)
    await driver.grid._delays._move_due()
    await driver.grid._dispatcher._round()
    assert hand.nothing_told()
    assert (await driver.job(alice, job_id)).job.status is JobStatus.QUEUED
    driver.clock.advance(1)
    assert (await hand.attempt()).key.job_id == job_id


async def test_the_first_that_is_due_cuts_the_wait_short(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hand = await driver.worker(bob, slots=2)
    late = (await driver.submit(alice, timed(driver, not_before_s=9))).job_id
    soon = (await driver.submit(alice, timed(driver, not_before_s=3))).job_id
    driver.clock.advance(3)
    assert (await hand.attempt()).key.job_id == soon
    driver.clock.advance(6)
    assert (await hand.attempt()).key.job_id == late


async def test_a_time_that_has_passed_holds_nothing_back(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hand = await driver.worker(bob)
    job_id = (await driver.submit(alice, timed(driver, not_before_s=-5))).job_id
    assert (await hand.attempt()).key.job_id == job_id


async def test_being_held_back_is_not_waiting_for_a_worker(
    driver: Driver, alice: Principal
) -> None:
    await driver.restart(queue_age_s=100.0)
    spec = timed(driver, not_before_s=500)
    job_id = (await driver.submit(alice, spec)).job_id
    driver.clock.advance(499)
    await driver.grid._reaper.tick()
    assert (await driver.job(alice, job_id)).job.status is JobStatus.QUEUED
    driver.clock.advance(2)
    await driver.grid._delays._move_due()
    await driver.grid._reaper.tick()
    assert (await driver.job(alice, job_id)).job.status is JobStatus.QUEUED
    driver.clock.advance(100)
    await expired(driver, alice, job_id)


async def test_a_job_that_is_held_back_is_cancelled_at_once(
    driver: Driver, alice: Principal
) -> None:
    job_id = (await driver.submit(alice, timed(driver, not_before_s=500))).job_id
    assert (await driver.grid.jobs.cancel(alice, job_id)).status is JobStatus.CANCELLED
    driver.clock.advance(501)
    await driver.grid._delays._move_due()
    assert (await driver.job(alice, job_id)).job.status is JobStatus.CANCELLED
    assert await driver.available(alice) == GRANT


# ------------------------------------------------------------------ deadline


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_job_that_has_not_begun_by_its_deadline_expires(
    driver: Driver, alice: Principal, restarted: bool
) -> None:
    specs = [timed(driver, deadline_s=20), timed(driver, not_before_s=15, deadline_s=20)]
    ids = [(await driver.submit(alice, spec)).job_id for spec in specs]
    if restarted:
        await driver.restart()
    driver.clock.advance(19)
    await driver.grid._reaper.tick()
    for job_id in ids:
        assert (await driver.job(alice, job_id)).job.status is JobStatus.QUEUED
    driver.clock.advance(1)
    for job_id in ids:
        await expired(driver, alice, job_id)


async def test_one_that_is_only_assigned_is_taken_back(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hand = await driver.worker(bob)
    job_id = (await driver.submit(alice, timed(driver, deadline_s=20))).job_id
    attempt = await hand.attempt()
    driver.clock.advance(20)
    await expired(driver, alice, job_id)
    await hand.told("take_back", attempt.key)
    await hand.report(StartedReport(attempt.key, "x"), finished(attempt.key))
    await hand.told("drop", attempt.key)
    await hand.told("drop", attempt.key)
    whole = await driver.job(alice, job_id)
    assert [a.status for a in whole.attempts] == [AttemptStatus.CANCELLED]


async def test_one_that_runs_never_expires(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hand = await driver.worker(bob)
    job_id = (await driver.submit(alice, timed(driver, deadline_s=5))).job_id
    await hand.start(attempt := await hand.attempt())
    driver.clock.advance(10)
    await driver.grid._reaper.tick()
    await hand.report(finished(attempt.key, 10))
    await hand.told("ack", attempt.key)
    assert (await driver.final(alice, job_id)).job.status is JobStatus.SUCCEEDED


async def test_one_that_is_to_be_tried_again_expires(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hand = await driver.worker(bob)
    job_id = (await driver.submit(alice, timed(driver, deadline_s=5))).job_id
    await hand.run(await hand.attempt(), reason=Reason.SANDBOX_ERROR, exit_code=None)
    driver.clock.advance(BACKOFF_S)
    await expired(driver, alice, job_id)
    await driver.grid._dispatcher._round()
    assert hand.nothing_told()


async def test_it_is_not_placed_past_its_deadline(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    job_id = (await driver.submit(alice, timed(driver, deadline_s=1.5))).job_id
    driver.clock.jump(2)
    hand = await driver.worker(bob)
    await driver.grid._dispatcher._round()
    assert hand.nothing_told()
    await expired(driver, alice, job_id)


async def test_a_deadline_in_the_past_is_refused_and_costs_nothing(
    driver: Driver, alice: Principal
) -> None:
    for now_s in (0.0, -1.0):
        with pytest.raises(InvalidInput) as refused:
            await driver.submit(alice, timed(driver, deadline_s=now_s))
        assert refused.value.details[0].field == "deadline"
    specs = [JobSpec(code="x"), timed(driver, deadline_s=-1)]
    with pytest.raises(InvalidInput) as refused:
        await driver.grid.jobs.submit_batch(alice, specs, None, None)
    assert refused.value.details[0].field == "jobs.1.deadline"
    assert await driver.available(alice) == GRANT


async def test_a_submission_that_is_repeated_past_the_deadline_is_answered_as_before(
    driver: Driver, alice: Principal
) -> None:
    spec, key = timed(driver, deadline_s=5), IdempotencyKey("alice", "/jobs", "k", "b")
    first = await driver.grid.jobs.submit(alice, spec, None, key, None)
    driver.clock.advance(6)
    assert await driver.grid.jobs.submit(alice, spec, None, key, None) == first
    await expired(driver, alice, first.job_id)


async def test_a_retry_leaves_out_what_has_passed(driver: Driver, alice: Principal) -> None:
    spec = timed(driver, not_before_s=1, deadline_s=5)
    job_id = (await driver.submit(alice, spec)).job_id
    driver.clock.advance(6)
    await expired(driver, alice, job_id)
    again = await driver.grid.jobs.retry(alice, job_id, None)
    found = (await driver.job(alice, again.job_id)).job.spec
    assert (found.not_before, found.deadline) == (None, None)
