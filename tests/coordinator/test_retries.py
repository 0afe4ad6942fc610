"""Trying again: on another worker, after a pause, not for ever; and workers that fail everything."""

import asyncio
from collections.abc import Sequence

import pytest

from gridx.clock import MICROSECONDS, ManualClock
from gridx.coordinator.grid import Grid
from gridx.coordinator.sessions import (
    ControlOrder,
    Greeting,
    HeartbeatReport,
    LeaseKey,
    StateReport,
)
from gridx.coordinator.workers import SET_ASIDE_S
from gridx.domain.attempt import AttemptStatus, Reason
from gridx.domain.job import JobSpec, JobStatus
from gridx.domain.policy import Policy
from gridx.domain.resources import NOTHING
from gridx.domain.user import Principal
from gridx.domain.worker import Capabilities, WorkerStatus
from tests.coordinator.driving import BACKOFF_S, GRANT, PATIENCE_S, SLOT, Driver, Hand
from tests.support.postgres import PostgresServer

BROKEN = {"reason": Reason.SANDBOX_ERROR, "exit_code": None}


async def fail(driver: Driver, hand: Hand) -> LeaseKey:
    """The next attempt of this worker cannot be run there."""
    attempt = await hand.attempt()
    await hand.run(attempt, **BROKEN)  # type: ignore[arg-type]
    return attempt.key


async def status(driver: Driver, who: Principal, hand: Hand) -> WorkerStatus:
    return (await driver.grid.workers.get(who, hand.worker_id)).worker.status


# ------------------------------------------------------------------ on another worker


