"""Leases: kept while a worker is heard of, lost when it is not, and never by mistake."""

import asyncio
from contextlib import suppress

import pytest

from gridx.coordinator.admission import Entry
from gridx.coordinator.dispatcher import Dispatcher
from gridx.coordinator.sessions import LeaseKey, LeavingReport, LogReport, Session, StartedReport
from gridx.domain.attempt import AttemptStatus, Reason
from gridx.domain.job import JobStatus, Limits
from gridx.domain.user import Principal
from gridx.domain.worker import WorkerStatus
from gridx.storage import workers
from tests.coordinator.driving import BACKOFF_S, GRANT, PATIENCE_S, Driver, Hand, finished, started

LEASE_S = 30.0


@pytest.fixture
async def token(driver: Driver, hand: Hand) -> Principal:
    """What opens the socket as this worker."""
    return await driver.token_of(hand)


async def statuses(driver: Driver, who: Principal, job_id: str) -> list[AttemptStatus]:
    return [attempt.status for attempt in (await driver.job(who, job_id)).attempts]


async def becomes_lost(driver: Driver, who: Principal, job_id: str) -> None:
    """Wait until its one attempt is; the grid's own reaper may be at it, and has it locked then."""
    async with asyncio.timeout(PATIENCE_S):
        while await statuses(driver, who, job_id) != [AttemptStatus.LOST]:
            await driver.grid._reaper.tick()


# ------------------------------------------------------------------ a worker that comes back


async def test_a_lease_that_hello_does_not_name_is_lost_at_once(
    driver: Driver, alice: Principal, hand: Hand, token: Principal
) -> None:
    key = await started(driver, alice, hand)
    await hand.gone()
    back = await driver.worker(token)
    assert (back.session.keep, back.session.drop) == ((), ())
    again = await back.attempt()
    assert (again.key.job_id, again.key.attempt) == (key.job_id, 2)
    await back.run(again)
    whole = await driver.final(alice, key.job_id)
    assert whole.job.status is JobStatus.SUCCEEDED
    assert [a.status for a in whole.attempts] == [AttemptStatus.LOST, AttemptStatus.SUCCEEDED]
    assert whole.job.cost == 10_625


async def test_a_lease_that_hello_names_as_running_goes_on(
    driver: Driver, alice: Principal, hand: Hand, token: Principal
) -> None:
    key = await started(driver, alice, hand)
    await hand.report(LogReport(key, 0, "stdout", b"a"), LogReport(key, 1, "stderr", b"b"))
    await hand.gone()
    back = await driver.worker(token, running=[key])
    assert [(kept.key, kept.log_frames) for kept in back.session.keep] == [(key, 2)]
    driver.clock.advance(1)
    await back.report(LogReport(key, 2, "stdout", b"c"), finished(key))
    await back.told("ack", key)
    whole = await driver.final(alice, key.job_id)
    assert (whole.stdout, whole.stderr, whole.job.cost) == (b"ac", b"b", 10_625)
    assert len(whole.attempts) == 1


async def test_a_result_that_was_not_acknowledged_is_taken_once(
    driver: Driver, alice: Principal, hand: Hand, token: Principal
) -> None:
    key = await started(driver, alice, hand)
    driver.clock.advance(1)
    await hand.report(finished(key))
    await hand.gone()  # it is recorded, but nobody heard the acknowledgement
    for _ in range(2):
        back = await driver.worker(token, unacknowledged=[key])
        assert [kept.key for kept in back.session.keep] == [key]
        await back.report(finished(key))
        await back.told("ack", key)
        await back.gone()
    whole = await driver.final(alice, key.job_id)
    assert (whole.job.cost, len(whole.attempts)) == (10_625, 1)


