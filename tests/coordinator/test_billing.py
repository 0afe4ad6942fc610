"""Who pays whom how much: each rule of billing as a table of cases, on a real store.

The default job costs 0.010625 a second; at 85 % its worker's owner earns 0.009031 of that.
"""

from dataclasses import dataclass, field, replace
from decimal import Decimal

from gridx.domain.attempt import AttemptStatus, Reason
from gridx.domain.job import JobSpec, JobStatus, Limits
from gridx.domain.user import Principal
from tests.coordinator.driving import BACKOFF_S, GRANT, Driver, finished

MIN = 5_000
SPEC = JobSpec(code="x")


@dataclass(frozen=True)
class Try:
    """One attempt: on whose worker, how long it ran and said it ran, and how it ended."""

    owner: str = "bob"
    wall_s: float = 1.0
    reports_s: float | None = None
    reason: Reason | None = None
    exit_code: int | None = 0


@dataclass(frozen=True)
class Case:
    """What happens to a job, and what it costs."""

    tries: list[Try]
    cost: int
    rewards: dict[str, int] = field(default_factory=dict[str, int])
    status: JobStatus = JobStatus.SUCCEEDED
    reason: Reason | None = None
    spec: JobSpec = SPEC
    fault: str = "none"


FAILS = JobStatus.FAILED
AGAIN = JobSpec(code="x", retry_on_failure=True)
CASES = {
    "a second": Case([Try()], 10_625, {"bob": 9_031}),
    "a whole minute": Case([Try(wall_s=60)], 637_500, {"bob": 541_875}),
    "nothing reported": Case([Try(reports_s=0)], MIN),
    "an instant": Case([Try(wall_s=0)], MIN),
    "a tenth": Case([Try(wall_s=0.1)], MIN, {"bob": 903}),
    "it reports an hour": Case([Try(reports_s=3_600)], 10_625, {"bob": 9_031}),
    "it reports less than we saw": Case([Try(wall_s=5, reports_s=2)], 21_250, {"bob": 18_062}),
    "it reports a negative time": Case([Try(reports_s=-5)], MIN),
    "it reports no number": Case([Try(reports_s=float("nan"))], MIN),
    "it reports for ever": Case([Try(reports_s=float("inf"))], 10_625, {"bob": 9_031}),
    "a job that ignores TERM": Case(
        [Try(wall_s=65, reason=Reason.TIMEOUT, exit_code=None)], 637_500, {"bob": 541_875},
        FAILS, Reason.TIMEOUT, fault="submitter",
    ),
    "its own failure": Case(
        [Try(exit_code=3)], 10_625, {"bob": 9_031}, FAILS, Reason.EXIT_CODE, fault="submitter"
    ),
    "out of memory": Case(
        [Try(reason=Reason.OUT_OF_MEMORY, exit_code=None)], 10_625, {"bob": 9_031}, FAILS,
        Reason.OUT_OF_MEMORY, fault="submitter",
    ),
    "one's own worker": Case([Try(owner="alice", wall_s=30)], 0),
    "one's own worker, failing": Case(
        [Try(owner="alice", exit_code=1)], 0, {}, FAILS, Reason.EXIT_CODE, fault="submitter"
    ),
    "one's own worker after another's": Case(
        [Try(exit_code=1), Try(owner="alice", wall_s=30)], 10_625, {"bob": 9_031}, spec=AGAIN
    ),
    "another's worker after one's own": Case(
        [Try(owner="alice", wall_s=30, exit_code=1), Try()], 10_625, {"bob": 9_031}, spec=AGAIN
    ),
    "tried again on failure": Case(
        [Try(exit_code=1), Try(owner="carol", exit_code=1), Try()],
        31_875, {"bob": 18_062, "carol": 9_031}, spec=AGAIN,
    ),
    "failed to the last try": Case(
        [Try(exit_code=1)] * 3, 31_875, {"bob": 27_093}, FAILS, Reason.EXIT_CODE, AGAIN,
        "submitter",
    ),
    "the sandbox failed once": Case(
        [Try(wall_s=9, reason=Reason.SANDBOX_ERROR, exit_code=None), Try(owner="carol")],
        10_625, {"carol": 9_031},
    ),
    "the sandbox failed always": Case(
        [Try(wall_s=9, reason=Reason.SANDBOX_ERROR, exit_code=None)] * 3, 0, {}, FAILS,
        Reason.SANDBOX_ERROR, fault="worker",
    ),
    "capped by max_cost": Case(
        [Try(wall_s=30)], 106_250, {"bob": 90_312}, spec=JobSpec(code="x", max_cost=106_250)
    ),
    "capped by the hold of three tries": Case(
        [Try(wall_s=60, exit_code=1)] * 3, 106_250, {"bob": 90_312}, FAILS, Reason.EXIT_CODE,
        JobSpec(code="x", max_cost=106_250, retry_on_failure=True), "submitter",
    ),
    "a job so short that min_cost is its hold": Case(
        [Try(wall_s=0.2)], MIN, {"bob": 903}, spec=JobSpec(code="x", limits=Limits(timeout_s=0.1))
    ),
}  # fmt: skip


