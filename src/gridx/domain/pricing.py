"""What a job costs at most (its hold), how long an attempt may run, and what it did cost.

All money is in micro-credits, all billed time in microseconds; the formulas are those of the
"Credits" section of the public contract.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from msgspec import Struct

from gridx.domain.attempt import OWN_DOING, Attempt, AttemptStatus, Reason
from gridx.domain.errors import Detail, InvalidInput
from gridx.domain.job import FINAL, LOST_ON_MAX, Job, JobSpec, JobStatus, Terms
from gridx.domain.money import format_credits, round_half_even
from gridx.domain.resources import Resources

SECOND_US = 1_000_000
PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Tariff:
    """The grid's prices; a job keeps those of its submission.

    `per_cpu_second` in micro-credits; the memory and GPU factors turn those into CPUs;
    `reward_ppm` is the owner's share in parts per million.
    """

    per_cpu_second: Decimal = Decimal(10_000)
    memory_mb_per_cpu: Decimal = Decimal(4096)
    cpus_per_gpu: Decimal = Decimal(4)
    min_cost: int = 5_000
    max_cost: int = 100_000_000
    reward_ppm: int = 850_000


@lru_cache(maxsize=4096)
def price_per_second(resources: Resources, tariff: Tariff) -> int:
    """Micro-credits a second: unit x (cpus + memory_mb / 4096 + 4 x gpus), half to even, >= 1."""
    cpus = Fraction(str(resources.cpus))
    cpus += Fraction(resources.memory_mb) / Fraction(tariff.memory_mb_per_cpu)
    cpus += Fraction(tariff.cpus_per_gpu) * resources.gpus
    return max(1, round(Fraction(tariff.per_cpu_second) * cpus))


def terms_of(spec: JobSpec, tariff: Tariff) -> Terms:
    """The terms a job is submitted under.

    Raises `InvalidInput` naming `max_cost` when the job's own cap is below the grid's minimum, or
    pays for less than a second and less than was asked.
    """
    price = price_per_second(spec.resources, tariff)
    tries = spec.max_attempts if spec.retry_on_failure else 1
    asked_us = _microseconds(spec.limits.timeout_s)
    cap = tariff.max_cost
    if spec.max_cost is not None:
        if spec.max_cost < tariff.min_cost:
            raise _max_cost(f"max_cost is at least {format_credits(tariff.min_cost)}")
        cap = min(cap, spec.max_cost)
    asked_cost = round_half_even(price * asked_us * tries, SECOND_US)
    hold = min(max(asked_cost, tariff.min_cost, 1), cap)  # a hold of nothing is no movement
    limit_us = asked_us if asked_cost <= hold else hold * SECOND_US // (price * tries)
    if limit_us < min(SECOND_US, asked_us):
        raise _max_cost(
            f"max_cost pays for only {limit_us / SECOND_US:g} s at "
            f"{format_credits(price)} credits a second: raise max_cost or ask for less"
        )
    return Terms(price, tariff.reward_ppm, tariff.min_cost, hold, limit_us)


@lru_cache(maxsize=4096)
def _microseconds(seconds: float) -> int:
    return round(Fraction(str(seconds)) * SECOND_US)


def _max_cost(message: str) -> InvalidInput:
    return InvalidInput(message, [Detail("max_cost", message)])


def billed_us(
    status: AttemptStatus,
    reason: Reason | None,
    *,
    own_worker: bool,
    reported_us: int,
    limit_us: int,
    observed_us: int,
) -> int:
    """Billed microseconds of an attempt that ended.

    The least of what the worker reports, the attempt's limit and what the coordinator saw between
    sending `assign` and receiving `finished`; 0 for an attempt on the submitter's own worker and
    for one that did not end by the job's own doing.
    """
    if own_worker or not ended_by_itself(status, reason):
        return 0
    return max(0, min(reported_us, limit_us, observed_us))


def ended_by_itself(status: AttemptStatus, reason: Reason | None) -> bool:
    """Whether an attempt ended by the job's own doing: success, its own failure, or cancelled."""
    return status in (AttemptStatus.SUCCEEDED, AttemptStatus.CANCELLED) or reason in OWN_DOING


class Bill(Struct, frozen=True):
    """One attempt that ended by the job's own doing: whose worker it was and what is billed of it."""

    owner: str
    own_worker: bool
    billed_us: int


class Settlement(Struct, frozen=True):
    """How a hold is resolved: cost + released = hold, and the rewards + fee = cost."""

    cost: int
    released: int
    rewards: tuple[tuple[str, int], ...]
    fee: int
    billed_us: int

    @property
    def reward(self) -> int:
        return sum(amount for _, amount in self.rewards)


