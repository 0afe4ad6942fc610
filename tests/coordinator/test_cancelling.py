"""Cancelling a job at every moment of its life."""

import asyncio

import pytest

from gridx.coordinator.jobs import Cancelled
from gridx.coordinator.sessions import LeaseKey, StartedReport
from gridx.coordinator.workers import AWAY_WAIT_S, CANCEL_DEADLINE_S
from gridx.domain.attempt import AttemptStatus, Reason
from gridx.domain.errors import Conflict, Denied, NotFound, Unavailable
from gridx.domain.job import JobSpec, JobStatus
from gridx.domain.user import Principal
from tests.coordinator.driving import GRANT, HOLD, Driver, Hand, finished

CANCELLED, RUNNING = JobStatus.CANCELLED, JobStatus.RUNNING


async def cancel(driver: Driver, who: Principal, job_id: str) -> Cancelled:
    return await driver.grid.jobs.cancel(who, job_id)


async def ended(driver: Driver, who: Principal, job_id: str, cost: int) -> None:
    """The job is cancelled and cost this much."""
    whole = await driver.final(who, job_id)
    assert (whole.job.status, whole.job.cost, whole.job.reason) == (CANCELLED, cost, None)
    assert whole.receipt is not None
    assert (whole.receipt.fault, whole.receipt.cost) == ("submitter", cost)
    assert (await driver.balance(who)).held == 0


async def test_a_job_that_waits_is_cancelled_at_once_and_free(
    driver: Driver, alice: Principal
) -> None:
    job_id = (await driver.submit(alice)).job_id
    assert await cancel(driver, alice, job_id) == Cancelled(job_id, CANCELLED, False)
    await ended(driver, alice, job_id, 0)
    assert await driver.available(alice) == GRANT