async def test_what_a_worker_could_not_run_goes_to_another(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    job_id = (await driver.submit(alice)).job_id
    await fail(driver, hand)
    other = await driver.worker(bob)
    driver.clock.advance(BACKOFF_S)
    await other.run(await other.attempt())
    whole = await driver.final(alice, job_id)
    assert [a.worker_id for a in whole.attempts] == [hand.worker_id, other.worker_id]
    assert hand.nothing_told()
    assert [a.billed_us for a in whole.attempts] == [0, 1_000_000]


async def test_it_waits_for_the_other_even_while_that_is_busy(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    job_id = (await driver.submit(alice)).job_id
    first = await hand.attempt()
    other = await driver.worker(bob)
    await driver.submit(alice, JobSpec(code="long"))
    busy = await other.attempt()
    await other.start(busy)
    await hand.run(first, **BROKEN)  # type: ignore[arg-type]
    driver.clock.advance(BACKOFF_S)
    await driver.submit(alice, JobSpec(code="next"))
    nearby = await hand.attempt()
    assert nearby.spec.code == "next", "others pass it by"
    await hand.run(nearby)
    await driver.grid._dispatcher._round()
    assert hand.nothing_told()
    await other.run(busy)
    assert (await other.attempt()).key.job_id == job_id


async def test_a_clock_that_was_ahead_holds_no_retry_back(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    job_id = (await driver.submit(alice)).job_id
    driver.clock.jump(3_600.0)
    await fail(driver, hand)
    driver.clock.jump(-3_600.0)
    await driver.grid._reaper.tick()  # sees the jump, and trusts no silence for a lease's time
    for _ in range(4):
        driver.clock.advance(10)
        await hand.heartbeat()
        await driver.grid._reaper.tick()
    await driver.grid._delays._move_due()
    await hand.run(await hand.attempt())
    assert (await driver.final(alice, job_id)).job.status is JobStatus.SUCCEEDED


async def test_where_there_is_no_other_it_comes_back_after_a_pause(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    job_id = (await driver.submit(alice)).job_id
    for pause_s in (0.5, 1.0):
        await fail(driver, hand)
        driver.clock.advance(pause_s - 0.01)
        await driver.grid._delays._move_due()
        await driver.grid._dispatcher._round()
        assert hand.nothing_told()
        assert (await driver.job(alice, job_id)).job.status is JobStatus.QUEUED
        driver.clock.advance(pause_s + 0.02)
    await hand.run(await hand.attempt())
    assert (await driver.final(alice, job_id)).job.status is JobStatus.SUCCEEDED


async def test_a_program_that_fails_is_tried_again_after_a_pause_where_that_was_asked_for(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    spec = JobSpec(code="x", retry_on_failure=True, max_attempts=3)
    job_id = (await driver.submit(alice, spec)).job_id
    for _ in range(2):
        await hand.run(await hand.attempt(), exit_code=7)
        await driver.grid._dispatcher._round()
        assert hand.nothing_told()
        driver.clock.advance(BACKOFF_S)
    await hand.run(await hand.attempt(), exit_code=7)
    whole = await driver.final(alice, job_id)
    assert (whole.job.reason, whole.job.exit_code) == (Reason.EXIT_CODE, 7)
    assert whole.job.cost == 3 * 10_625
    assert whole.receipt is not None
    assert whole.receipt.fault == "submitter"


async def test_a_pause_outlives_the_coordinator(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    job_id = (await driver.submit(alice)).job_id
    token = await driver.token_of(hand)
    await fail(driver, hand)
    await driver.restart()
    back = await driver.worker(token)
    await driver.grid._dispatcher._round()
    assert back.nothing_told()
    driver.clock.advance(BACKOFF_S)
    await back.run(await back.attempt())
    assert (await driver.final(alice, job_id)).job.status is JobStatus.SUCCEEDED


async def test_a_cancel_does_not_wait_for_the_pause(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    job_id = (await driver.submit(alice)).job_id
    await fail(driver, hand)
    cancelled = await driver.grid.jobs.cancel(alice, job_id)
    assert cancelled.status is JobStatus.CANCELLED
    driver.clock.advance(BACKOFF_S)
    await driver.grid._delays._move_due()
    await driver.grid._dispatcher._round()
    assert hand.nothing_told()
    assert await driver.available(alice) == GRANT


async def test_a_job_that_brings_workers_down_stops_at_the_third(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    job_id = (await driver.submit(alice, JobSpec(code="x", max_attempts=20))).job_id
    for _ in range(3):
        token = await driver.token_of(hand)
        await hand.start(await hand.attempt())
        another = await driver.worker(bob)
        await hand.gone()
        await driver.worker(token)  # it does not name the lease, which is lost at once
        driver.clock.advance(BACKOFF_S)
        hand = another
    whole = await driver.final(alice, job_id)
    assert (whole.job.status, whole.job.reason) == (JobStatus.FAILED, Reason.LOST)
    assert len(whole.attempts) == 3
    assert (whole.job.cost, await driver.available(alice)) == (0, GRANT)
    assert whole.receipt is not None
    assert "on 3 different workers" in whole.receipt.why


# ------------------------------------------------------------------ workers set aside


async def set_aside(driver: Driver, alice: Principal, hand: Hand) -> None:
    """It fails five attempts in a row."""
    for number in range(5):
        await driver.submit(alice, JobSpec(code=str(number), max_attempts=1))
        await fail(driver, hand)
    told = await hand.next()
    assert isinstance(told, ControlOrder)
    assert told.kind == "broadcast"
    assert "in a row" in (told.text or "")


async def test_a_black_hole_is_set_aside_and_its_owner_told(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    await set_aside(driver, alice, hand)
    state = await driver.grid.workers.get(bob, hand.worker_id)
    assert state.worker.status is WorkerStatus.SUSPENDED
    assert "sandbox_error" in (state.why or "")
    job_id = (await driver.submit(alice)).job_id
    await driver.grid._dispatcher._round()
    assert hand.nothing_told()
    other = await driver.worker(bob)
    await other.run(await other.attempt())
    assert (await driver.final(alice, job_id)).job.status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("how", ["resume", "at the machine", "unsuspend", "time"])
async def test_it_comes_back_when_somebody_has_looked_or_after_a_time(
    *, driver: Driver, alice: Principal, bob: Principal, admin: Principal, how: str
) -> None:
    await driver.restart(lease_s=10_000.0)
    alice, bob, admin = [await driver.login(each) for each in ("alice", "bob", "admin")]
    hand = await driver.worker(bob)
    await set_aside(driver, alice, hand)
    match how:
        case "resume":
            await driver.grid.workers.resume(bob, hand.worker_id)
            assert await hand.next() == ControlOrder("resume")
        case "at the machine":
            await hand.report(StateReport(paused=False))
            await hand.settled()
        case "unsuspend":
            await driver.grid.workers.unsuspend(admin, hand.worker_id)
        case _:
            driver.clock.advance(SET_ASIDE_S - 1)
            await driver.grid._reaper.tick()
            assert await status(driver, bob, hand) is WorkerStatus.SUSPENDED
            driver.clock.advance(2)
    async with asyncio.timeout(PATIENCE_S):
        while await status(driver, bob, hand) is not WorkerStatus.ONLINE:
            await driver.grid._reaper.tick()  # its own loop may be at it as well
    await driver.submit(alice, JobSpec(code="again", max_attempts=1))
    await fail(driver, hand)
    if how == "time":  # nobody looked: one more failure is enough
        assert isinstance(await hand.next(), ControlOrder)
        assert await status(driver, bob, hand) is WorkerStatus.SUSPENDED
    else:
        await driver.submit(alice)
        await hand.run(await hand.attempt())


async def test_it_is_still_set_aside_when_it_comes_back(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    token = await driver.token_of(hand)
    await set_aside(driver, alice, hand)
    await hand.gone()
    await driver.restart()
    back = await driver.worker(token)
    told = await back.next()
    assert isinstance(told, ControlOrder)
    assert "gets no work" in (told.text or "")
    assert await status(driver, bob, back) is WorkerStatus.SUSPENDED
    await back.gone()
    driver.clock.advance(SET_ASIDE_S)
    assert await status(driver, bob, await driver.worker(token)) is WorkerStatus.ONLINE


async def test_a_worker_that_dies_of_each_attempt_is_set_aside(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    token = await driver.token_of(hand)
    for _ in range(5):
        await driver.submit(alice, JobSpec(code="x", max_attempts=1))
        await hand.start(await hand.attempt())
        await hand.gone()
        hand = await driver.worker(token)
    assert isinstance(await hand.next(), ControlOrder)
    assert await status(driver, bob, hand) is WorkerStatus.SUSPENDED


# ------------------------------------------------------------------ leases tied to the attempt


async def test_a_worker_that_says_running_for_ever_loses_the_attempt(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    job_id = (await driver.submit(alice)).job_id
    key = (attempt := await hand.attempt()).key
    await hand.start(attempt)
    limit_s = attempt.limit_us / MICROSECONDS
    for _ in range(int(limit_s + driver.policy.lease_s + 15) // 5):
        driver.clock.advance(5)
        await hand.heartbeat(key)
        await driver.grid._reaper.tick()
        assert (await driver.job(alice, job_id)).job.status is JobStatus.RUNNING
    other = await driver.worker(bob)
    driver.clock.advance(5)
    await hand.heartbeat(key)
    await driver.grid._reaper.tick()
    await hand.told("drop", key)
    await other.run(await other.attempt())
    whole = await driver.final(alice, job_id)
    assert [a.status for a in whole.attempts] == [AttemptStatus.LOST, AttemptStatus.SUCCEEDED]
    assert whole.attempts[0].billed_us == 0


async def test_an_attempt_that_is_never_begun_is_taken_from_its_worker(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    await driver.submit(alice)
    key = (await hand.attempt()).key
    for _ in range(22):
        driver.clock.advance(5)
        await hand.heartbeat(key)
        await driver.grid._reaper.tick()
    await hand.told("take_back", key)


# ------------------------------------------------------------------ a worker without room


async def test_a_worker_that_has_nothing_free_gets_nothing(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    full = await driver.worker(bob, slots=2)
    await full.report(HeartbeatReport(NOTHING, 0.1, ()))
    job_id = (await driver.submit(alice)).job_id
    await driver.grid._dispatcher._round()
    assert full.nothing_told()
    state = await driver.grid.workers.get(bob, full.worker_id)
    assert state.free == NOTHING
    assert "withholds 2 cpus" in (state.why or "")
    await full.report(HeartbeatReport(SLOT.times(2), 0.1, ()))
    await driver.grid._dispatcher._round()
    assert (await full.attempt()).key.job_id == job_id
    assert (await driver.grid.workers.get(bob, full.worker_id)).why is None


async def test_what_its_attempts_take_is_not_withheld(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hand = await driver.worker(bob, slots=3)
    await driver.submit(alice)
    await hand.start(first := await hand.attempt())
    await hand.report(HeartbeatReport(SLOT.times(2), 0.1, (first.key,)))
    assert hand.session.free == SLOT.times(2)
    await driver.submit(alice)
    second = await hand.attempt()  # on its way while the worker says what it has
    await hand.report(HeartbeatReport(SLOT.times(2), 0.1, (first.key,)))
    assert hand.session.free == SLOT
    await hand.run(first)
    await hand.report(HeartbeatReport(SLOT, 0.1, (second.key,)))
    assert hand.session.withheld == SLOT, "something else holds a slot"
    await hand.report(HeartbeatReport(None, 0.1, (second.key,)))
    assert hand.session.withheld == SLOT, "nothing was said"


# ------------------------------------------------------------------ two coordinators


async def lost(driver: Driver, who: Principal, job_ids: Sequence[str]) -> int:
    """How many of these jobs had one attempt, which was lost."""
    wholes = [await driver.job(who, job_id) for job_id in job_ids]
    return [[a.status for a in whole.attempts] for whole in wholes].count([AttemptStatus.LOST])


async def test_two_coordinators_that_reap_the_same_lease_take_it_once(
    postgres: PostgresServer, postgres_template: str
) -> None:
    name = postgres.create(template=postgres_template)
    policy = Policy(storage_url=postgres.url(name), readers=2, initial_grant=GRANT)
    there = Driver(policy, ManualClock())
    await there.open()
    second = Grid(policy, there.clock)
    await second.open()
    alice, bob = await there.user("alice"), await there.user("bob")
    hand = await there.worker(bob, slots=20)
    batch = await there.grid.jobs.submit_batch(alice, [JobSpec(code="x")] * 20, None, None)
    for attempt in await hand.attempts(20):
        await hand.start(attempt)
    await hand.gone()
    there.clock.advance(policy.lease_s + 1)
    async with asyncio.timeout(PATIENCE_S):
        # What one of them has in hand, also by its own loop, the other passes by.
        while await lost(there, alice, batch.job_ids) < len(batch.job_ids):
            await asyncio.gather(there.grid._reaper.tick(), second._reaper.tick())
    for job_id in batch.job_ids:
        events = there.grid.watch.follow_events(alice, job_id, None)
        seen = [(await anext(events)).status for _ in range(3)]
        assert seen == [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.QUEUED]
    backs = [await there.worker(bob, slots=10)]
    greeting = Greeting(None, "w", "1", Capabilities(SLOT.times(10)), (), ())
    backs.append(Hand(await second.sessions.connect(bob, greeting), there.clock))
    there.grid._dispatcher.look_again()
    second._dispatcher.look_again()
    taken = [attempt for back in backs for attempt in await back.attempts(10)]
    assert sorted(a.key.job_id for a in taken) == sorted(batch.job_ids)
    assert {a.key.attempt for a in taken} == {2}
    await second.close()
    await there.finish()
    postgres.drop(name)