def settle(terms: Terms, bills: Sequence[Bill]) -> Settlement:
    """Resolve the hold of a job that became final.

    `bills` are its attempts that ended by the job's own doing. On another's worker at least
    `min_cost` is charged; what `min_cost` adds is never reward.
    """
    billed = sum(bill.billed_us for bill in bills)
    cost = round_half_even(terms.price_per_second * billed, SECOND_US)
    if any(not bill.own_worker for bill in bills):
        cost = max(cost, terms.min_cost)
    cost = min(cost, terms.hold)
    earned: dict[str, int] = {}
    left = cost
    for bill in bills:
        share = terms.reward_ppm * terms.price_per_second * bill.billed_us // (PPM * SECOND_US)
        share = min(share, left)
        left -= share
        if share:
            earned[bill.owner] = earned.get(bill.owner, 0) + share
    return Settlement(cost, terms.hold - cost, tuple(sorted(earned.items())), left, billed)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a final job's hold, who bears the cost, and why."""

    price_per_second: int
    billed_us: int
    held: int
    cost: int
    released: int
    reward: int
    fee: int
    fault: str
    why: str


def receipt_of(job: Job, attempts: Sequence[Attempt]) -> Receipt | None:
    """The receipt of a job with these attempts; None while it is not final."""
    if job.status not in FINAL:
        return None
    assert job.cost is not None and job.reward is not None and job.billed_us is not None
    lost_on = {a.worker_id for a in attempts if a.status is AttemptStatus.LOST and a.counted}
    says = verdict(
        job.status,
        job.reason,
        job.cost,
        job.billed_us,
        ran=job.started_at is not None,
        lost_on=len(lost_on),
    )
    return Receipt(
        price_per_second=job.price_per_second,
        billed_us=job.billed_us,
        held=job.held,
        cost=job.cost,
        released=job.held - job.cost,
        reward=job.reward,
        fee=job.cost - job.reward,
        fault=says.fault,
        why=says.why,
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who bears a cost, and why, in a sentence for a person."""

    fault: str
    why: str


_WHY = {
    Reason.EXIT_CODE: "The program ended with an error of its own",
    Reason.TIMEOUT: "The program ran into its time limit",
    Reason.OUT_OF_MEMORY: "The program used more memory than it asked for",
    Reason.OUTPUT_LIMIT: "The program wrote more output than it may",
    Reason.DISK_LIMIT: "The program wrote more to disk than it asked for",
    Reason.PROCESS_LIMIT: "The program started more processes than it may",
}


def verdict(
    status: JobStatus,
    reason: Reason | None,
    cost: int,
    billed_us: int,
    *,
    ran: bool,
    lost_on: int = 0,
) -> Verdict:
    """The receipt's `fault` and `why` of a final job.

    `ran` says whether it ever started, `lost_on` on how many different workers it was lost.
    """
    charge = "nothing is charged"
    if cost:
        charge = (
            f"{format_credits(cost)} credits are charged to the submitter for "
            f"{billed_us / SECOND_US:.6f} s of run time"
        )
    if status is JobStatus.SUCCEEDED:
        own = "" if cost else ", because it ran on the submitter's own worker"
        return Verdict("none", f"The job succeeded: {charge}{own}.")
    if status is JobStatus.CANCELLED:
        when = "" if ran else " before it started"
        return Verdict("submitter", f"The submitter cancelled the job{when}: {charge}.")
    if reason is not None and reason in _WHY:
        return Verdict("submitter", f"{_WHY[reason]}: {charge}.")
    match reason:
        case Reason.LOST if lost_on >= LOST_ON_MAX:
            why = f"The job was lost on {lost_on} different workers and is not tried again, because"
            return Verdict("worker", f"{why} it may be what brings them down: {charge}.")
        case Reason.LOST:
            return Verdict("worker", f"The workers that ran the job were lost: {charge}.")
        case Reason.SANDBOX_ERROR:
            return Verdict("worker", f"The workers could not run the job: {charge}.")
        case Reason.DEPENDENCY_FAILED:
            return Verdict("submitter", f"A job it waits for failed: {charge}.")
        case _:
            return Verdict("grid", f"No worker took the job in time: {charge}.")


def attempt_verdict(attempt: Attempt, submitter: str) -> Verdict | None:
    """Whose fault the end of an attempt was, and who pays for it; None while it has not ended."""
    if attempt.status.live:
        return None
    charge = "nothing is charged"
    if attempt.billed_us:
        charge = f"the submitter pays for {attempt.billed_us / SECOND_US:.6f} s"
    elif attempt.owner_id == submitter:
        charge = "nothing is charged on the submitter's own worker"
    match attempt.status:
        case AttemptStatus.SUCCEEDED:
            return Verdict("none", f"It succeeded: {charge}.")
        case AttemptStatus.CANCELLED if attempt.usage is None:
            return Verdict("none", "It was taken back before it started: nobody pays.")
        case AttemptStatus.CANCELLED:
            return Verdict("submitter", f"The submitter cancelled it while it ran: {charge}.")
        case AttemptStatus.LOST if not attempt.counted:
            return Verdict("worker", "Its worker left and handed it over: nobody pays.")
        case AttemptStatus.LOST:
            return Verdict("worker", "Its worker let the lease run out: nobody pays.")
        case _ if attempt.reason is not None and attempt.reason in _WHY:
            return Verdict("submitter", f"{_WHY[attempt.reason]}: {charge}.")
        case _:
            return Verdict("worker", "Its worker could not run it: nobody pays.")
