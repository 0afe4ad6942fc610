"""What is said of an attempt once it is over: the end it had is known again, all else is dropped."""

from dataclasses import dataclass

import pytest

from gridx.coordinator.recorder import FinishedReport
from gridx.coordinator.sessions import LeaseKey, LeaseReport, LogReport, StartedReport
from gridx.domain.attempt import AttemptStatus, Reason, Usage
from gridx.domain.job import JobSpec, JobStatus
from gridx.domain.sandbox import Backend
from gridx.domain.user import Principal
from gridx.domain.worker import Capabilities
from tests.coordinator.driving import BACKOFF_S, GRANT, SLOT, Driver, Hand, finished, started


async def running(driver: Driver, who: Principal, hand: Hand, **spec: object) -> LeaseKey:
    """An attempt that has run for a second."""
    key = await started(driver, who, hand, **spec)
    driver.clock.advance(1)
    return key


def end(key: LeaseKey, exit_code: int | None, reason: Reason | None) -> FinishedReport:
    return finished(key, exit_code=exit_code, reason=reason)


def used(key: LeaseKey, usage: Usage) -> FinishedReport:
    return FinishedReport(key, 0, None, usage.wall_s, usage.cpu_s, usage.peak_memory_mb, None)


async def answers(hand: Hand, expected: dict[str, LeaseReport]) -> None:
    """Each report is answered so."""
    for words, report in expected.items():
        await hand.report(report)
        await hand.told(words.split()[0], report.key)


ENDS: dict[str, tuple[int | None, Reason | None]] = {
    "a success": (0, None),
    "a failure": (3, None),
    "another failure": (4, None),
    "a time-out": (None, Reason.TIMEOUT),
    "out of memory": (None, Reason.OUT_OF_MEMORY),
    "a broken sandbox": (None, Reason.SANDBOX_ERROR),
}


