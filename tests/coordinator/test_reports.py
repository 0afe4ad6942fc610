"""What workers report: taken once, from the newest lease, and from nobody else."""

import asyncio
import threading

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from gridx.coordinator.attempts import Outcome
from gridx.coordinator.recorder import FinishedReport
from gridx.coordinator.sessions import (
    _BATCH_MAX,
    _INBOX_MAX,
    _ORDERS_MAX,
    LeaseKey,
    LogReport,
    StartedReport,
)
from gridx.domain.attempt import AttemptStatus, Reason
from gridx.domain.errors import Unavailable
from gridx.domain.job import JobSpec, JobStatus, Limits
from gridx.domain.user import Principal
from tests.coordinator.driving import BACKOFF_S, GRANT, Driver, Hand, finished, given

STRAYS = [
    LogReport(LeaseKey("a-job", 1, f"lease-{number}"), 0, "stdout", b"x")
    for number in range(3 * (_INBOX_MAX + _ORDERS_MAX))
]
"""More than is taken, of no attempt of this worker's: the answer to each is `drop`."""

# ------------------------------------------------------------------ the road of a job


async def test_assignment_carries_all_a_worker_needs(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    spec = JobSpec(code="é", args=("a",), env={"K": "v"}, stdin="in", max_cost=106_250)
    submitted = await driver.grid.jobs.submit(alice, spec, None, None, "00-trace")
    attempt = await hand.attempt()
    assert (attempt.spec, attempt.limit_us, attempt.traceparent) == (spec, 10_000_000, "00-trace")
    assert (attempt.key.job_id, attempt.key.attempt) == (submitted.job_id, 1)
    whole = await driver.job(alice, submitted.job_id)
    assert whole.job.status is JobStatus.QUEUED  # until `started` is committed
    assert [a.status for a in whole.attempts] == [AttemptStatus.ASSIGNED]


async def test_execution_and_completion(driver: Driver, alice: Principal, hand: Hand) -> None:
    key = await given(driver, alice, hand)
    await hand.report(StartedReport(key, "bubblewrap"))
    await hand.settled()
    job = (await driver.job(alice, key.job_id)).job
    assert (job.status, job.worker_id) == (JobStatus.RUNNING, hand.worker_id)
    assert job.started_at == driver.clock.now()
    driver.clock.advance(2)
    await hand.report(
        LogReport(key, 0, "stdout", b"out\n"),
        LogReport(key, 1, "stderr", b"err\n"),
        FinishedReport(key, 3, None, 2.0, 1.5, 20.0, None),
    )
    await hand.told("ack", key)
    whole = await driver.final(alice, key.job_id)
    assert (whole.job.status, whole.job.reason, whole.job.exit_code) == (
        JobStatus.FAILED, Reason.EXIT_CODE, 3,
    )  # fmt: skip
    assert (whole.stdout, whole.stderr) == (b"out\n", b"err\n")
    assert whole.job.finished_at == driver.clock.now()
    (attempt,) = whole.attempts
    assert attempt.usage is not None
    assert (attempt.usage.cpu_s, attempt.usage.peak_memory_mb, attempt.sandbox) == (
        1.5, 20.0, "bubblewrap",
    )  # fmt: skip


async def test_all_of_a_short_job_may_come_at_once(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    key = await given(driver, alice, hand)
    await hand.report(StartedReport(key, "x"), LogReport(key, 0, "stdout", b"hi"), finished(key, 0))
    await hand.told("ack", key)
    whole = await driver.final(alice, key.job_id)
    assert (whole.job.status, whole.stdout) == (JobStatus.SUCCEEDED, b"hi")


async def test_an_end_without_a_start_is_an_end(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    key = await given(driver, alice, hand)
    driver.clock.advance(1)
    await hand.report(finished(key))
    await hand.told("ack", key)
    whole = await driver.final(alice, key.job_id)
    assert (whole.job.status, whole.job.cost) == (JobStatus.SUCCEEDED, 10_625)
    assert whole.attempts[0].started_at is not None


async def test_a_sandbox_that_never_started_runs_nothing(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    key = await given(driver, alice, hand, max_attempts=1)
    await hand.report(finished(key, reason=Reason.SANDBOX_ERROR, exit_code=None))
    await hand.told("ack", key)
    whole = await driver.final(alice, key.job_id)
    assert (whole.job.reason, whole.job.cost) == (Reason.SANDBOX_ERROR, 0)
    assert whole.attempts[0].started_at is None


async def test_a_start_twice_is_one_start(driver: Driver, alice: Principal, hand: Hand) -> None:
    key = await given(driver, alice, hand)
    await hand.report(StartedReport(key, "x"))
    await hand.settled()
    driver.clock.advance(1)
    await hand.report(StartedReport(key, "y"), StartedReport(key, "z"), finished(key))
    await hand.told("ack", key)
    whole = await driver.final(alice, key.job_id)
    assert whole.attempts[0].sandbox == "x"
    events = [e async for e in driver.grid.watch.follow_events(alice, key.job_id, None)]
    assert [event.status for event in events] == [
        JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED,
    ]  # fmt: skip


# ------------------------------------------------------------------ late, or not one's own


async def lost(driver: Driver, alice: Principal, bob: Principal, hand: Hand) -> LeaseKey:
    """An attempt that ran and was lost; its job waits, because its worker is paused."""
    key = await given(driver, alice, hand)
    await hand.report(StartedReport(key, "x"), LogReport(key, 0, "stdout", b"1"))
    await hand.settled()
    driver.clock.advance(1)
    await driver.grid.workers.pause(bob, hand.worker_id)
    await hand.gone()
    driver.clock.advance(driver.policy.lease_s + 1)
    await driver.grid._reaper.tick()  # its own loop may be in the middle of a look, and sleep then
    await driver.until(alice, key.job_id, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.QUEUED)
    return key


async def test_a_late_result_is_taken_once_while_the_job_waits(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    token = await driver.token_of(hand)
    key = await lost(driver, alice, bob, hand)
    back = await driver.worker(token, unacknowledged=[key])
    assert [(kept.key, kept.log_frames) for kept in back.session.keep] == [(key, 1)]
    await back.report(StartedReport(key, "x"))
    await back.settled()
    assert back.nothing_told()  # a `drop` would take what it has yet to tell
    await back.report(LogReport(key, 1, "stdout", b"2"), finished(key), finished(key))
    await back.told("ack", key)
    await back.told("ack", key)
    whole = await driver.final(alice, key.job_id)
    assert (whole.job.status, whole.job.cost, whole.stdout) == (
        JobStatus.SUCCEEDED, 10_625, b"12",
    )  # fmt: skip
    assert [a.status for a in whole.attempts] == [AttemptStatus.SUCCEEDED]
    assert await driver.available(bob) == GRANT + 9_031


async def test_a_late_failure_counts_one_attempt_not_two(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    token = await driver.token_of(hand)
    key = await lost(driver, alice, bob, hand)
    back = await driver.worker(token, unacknowledged=[key])
    await back.report(finished(key, reason=Reason.SANDBOX_ERROR, exit_code=None))
    await back.told("ack", key)
    for number in (2, 3):
        driver.clock.advance(BACKOFF_S)
        other = await driver.worker(bob)
        attempt = await other.attempt()
        assert attempt.key.attempt == number
        await driver.grid.workers.pause(bob, other.worker_id)
        await other.next()
        await other.run(attempt, reason=Reason.SANDBOX_ERROR, exit_code=None)
        await other.gone()
    whole = await driver.final(alice, key.job_id)
    assert (whole.job.reason, len(whole.attempts)) == (Reason.SANDBOX_ERROR, 3)


async def test_a_late_result_of_an_attempt_that_never_said_it_started_is_billed(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    token = await driver.token_of(hand)
    key = await given(driver, alice, hand)
    await driver.grid.workers.pause(bob, hand.worker_id)
    await hand.gone()
    driver.clock.advance(driver.policy.lease_s + 1)
    await driver.grid._reaper.tick()
    back = await driver.worker(token, unacknowledged=[key])
    await back.report(finished(key, 1))
    await back.told("ack", key)
    assert (await driver.final(alice, key.job_id)).job.cost == 10_625


async def test_a_late_result_after_a_newer_attempt_is_dropped(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    token = await driver.token_of(hand)
    key = await lost(driver, alice, bob, hand)
    other = await driver.worker(await driver.user("carol"))
    newer = await other.attempt()
    back = await driver.worker(token, unacknowledged=[key])
    assert back.session.drop == (key,)
    for report in (LogReport(key, 1, "stdout", b"2"), finished(key)):
        await back.report(report)
        await back.told("drop", key)
    await other.run(newer)
    await back.report(finished(key))  # the job is final now
    await back.told("drop", key)
    whole = await driver.final(alice, key.job_id)
    assert [a.status for a in whole.attempts] == [AttemptStatus.LOST, AttemptStatus.SUCCEEDED]
    assert (whole.job.cost, await driver.available(bob)) == (10_625, GRANT)


async def test_a_late_result_of_a_cancelled_job_is_dropped(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    token = await driver.token_of(hand)
    key = await lost(driver, alice, bob, hand)
    await driver.grid.jobs.cancel(alice, key.job_id)
    back = await driver.worker(token, unacknowledged=[key])
    assert back.session.drop == (key,)
    await back.report(finished(key))
    await back.told("drop", key)
    assert (await driver.job(alice, key.job_id)).job.cost == 0


async def test_somebody_elses_lease_is_nobodys_to_report(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    key = await given(driver, alice, hand)
    thief = await driver.worker(await driver.user("mallory"))
    wrong = [
        key,
        LeaseKey(key.job_id, key.attempt, driver.clock.new_id()),
        LeaseKey(driver.clock.new_id(), 1, driver.clock.new_id()),
    ]
    for claim in wrong:
        for report in (
            StartedReport(claim, "x"), LogReport(claim, 0, "stdout", b"!"), finished(claim),
        ):  # fmt: skip
            await thief.report(report)
            await thief.told("drop", claim)
    for claim in (
        LeaseKey(key.job_id, 2, key.lease),
        LeaseKey(driver.clock.new_id(), 1, key.lease),
    ):
        await hand.report(finished(claim))
        await hand.told("drop", claim)
    whole = await driver.job(alice, key.job_id)
    assert (whole.job.status, whole.stdout) == (JobStatus.QUEUED, b"")
    assert [a.status for a in whole.attempts] == [AttemptStatus.ASSIGNED]


async def test_a_claim_to_ones_own_lease_in_wrong_words_frees_no_room(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    """The answer `drop` to a lease that lives must not make its room look free."""
    key = await given(driver, alice, hand)
    await driver.submit(alice)
    await hand.report(finished(LeaseKey(key.job_id, 2, key.lease)))
    await hand.told("drop", LeaseKey(key.job_id, 2, key.lease))
    assert (await driver.grid.workers.get(alice, hand.worker_id)).running == 1
    await hand.report(finished(key, 0))
    await hand.told("ack", key)


# ------------------------------------------------------------------ output


async def test_output_is_stored_once_however_often_it_comes(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    key = await given(driver, alice, hand)
    frames = [LogReport(key, n, "stdout", bytes([65 + n])) for n in range(5)]
    await hand.report(StartedReport(key, "x"), *frames[:3])
    await hand.settled()
    await hand.report(StartedReport(key, "x"), *frames[1:4], *frames)
    await hand.settled()
    assert hand.nothing_told()
    await hand.report(*frames, finished(key, 0))
    await hand.told("ack", key)
    assert (await driver.final(alice, key.job_id)).stdout == b"ABCDE"
    assert await driver.grid.watch.logs(alice, key.job_id, None) == b"ABCDE"


async def test_output_ends_at_its_jobs_limit(driver: Driver, alice: Principal, hand: Hand) -> None:
    key = await given(driver, alice, hand, limits=Limits(output_bytes=10))
    await hand.report(
        StartedReport(key, "x"),
        LogReport(key, 0, "stdout", b"12345678"),
        LogReport(key, 1, "stdout", b"90ab"),
        LogReport(key, 2, "stderr", b"1234567890ab"),
        LogReport(key, 3, "stdout", b"c"),
    )
    await hand.settled()
    # A worker that begins again from 0 gets no second helping.
    for number in range(4, 8):
        await hand.report(
            LogReport(key, 0, "stdout", b"12345678"), LogReport(key, number, "stdout", b"more")
        )
        await hand.settled()
    await hand.report(finished(key, 0))
    await hand.told("ack", key)
    whole = await driver.final(alice, key.job_id)
    assert (whole.stdout, whole.stderr) == (b"1234567890", b"1234567890")
    assert await driver.grid.watch.logs(alice, key.job_id, "stdout") == b"1234567890"


async def test_what_is_written_before_the_start_is_not_kept(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    key = await given(driver, alice, hand)
    for _ in range(3):
        await hand.report(LogReport(key, 0, "stdout", b"early"))
        await hand.settled()
    await hand.report(StartedReport(key, "x"), LogReport(key, 0, "stdout", b"in time"))
    await hand.report(finished(key, 0))
    await hand.told("ack", key)
    assert (await driver.final(alice, key.job_id)).stdout == b"in time"


async def test_only_the_first_of_much_output_is_shown_with_the_job(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    key = await given(driver, alice, hand)
    frames = [LogReport(key, n, "stdout", b"x" * 50_000) for n in range(4)]
    await hand.report(StartedReport(key, "x"), *frames, LogReport(key, 4, "stderr", b"e"))
    await hand.report(finished(key, 0))
    await hand.told("ack", key)
    whole = await driver.final(alice, key.job_id)
    assert (len(whole.stdout), whole.stdout_truncated) == (65_536, True)
    assert (whole.stderr, whole.stderr_truncated) == (b"e", False)
    assert len(await driver.grid.watch.logs(alice, key.job_id, "stdout")) == 200_000


# ------------------------------------------------------------------ when things break


async def test_reports_wait_while_the_store_is_away(
    driver: Driver, alice: Principal, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = driver.grid.workers._recorder
    real, tries = recorder.record, 0

    async def away(*arguments: object) -> object:
        nonlocal tries
        tries += 1
        raise Unavailable("away")

    key = await given(driver, alice, hand)
    monkeypatch.setattr(recorder, "record", away)
    await hand.report(StartedReport(key, "x"), finished(key, 0))
    while tries < 3:  # it tries again, and again
        await clock_moves(driver)
    monkeypatch.setattr(recorder, "record", real)
    await clock_moves(driver)
    await hand.told("ack", key)
    assert (await driver.final(alice, key.job_id)).job.status is JobStatus.SUCCEEDED


async def clock_moves(driver: Driver) -> None:
    await asyncio.sleep(0)
    driver.clock.advance(0.5)
    await asyncio.sleep(0)


async def test_a_worker_that_goes_while_the_store_is_away_does_not_hang(
    driver: Driver, alice: Principal, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*arguments: object) -> object:
        raise Unavailable("away")

    key = await given(driver, alice, hand)
    with monkeypatch.context() as patch:
        patch.setattr(driver.grid.workers._recorder, "record", away)
        await hand.report(finished(key, 0))
        await asyncio.wait_for(hand.gone(), 10)
    assert (await driver.job(alice, key.job_id)).job.status is JobStatus.QUEUED


async def test_a_report_that_breaks_something_ends_only_its_own_session(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    other = await driver.worker(bob)
    await driver.grid.jobs.submit_batch(alice, [JobSpec(code="x")] * 2, None, None)
    mine, others = await hand.attempt(), await other.attempt()
    await hand.report(FinishedReport(mine.key, 2**80, None, 0.0, 0.0, 0.0, None))
    await other.report(finished(others.key, 0))
    await other.told("ack", others.key)
    assert (await hand.over()).retry
    await hand.gone()
    assert (await driver.final(alice, others.key.job_id)).job.status is JobStatus.SUCCEEDED


async def flooded(driver: Driver, hand: Hand) -> asyncio.Future[None]:
    """It reports more than is taken, and has not taken more answers than are kept."""
    flood = asyncio.ensure_future(hand.report(*STRAYS))
    async with asyncio.timeout(20):
        while len(hand.session._orders) <= _ORDERS_MAX:
            await driver.grid._database.read(lambda _: None)
    return flood


async def test_a_worker_that_takes_no_answers_is_not_listened_to(
    driver: Driver, hand: Hand
) -> None:
    flood = await flooded(driver, hand)
    for _ in range(20):  # time to take more
        await driver.grid._database.read(lambda _: None)
    assert len(hand.session._orders) <= _ORDERS_MAX + _BATCH_MAX
    assert not flood.done()
    for stray in STRAYS:
        await hand.told("drop", stray.key)
    await flood


async def test_a_worker_that_goes_without_its_answers_does_not_hang(
    driver: Driver, hand: Hand
) -> None:
    flood = await flooded(driver, hand)
    async with asyncio.timeout(20):
        await hand.gone()
        await flood


async def test_what_was_recorded_is_told_though_a_session_ended_meanwhile(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers' results share a transaction, and the first one's connection ends before it."""
    await driver.restart(writers=1)
    first, second = await driver.worker(bob), await driver.worker(bob)
    await driver.grid.jobs.submit_batch(alice, [JobSpec(code="x")] * 2, None, None)
    results = [(one, (await one.attempt()).key) for one in (first, second)]
    told: list[str] = []
    committed = driver.grid.workers._recorder._committed

    def listen(outcome: Outcome) -> None:
        told.extend(job.job_id for job in outcome.final)
        committed(outcome)

    monkeypatch.setattr(driver.grid.workers._recorder, "_committed", listen)
    entered, go = threading.Event(), threading.Event()

    def hold_up(_: Connection) -> None:
        entered.set()
        assert go.wait(10)

    held = asyncio.ensure_future(driver.grid._database.write(hold_up))
    await asyncio.to_thread(entered.wait, 10)
    for one, key in results:
        await one.report(finished(key, 0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    ending = asyncio.ensure_future(first.session.disconnect("enough", retry=True))
    await asyncio.sleep(0)
    go.set()
    await held
    await second.told("ack", results[1][1])
    await ending
    assert sorted(told) == sorted(key.job_id for _, key in results)


async def test_an_error_of_the_store_tells_no_code(driver: Driver, alice: Principal) -> None:
    await driver.grid._database.write(lambda c: c.execute(text("DROP TABLE job_texts")))
    with pytest.raises(DBAPIError) as failed:
        await driver.submit(alice, JobSpec(code="print('my secret')"))
    assert "job_texts" in str(failed.value)
    assert "my secret" not in str(failed.value)