async def test_leases_that_are_not_the_workers_are_dropped(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    key = await started(driver, alice, hand)
    unknown = LeaseKey(driver.clock.new_id(), 1, driver.clock.new_id())
    wrong = [LeaseKey(key.job_id, 2, key.lease), LeaseKey(unknown.job_id, 1, key.lease), unknown]
    other = await driver.worker(bob, running=[key, unknown], unacknowledged=[])
    assert set(other.session.drop) == {key, unknown}
    assert other.session.keep == ()
    for claim in wrong:
        thief = await driver.worker(bob, unacknowledged=[claim])
        assert thief.session.drop == (claim,)
    assert await statuses(driver, alice, key.job_id) == [AttemptStatus.RUNNING]


async def test_another_connection_replaces_the_first(
    driver: Driver, alice: Principal, hand: Hand, token: Principal
) -> None:
    key = await started(driver, alice, hand)
    second = await driver.worker(token, running=[key])
    last = await hand.over()
    assert (last.reason, last.retry) == ("replaced", False)
    await hand.report(finished(key))  # too late: nobody listens there any more
    await hand.gone()
    state = await driver.grid.workers.get(alice, hand.worker_id)
    assert state.worker.status is WorkerStatus.ONLINE
    driver.clock.advance(1)
    await second.report(finished(key))
    await second.told("ack", key)
    assert (await driver.final(alice, key.job_id)).job.cost == 10_625


async def test_of_connections_made_at_once_one_stays(
    driver: Driver, alice: Principal, hand: Hand, token: Principal
) -> None:
    hands = await asyncio.gather(*(driver.worker(token) for _ in range(6)))
    assert [one.session.closed for one in hands].count(False) == 1
    assert hand.session.closed
    (open_one,) = [one for one in hands if not one.session.closed]
    for one in hands:
        if one is not open_one:
            assert (await one.over()).reason == "replaced"
    await driver.submit(alice)
    await open_one.run(await open_one.attempt())
    await open_one.gone()
    assert (await driver.grid.status()).workers_active == 0


async def test_the_connection_that_stays_is_the_one_that_is_stored(
    driver: Driver, hand: Hand, token: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the answer to the earlier one's transaction comes late."""
    entered, later = asyncio.Event(), asyncio.Event()
    seat = driver.grid.workers._seat

    async def held_up(session: Session, entry: Entry) -> None:
        monkeypatch.setattr(driver.grid.workers, "_seat", seat)
        entered.set()
        with suppress(TimeoutError):  # the other may well have to wait for this one
            await asyncio.wait_for(later.wait(), 0.5)
        await seat(session, entry)

    monkeypatch.setattr(driver.grid.workers, "_seat", held_up)
    first = asyncio.ensure_future(driver.worker(token))
    await entered.wait()
    second = (await driver.worker(token)).session
    later.set()
    await first
    assert not second.closed
    stored = await driver.grid._database.read(lambda c: workers.session_of(c, hand.worker_id))
    assert stored == second.session_id


# ------------------------------------------------------------------ a worker that is silent


async def test_heartbeats_keep_a_lease(driver: Driver, alice: Principal, hand: Hand) -> None:
    key = await started(driver, alice, hand, limits=Limits(timeout_s=300))
    for _ in range(12):
        driver.clock.advance(10)
        await hand.heartbeat(key)
        await driver.grid._reaper.tick()
    assert await statuses(driver, alice, key.job_id) == [AttemptStatus.RUNNING]


async def test_a_silent_worker_loses_its_leases_and_the_job_runs_elsewhere_once(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    key = await started(driver, alice, hand)
    driver.clock.advance(LEASE_S / 2)
    other = await driver.worker(bob)
    driver.clock.advance(LEASE_S / 2 - 1)
    await other.heartbeat()
    await driver.grid._reaper.tick()
    assert await statuses(driver, alice, key.job_id) == [AttemptStatus.RUNNING]
    driver.clock.advance(2)
    await driver.grid._reaper.tick()
    assert (await hand.over()).retry
    again = await other.attempt()
    assert again.key.job_id == key.job_id
    await other.run(again)
    whole = await driver.final(alice, key.job_id)
    assert [a.status for a in whole.attempts] == [AttemptStatus.LOST, AttemptStatus.SUCCEEDED]
    assert (whole.attempts[0].reason, whole.attempts[0].billed_us) == (Reason.LOST, 0)
    assert await driver.available(bob) == GRANT + 9_031


async def test_the_next_look_is_when_a_lease_runs_out(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    reaper = driver.grid._reaper
    driver.clock.advance(2 * LEASE_S)  # from here on it trusts what it sees
    await hand.heartbeat()
    await started(driver, alice, hand)
    await reaper.tick()
    assert reaper._pause_s() == 2.0
    driver.clock.advance(LEASE_S - 0.5)
    assert reaper._pause_s() == pytest.approx(0.5, abs=0.001), "of a worker that is connected"
    await hand.gone()
    other = await driver.worker(bob)
    await reaper.tick()
    assert reaper._pause_s() == pytest.approx(0.5, abs=0.001), "of one that is not"
    driver.clock.advance(0.501)
    await reaper.tick()
    assert (await other.attempt()).key.attempt == 2


async def test_a_job_that_is_lost_too_often_fails_uncharged(
    driver: Driver, alice: Principal, hand: Hand, token: Principal
) -> None:
    key = await started(driver, alice, hand)
    for number in (2, 3):
        await hand.gone()
        hand = await driver.worker(token)
        driver.clock.advance(BACKOFF_S)
        attempt = await hand.attempt()
        assert attempt.key.attempt == number
        await hand.start(attempt)
    await hand.gone()
    await driver.worker(token)
    whole = await driver.final(alice, key.job_id)
    assert (whole.job.status, whole.job.reason) == (JobStatus.FAILED, Reason.LOST)
    assert (whole.job.cost, await driver.available(alice)) == (0, GRANT)
    assert whole.receipt is not None
    assert whole.receipt.fault == "worker"


async def test_an_attempt_that_heartbeats_leave_out_is_lost_after_a_lease(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    key = await started(driver, alice, hand)
    await hand.heartbeat()
    await driver.grid._reaper.tick()
    assert await statuses(driver, alice, key.job_id) == [AttemptStatus.RUNNING]
    driver.clock.advance(LEASE_S - 5)
    await hand.heartbeat(key)  # named again in time
    driver.clock.advance(10)
    await hand.heartbeat()
    await driver.grid._reaper.tick()
    assert await statuses(driver, alice, key.job_id) == [AttemptStatus.RUNNING]
    driver.clock.advance(LEASE_S - 5)
    await hand.heartbeat()
    await driver.grid._reaper.tick()
    driver.clock.advance(10)
    await hand.heartbeat()
    await driver.grid._reaper.tick()
    await hand.told("drop", key)
    assert (await hand.attempt()).key.attempt == 2
    assert (await statuses(driver, alice, key.job_id))[0] is AttemptStatus.LOST


@pytest.mark.parametrize("jump_s", [0.0, -3_600.0])
async def test_an_attempt_that_was_never_sent_does_not_wait_for_ever(
    driver: Driver, alice: Principal, hand: Hand, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Its claim was committed and then something broke before the worker was told."""
    claimed = asyncio.Event()

    async def nothing(_: Dispatcher, __: object) -> None:
        claimed.set()

    with monkeypatch.context() as patch:
        patch.setattr(Dispatcher, "_send", nothing)
        job_id = (await driver.submit(alice)).job_id
        await asyncio.wait_for(claimed.wait(), 10)
    driver.clock.jump(jump_s)
    for _ in range(8):
        driver.clock.advance(10)
        await hand.heartbeat()
        await driver.grid._reaper.tick()
        if not hand.nothing_told():
            break  # a heartbeat that left out what it was given would lose that, too
    await hand.run(await hand.attempt())
    assert (await driver.final(alice, job_id)).job.status is JobStatus.SUCCEEDED


# ------------------------------------------------------------------ clocks and restarts


async def both_run(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> tuple[Hand, LeaseKey, LeaseKey]:
    """Another worker, what runs on the first one, and on it; the reaper trusts what it sees."""
    away = await driver.worker(bob)
    here, there = await started(driver, alice, hand), await started(driver, alice, away)
    for _ in range(4):
        driver.clock.advance(10)
        await hand.heartbeat(here)
        await away.heartbeat(there)
        await driver.grid._reaper.tick()
    return away, here, there


async def both_end(
    driver: Driver,
    alice: Principal,
    stayed: tuple[Hand, LeaseKey],
    left: tuple[Principal, LeaseKey],
) -> None:
    """Nothing was lost: the one that left comes back, and both end well."""
    for _, key in (stayed, left):
        assert await statuses(driver, alice, key.job_id) == [AttemptStatus.RUNNING]
    back = await driver.worker(left[0], running=[left[1]])
    for one, key in (stayed, (back, left[1])):
        await one.report(finished(key))
        await one.told("ack", key)
        assert (await driver.final(alice, key.job_id)).job.status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("jump_s", [3_600.0, -3_600.0, 10 * 365 * 86_400.0])
async def test_a_clock_that_jumps_takes_no_lease(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand, jump_s: float
) -> None:
    away, here, there = await both_run(driver, alice, bob, hand)
    token = await driver.token_of(away)
    await away.gone()
    driver.clock.jump(jump_s)
    await driver.grid._reaper.tick()
    driver.clock.advance(5)
    await hand.heartbeat(here)
    await driver.grid._reaper.tick()
    await both_end(driver, alice, (hand, here), (token, there))


async def test_a_coordinator_that_stood_still_takes_no_lease(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    away, here, there = await both_run(driver, alice, bob, hand)
    token = await driver.token_of(away)
    resting = asyncio.ensure_future(driver.grid._reaper._rest())
    await asyncio.sleep(0)
    driver.clock.advance(LEASE_S + 5, asleep=True)
    await asyncio.sleep(0)
    assert not resting.done(), "what came meanwhile is read first"
    await away.gone()
    await hand.heartbeat(here)
    driver.clock.advance(2)
    await resting
    await driver.grid._reaper.tick()
    await both_end(driver, alice, (hand, here), (token, there))


async def test_a_clock_that_was_ahead_keeps_no_lease_of_a_dead_worker(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    key = await started(driver, alice, hand)
    driver.clock.jump(3_600.0)
    await hand.heartbeat(key)
    await driver.grid._reaper.tick()  # it was seen an hour from now
    await hand.gone()
    driver.clock.jump(-3_600.0)
    for _ in range(8):
        driver.clock.advance(10)
        await driver.grid._reaper.tick()
    await becomes_lost(driver, alice, key.job_id)


async def test_a_restart_takes_no_lease(
    driver: Driver, alice: Principal, hand: Hand, token: Principal
) -> None:
    key = await started(driver, alice, hand)
    await driver.restart()
    last = await hand.over()
    assert (last.reason, last.retry) == ("The coordinator stops", True)
    driver.clock.advance(LEASE_S - 1)  # it was away for longer than its last sign is old
    await driver.grid._reaper.tick()
    assert await statuses(driver, alice, key.job_id) == [AttemptStatus.RUNNING]
    back = await driver.worker(token, running=[key])
    driver.clock.advance(2)
    await driver.grid._reaper.tick()
    await back.report(finished(key))
    await back.told("ack", key)
    whole = await driver.final(alice, key.job_id)
    assert (whole.job.cost, len(whole.attempts)) == (10_625, 1)


async def test_after_a_restart_a_worker_that_stays_away_loses_its_lease(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    key = await started(driver, alice, hand)
    await driver.restart()
    for _ in range(4):
        driver.clock.advance(10)
        await driver.grid._reaper.tick()
    await becomes_lost(driver, alice, key.job_id)
    assert (await driver.job(alice, key.job_id)).job.status is JobStatus.QUEUED


# ------------------------------------------------------------------ a worker that leaves


async def test_a_leaving_worker_hands_its_attempts_over_uncounted(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    key = await started(driver, alice, hand, max_attempts=1)
    await driver.grid.workers.pause(bob, hand.worker_id)
    await hand.next()
    await hand.report(LeavingReport())
    await hand.told("drop", key)
    await hand.gone()
    assert await statuses(driver, alice, key.job_id) == [AttemptStatus.LOST]
    other = await driver.worker(bob)
    await other.run(await other.attempt())
    whole = await driver.final(alice, key.job_id)
    assert whole.job.status is JobStatus.SUCCEEDED
    assert [attempt.counted for attempt in whole.attempts] == [False, True]


async def test_what_it_was_only_assigned_it_gives_back(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    await driver.submit(alice)
    attempt = await hand.attempt()
    await driver.grid.workers.drain(bob, hand.worker_id)
    await hand.next()
    await hand.report(LeavingReport())
    await hand.told("take_back", attempt.key)
    await hand.report(StartedReport(attempt.key, "x"))
    await hand.told("drop", attempt.key)