async def test_an_end_is_known_again_and_no_other(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    for first, how in ENDS.items():
        key = await running(driver, alice, hand, max_attempts=1)
        await hand.report(end(key, *how))
        await hand.told("ack", key)
        before = await driver.final(alice, key.job_id)
        for second, how_else in ENDS.items():
            await hand.report(end(key, *how_else))
            await hand.told("ack" if second == first else "drop", key)
        assert await driver.job(alice, key.job_id) == before


async def test_an_end_twice_is_paid_once(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    key = await running(driver, alice, hand)
    await hand.report(finished(key), finished(key), finished(key, exit_code=1))
    for word in ("ack", "ack", "drop"):
        await hand.told(word, key)
    whole = await driver.final(alice, key.job_id)
    assert (whole.job.status, whole.job.cost) == (JobStatus.SUCCEEDED, 10_625)
    assert await driver.available(bob) == GRANT + 9_031


@pytest.mark.parametrize(
    "usage",
    [
        Usage(),
        Usage(0.1 + 0.2, 1 / 3, 2 / 3),
        Usage(1e-7, 12.345678912345, 99.9999995),
        Usage(1e9, 1e9 - 1e-6, 123456789.0123456),
        Usage(1e300, -1.0, float("inf")),
    ],
)
async def test_what_it_used_is_known_again_from_the_store(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand, usage: Usage
) -> None:
    token = await driver.token_of(hand)
    key = await running(driver, alice, hand)
    await answers(hand, {"ack": used(key, usage), "ack again": used(key, usage)})
    await hand.gone()
    await driver.restart()
    back = await driver.worker(token, unacknowledged=[key])
    assert [kept.key for kept in back.session.keep] == [key]
    other = Usage(usage.wall_s, usage.cpu_s + 2.0, usage.peak_memory_mb)
    await answers(back, {"drop": used(key, other), "ack": used(key, usage)})


@dataclass(frozen=True)
class Late:
    """What a worker may say of an attempt that is over."""

    started: StartedReport
    log: LogReport
    same: FinishedReport
    other: FinishedReport

    @classmethod
    def of(cls, key: LeaseKey) -> "Late":
        return cls(
            StartedReport(key, "x"),
            LogReport(key, 1, "stdout", b"late"),
            finished(key, exit_code=1),
            finished(key, exit_code=0),
        )

    @property
    def answers(self) -> dict[str, LeaseReport]:
        return {
            "drop the start": self.started,
            "drop the output": self.log,
            "drop the other end": self.other,
            "ack": self.same,
            "drop the other end again": self.other,
        }


async def test_so_it_is_while_the_job_is_tried_again_and_when_it_is_final(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    key = await running(driver, alice, hand, retry_on_failure=True)
    late = Late.of(key)
    await hand.report(LogReport(key, 0, "stdout", b"first"), late.same)
    await hand.told("ack", key)
    await answers(hand, late.answers)  # its job waits
    driver.clock.advance(BACKOFF_S)
    newer = await hand.attempt()
    assert newer.key.attempt == 2
    await answers(hand, late.answers)
    await hand.start(newer)
    await answers(hand, late.answers)
    whole = await driver.job(alice, key.job_id)
    assert [a.status for a in whole.attempts] == [AttemptStatus.FAILED, AttemptStatus.RUNNING]
    assert (await driver.grid.workers.get(bob, hand.worker_id)).running == 1
    driver.clock.advance(1)
    await hand.report(LogReport(newer.key, 0, "stdout", b"second"), finished(newer.key))
    await hand.told("ack", newer.key)
    final = await driver.final(alice, key.job_id)
    await answers(hand, late.answers)
    assert await driver.job(alice, key.job_id) == final
    assert [a.exit_code for a in final.attempts] == [1, 0]
    assert final.stdout == b"second"
    assert final.job.cost == 2 * 10_625
    assert await driver.available(bob) == GRANT + 2 * 9_031


async def test_what_comes_with_its_end_in_one_batch_is_taken_up_to_the_end(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    await driver.submit(alice)
    key = (await hand.attempt()).key
    late = Late.of(key)
    await hand.report(
        late.started,
        LogReport(key, 0, "stdout", b"in time"),
        late.started,
        late.same,
        *late.answers.values(),
    )
    await hand.told("ack", key)
    for words in late.answers:
        await hand.told(words.split()[0], key)
    whole = await driver.final(alice, key.job_id)
    assert (whole.job.reason, whole.stdout) == (Reason.EXIT_CODE, b"in time")


async def test_the_end_of_a_cancelled_attempt_is_known_again(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    key = await running(driver, alice, hand)
    await driver.grid.jobs.cancel(alice, key.job_id)
    await hand.told("cancel", key)
    ended = end(key, None, Reason.CANCELLED)
    await answers(hand, {"ack": ended, "ack again": ended})
    await answers(
        hand,
        {
            "drop": end(key, None, Reason.SANDBOX_ERROR),
            "drop the start": StartedReport(key, "x"),
            "drop what took longer": finished(key, 2.0, reason=Reason.CANCELLED, exit_code=None),
        },
    )
    assert (await driver.job(alice, key.job_id)).job.status is JobStatus.CANCELLED


async def test_an_end_is_known_again_though_its_job_was_cancelled_later(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    key = await running(driver, alice, hand, retry_on_failure=True)
    late = Late.of(key)
    await answers(hand, {"ack": late.same})
    driver.clock.advance(BACKOFF_S)
    await hand.start(newer := await hand.attempt())
    await driver.grid.jobs.cancel(alice, key.job_id)
    await hand.told("cancel", newer.key)
    await answers(hand, late.answers)


async def test_an_end_that_was_overruled_is_known_again(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    """It came without a start, from where only some other sandbox will do."""
    await driver.restart(sandbox_at_least=Backend.GVISOR)
    hand = await driver.worker(bob, offer=Capabilities(SLOT, sandboxes=("gvisor",)))
    await driver.submit(alice, JobSpec(code="x", max_attempts=1))
    key = (await hand.attempt()).key
    await answers(hand, {"ack": finished(key), "ack again": finished(key)})
    assert (await driver.final(alice, key.job_id)).job.reason is Reason.SANDBOX_ERROR
    await answers(hand, {"drop": finished(key, 2.0), "drop the start": StartedReport(key, "x")})


async def test_a_sandbox_that_never_started_did_not_succeed_either(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    await driver.submit(alice, JobSpec(code="x", max_attempts=1))
    key = (await hand.attempt()).key
    broken = end(key, None, Reason.SANDBOX_ERROR)
    await answers(hand, {"ack": broken, "drop": finished(key), "ack again": broken})
    assert (await driver.final(alice, key.job_id)).job.cost == 0


async def test_nothing_is_lost_when_the_ack_was(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    """A worker whose `ack` was lost says all of it again; its room is free either way."""
    token = await driver.token_of(hand)
    key = await running(driver, alice, hand)
    output = LogReport(key, 0, "stdout", b"all of it")
    await hand.report(output, finished(key))
    await hand.settled()
    await hand.gone()
    back = await driver.worker(token, unacknowledged=[key])
    assert [(kept.key, kept.log_frames) for kept in back.session.keep] == [(key, 1)]
    await answers(
        back, {"drop": StartedReport(key, "x"), "drop the output": output, "ack": finished(key)}
    )
    assert (await driver.final(alice, key.job_id)).stdout == b"all of it"
    await driver.submit(alice)
    await back.run(await back.attempt())