async def test_a_job_that_is_assigned_is_cancelled_at_once_and_free(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    job_id = (await driver.submit(alice)).job_id
    hand = await driver.worker(bob)
    attempt = await hand.attempt()
    assert (await cancel(driver, alice, job_id)).status is CANCELLED
    await hand.told("take_back", attempt.key)
    await ended(driver, alice, job_id, 0)
    # A `started`, or even a result, that comes later changes nothing.
    await hand.report(StartedReport(attempt.key, "x"))
    await hand.told("drop", attempt.key)
    await hand.report(finished(attempt.key))
    await hand.told("drop", attempt.key)
    await ended(driver, alice, job_id, 0)
    (tried,) = (await driver.job(alice, job_id)).attempts
    assert (tried.status, tried.counted) == (AttemptStatus.CANCELLED, False)
    # Its room is free again.
    await driver.submit(alice)
    await hand.run(await hand.attempt())


async def running(driver: Driver, alice: Principal, bob: Principal) -> tuple[str, Hand]:
    """A job that runs on a worker of bob's."""
    job_id = (await driver.submit(alice)).job_id
    return job_id, await driver.worker(bob)


async def told_to_cancel(
    driver: Driver, alice: Principal, bob: Principal, after_s: float = 0.0
) -> tuple[str, Hand, LeaseKey]:
    """A job whose worker is told to cancel it, when it has run so long."""
    job_id, hand = await running(driver, alice, bob)
    attempt = await hand.attempt()
    await hand.start(attempt)
    driver.clock.advance(after_s)
    await cancel(driver, alice, job_id)
    await hand.told("cancel", attempt.key)
    return job_id, hand, attempt.key


async def test_a_job_that_runs_is_cancelled_by_its_worker_and_billed(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    job_id, hand = await running(driver, alice, bob)
    attempt = await hand.attempt()
    await hand.start(attempt)
    driver.clock.advance(2)
    assert await cancel(driver, alice, job_id) == Cancelled(job_id, RUNNING, True)
    await hand.told("cancel", attempt.key)
    assert (await driver.job(alice, job_id)).job.cancel_requested
    await hand.report(finished(attempt.key, 2, reason=Reason.CANCELLED, exit_code=None))
    await hand.told("ack", attempt.key)
    await ended(driver, alice, job_id, 21_250)
    assert await driver.available(bob) == GRANT + 18_062


async def test_the_grace_after_a_cancel_is_nobodys_to_bill(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    job_id, hand, key = await told_to_cancel(driver, alice, bob, 2)
    driver.clock.advance(4)
    await hand.report(finished(key, 6, reason=Reason.CANCELLED, exit_code=None))
    await hand.told("ack", key)
    await ended(driver, alice, job_id, 21_250)


async def test_a_worker_that_does_not_cancel_in_time_loses_the_job_unpaid(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    assert CANCEL_DEADLINE_S < 7
    job_id, hand, key = await told_to_cancel(driver, alice, bob)
    await asyncio.sleep(0)  # the deadline begins to run
    driver.clock.advance(CANCEL_DEADLINE_S)
    await hand.told("drop", key)
    await ended(driver, alice, job_id, 0)
    await hand.report(finished(key))
    await hand.told("drop", key)
    assert await driver.available(bob) == GRANT


async def test_the_deadline_of_a_cancel_outlives_a_store_that_is_away(
    driver: Driver, alice: Principal, bob: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, hand = await running(driver, alice, bob)
    attempt = await hand.attempt()
    await hand.start(attempt)
    tried = asyncio.Event()

    async def away(*_arguments: object, **_named: object) -> None:
        tried.set()
        raise Unavailable("away")

    monkeypatch.setattr(driver.grid.workers, "_lose", away)
    await cancel(driver, alice, job_id)
    await hand.told("cancel", attempt.key)
    await asyncio.sleep(0)  # the deadline begins to run
    driver.clock.advance(CANCEL_DEADLINE_S)
    await asyncio.wait_for(tried.wait(), 10)
    monkeypatch.undo()
    driver.clock.advance(AWAY_WAIT_S)
    await hand.told("drop", attempt.key)
    await ended(driver, alice, job_id, 0)


async def test_a_job_whose_worker_is_away_is_cancelled_when_its_lease_ends(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    job_id, hand = await running(driver, alice, bob)
    await hand.start(await hand.attempt())
    await hand.gone()
    assert (await cancel(driver, alice, job_id)).cancel_requested
    driver.clock.advance(driver.policy.lease_s + 1)
    await driver.grid._reaper.tick()  # its own loop may be in the middle of a look, and sleep then
    await ended(driver, alice, job_id, 0)


async def test_a_worker_that_comes_back_is_told_to_cancel(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    job_id, hand = await running(driver, alice, bob)
    attempt = await hand.attempt()
    await hand.start(attempt)
    token = await driver.token_of(hand)
    await hand.gone()
    await cancel(driver, alice, job_id)
    back = await driver.worker(token, running=[attempt.key])
    await back.told("cancel", attempt.key)
    await back.report(finished(attempt.key, 0, reason=Reason.CANCELLED, exit_code=None))
    await back.told("ack", attempt.key)
    await ended(driver, alice, job_id, 5_000)


async def test_a_success_that_was_committed_wins(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    job_id, hand = await running(driver, alice, bob)
    await hand.run(await hand.attempt())
    with pytest.raises(Conflict, match="succeeded"):
        await cancel(driver, alice, job_id)
    assert (await driver.job(alice, job_id)).job.status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("exit_code", [0, 1])
async def test_a_result_that_comes_after_the_cancel_is_a_cancel(
    driver: Driver, alice: Principal, bob: Principal, exit_code: int
) -> None:
    job_id, hand, key = await told_to_cancel(driver, alice, bob, 1)
    await hand.report(finished(key, exit_code=exit_code))
    await hand.told("ack", key)
    await ended(driver, alice, job_id, 10_625)


async def test_a_cancel_while_the_result_is_in_flight_is_one_or_the_other(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hand = await driver.worker(bob, slots=20)
    batch = await driver.grid.jobs.submit_batch(alice, [JobSpec(code="x")] * 20, None, None)
    attempts = await hand.attempts(20)
    for attempt in attempts:
        await hand.report(StartedReport(attempt.key, "x"))
    await hand.settled()
    driver.clock.advance(1)
    answers = await asyncio.gather(
        *(hand.report(finished(attempt.key)) for attempt in attempts[::2]),
        *(cancel(driver, alice, job_id) for job_id in batch.job_ids),
        *(hand.report(finished(attempt.key)) for attempt in attempts[1::2]),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, Conflict)]
    ends = [(await driver.final(alice, job_id)).job for job_id in batch.job_ids]
    succeeded = [job for job in ends if job.status is JobStatus.SUCCEEDED]
    assert len(refused) == len(succeeded)
    assert {job.status for job in ends} <= {JobStatus.SUCCEEDED, CANCELLED}
    assert [job.cost for job in ends] == [10_625] * 20


async def test_a_job_with_its_cancel_requested_never_waits_again(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    job_id, hand, key = await told_to_cancel(driver, alice, bob)
    await hand.report(finished(key, reason=Reason.SANDBOX_ERROR, exit_code=None))
    await hand.told("ack", key)
    await ended(driver, alice, job_id, 0)


async def test_a_second_cancel_changes_nothing(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    job_id, hand = await running(driver, alice, bob)
    attempt = await hand.attempt()
    await hand.start(attempt)
    tasks = len(driver.grid._tasks)
    for _ in range(3):
        assert await cancel(driver, alice, job_id) == Cancelled(job_id, RUNNING, True)
    await hand.told("cancel", attempt.key)
    assert hand.nothing_told()
    assert len(driver.grid._tasks) == tasks + 1
    await hand.report(finished(attempt.key, 0, reason=Reason.CANCELLED, exit_code=None))
    await hand.told("ack", attempt.key)
    with pytest.raises(Conflict, match="cancelled already"):
        await cancel(driver, alice, job_id)


async def test_a_cancel_that_was_stored_unseen_is_told_when_it_is_asked_for_again(
    driver: Driver, alice: Principal, bob: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database went away after the commit: the submitter got 503, and asks again."""
    job_id, hand = await running(driver, alice, bob)
    attempt = await hand.attempt()
    await hand.start(attempt)
    with monkeypatch.context() as patch:
        patch.setattr(driver.grid.jobs, "_committed", bool)
        await cancel(driver, alice, job_id)
    assert hand.nothing_told()
    await cancel(driver, alice, job_id)
    await hand.told("cancel", attempt.key)
    await hand.report(finished(attempt.key, 1, reason=Reason.CANCELLED, exit_code=None))
    await hand.told("ack", attempt.key)
    assert (await driver.final(alice, job_id)).job.status is CANCELLED


async def test_only_the_submitter_and_administrators_cancel(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal
) -> None:
    job_id = (await driver.submit(alice)).job_id
    with pytest.raises(Denied):
        await cancel(driver, bob, job_id)
    with pytest.raises(NotFound):
        await cancel(driver, bob, driver.clock.new_id())
    assert (await cancel(driver, admin, job_id)).status is CANCELLED


# ------------------------------------------------------------------ batches


async def test_a_batch_is_cancelled_whatever_each_job_does(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hand = await driver.worker(bob, slots=3)
    batch = await driver.grid.jobs.submit_batch(alice, [JobSpec(code="x")] * 5, None, None)
    done, runs, assigned = await hand.attempts(3)
    await driver.grid.workers.pause(bob, hand.worker_id)
    await hand.next()
    await hand.run(done, wall_s=0)
    await hand.start(runs)
    assert await driver.grid.jobs.cancel_batch(alice, batch.batch_id) == 4
    assert {(await hand.next()).kind for _ in range(2)} == {"cancel", "take_back"}  # type: ignore[union-attr]
    assert await driver.grid.jobs.cancel_batch(alice, batch.batch_id) == 0
    await hand.report(finished(runs.key, 0, reason=Reason.CANCELLED, exit_code=None))
    ends = [(await driver.final(alice, job_id)).job.status for job_id in batch.job_ids]
    assert sorted(ends) == sorted([JobStatus.SUCCEEDED, *[CANCELLED] * 4])
    assert assigned.key.job_id in batch.job_ids
    assert (await driver.balance(alice)).held == 0


async def test_anothers_batch_is_none(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal
) -> None:
    batch = await driver.grid.jobs.submit_batch(alice, [JobSpec(code="x")] * 3, None, None)
    for who, batch_id in ((bob, batch.batch_id), (alice, driver.clock.new_id())):
        with pytest.raises(NotFound):
            await driver.grid.jobs.cancel_batch(who, batch_id)
    assert (await driver.balance(alice)).held == 3 * HOLD
    assert await driver.grid.jobs.cancel_batch(admin, batch.batch_id) == 3