async def test_every_rule_of_billing(driver: Driver, admin: Principal) -> None:
    await driver.restart(lease_s=10_000.0)  # nobody sends heartbeats here
    people = {name: await driver.user(name) for name in ("bob", "carol")}
    for number, (name, case) in enumerate(CASES.items()):
        alice = await driver.user(f"alice-{number}")
        people["alice"] = alice
        before = {n: await driver.available(p) for n, p in people.items()}
        submitted = await driver.submit(alice, case.spec)
        for one in case.tries:
            hand = await driver.worker(people[one.owner])
            attempt = await hand.attempt()
            await hand.start(attempt)
            driver.clock.advance(one.wall_s)
            reported = one.wall_s if one.reports_s is None else one.reports_s
            # It leaves before it reports, so that the next try goes to the next worker.
            await driver.grid.workers.pause(admin, hand.worker_id)
            await hand.next()
            await hand.report(
                finished(attempt.key, reported, reason=one.reason, exit_code=one.exit_code)
            )
            await hand.told("ack", attempt.key)
            await hand.gone()
            driver.clock.advance(BACKOFF_S)
        whole = await driver.final(alice, submitted.job_id)
        job, receipt = whole.job, whole.receipt
        assert (job.status, job.reason) == (case.status, case.reason), name
        assert job.cost == case.cost, name
        assert receipt is not None
        reward = sum(case.rewards.values())
        assert (receipt.reward, receipt.fee, receipt.fault) == (
            reward, case.cost - reward, case.fault,
        ), name  # fmt: skip
        assert receipt.released == submitted.held - case.cost, name
        earned = {n: await driver.available(p) - before[n] for n, p in people.items()}
        assert earned.pop("alice") == -case.cost, name
        assert {n: e for n, e in earned.items() if e} == case.rewards, name


async def test_what_was_reported_is_kept_beside_what_is_billed(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    submitted = await driver.submit(alice)
    hand = await driver.worker(bob)
    await hand.run(await hand.attempt(), wall_s=2, reports_s=3_600)
    (attempt,) = (await driver.final(alice, submitted.job_id)).attempts
    assert attempt.usage is not None
    assert (attempt.usage.wall_s, attempt.billed_us) == (3_600, 2_000_000)
    assert attempt.status is AttemptStatus.SUCCEEDED


async def test_time_before_the_start_is_billed_to_nobody(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    """The coordinator sees from `assign` on; what the worker reports is less, and counts."""
    submitted = await driver.submit(alice)
    hand = await driver.worker(bob)
    attempt = await hand.attempt()
    driver.clock.advance(20)
    await hand.run(attempt, wall_s=1)
    assert (await driver.final(alice, submitted.job_id)).job.cost == 10_625


async def test_prices_are_those_of_the_submission(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    submitted = await driver.submit(alice)
    tariff = driver.policy.tariff
    dear = replace(tariff, per_cpu_second=Decimal(10**6), min_cost=10**6, reward_ppm=0)
    await driver.restart(tariff=dear)
    hand = await driver.worker(bob)
    await hand.run(await hand.attempt())
    receipt = (await driver.final(alice, submitted.job_id)).receipt
    assert receipt is not None
    assert (receipt.cost, receipt.reward) == (10_625, 9_031)


async def test_a_grid_that_keeps_everything_and_one_that_keeps_nothing(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    earned = GRANT
    for ppm, reward in ((0, 0), (1_000_000, 10_625)):
        await driver.restart(tariff=replace(driver.policy.tariff, reward_ppm=ppm))
        submitted = await driver.submit(alice)
        hand = await driver.worker(bob)
        await hand.run(await hand.attempt())
        await driver.final(alice, submitted.job_id)
        earned += reward
        assert await driver.available(bob) == earned
        await hand.gone()
