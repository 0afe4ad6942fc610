"""Prices, holds, limits, settlements and receipts: tables of the contract's cases, and properties."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from gridx.domain.attempt import Attempt, AttemptStatus, Reason, Usage
from gridx.domain.errors import InvalidInput
from gridx.domain.job import FINAL, JobSpec, JobStatus, Limits, Terms
from gridx.domain.pricing import (
    Bill,
    Tariff,
    attempt_verdict,
    billed_us,
    price_per_second,
    settle,
    terms_of,
    verdict,
)
from gridx.domain.resources import Resources

SECOND = 1_000_000
TARIFF = Tariff()
DEFAULT = Terms(10_625, 850_000, 5_000, 637_500, 60 * SECOND)

specs = st.builds(
    JobSpec,
    code=st.just("x"),
    resources=st.builds(
        Resources,
        st.integers(1, 102_400).map(lambda n: n / 100),
        st.integers(16, 16_777_216),
        st.integers(0, 64),
        st.integers(1, 16_777_216),
    ),
    limits=st.integers(1, 36_000).map(lambda n: Limits(timeout_s=n / 10)),
    max_attempts=st.integers(1, 20),
    retry_on_failure=st.booleans(),
    max_cost=st.none() | st.integers(5_000, 10**9),
)
tariffs = st.builds(
    Tariff,
    per_cpu_second=st.integers(0, 10**9).map(lambda n: Decimal(n) / 1_000),
    min_cost=st.integers(0, 5_000),
    max_cost=st.integers(5_000, 10**12),
    reward_ppm=st.integers(0, 1_000_000),
)


# ------------------------------------------------------------------ price


@pytest.mark.parametrize(
    ("resources", "price"),
    [
        (Resources(), 10_625),
        (Resources(1, 4096, 0, 1), 20_000),
        (Resources(0.01, 16, 0, 1), 139),  # 139.0625
        (Resources(1, 16, 1, 1), 50_039),  # 50,039.0625
        (Resources(2, 1024, 4, 9_999), 182_500),
        (Resources(0.1, 16, 0, 1), 1_039),  # 0.1 is a tenth, not its nearest binary fraction
    ],
)
def test_the_price_of_a_second(resources: Resources, price: int) -> None:
    assert price_per_second(resources, TARIFF) == price


def test_an_hour_of_the_default_job_costs_what_the_contract_says() -> None:
    assert price_per_second(Resources(), TARIFF) * 3_600 == 38_250_000


def test_nothing_is_free_of_charge_by_rounding() -> None:
    assert price_per_second(Resources(), replace(TARIFF, per_cpu_second=Decimal(0))) == 1


# ------------------------------------------------------------------ hold and limit


@pytest.mark.parametrize(
    ("spec", "hold", "limit_s"),
    [
        (JobSpec(), 637_500, 60),
        (JobSpec(max_attempts=3, retry_on_failure=True), 1_912_500, 60),
        (JobSpec(max_attempts=20), 637_500, 60),
        (JobSpec(limits=Limits(timeout_s=0.1)), 5_000, 0.1),
        (JobSpec(limits=Limits(timeout_s=3600)), 38_250_000, 3600),
        (JobSpec(limits=Limits(timeout_s=3600), max_attempts=3, retry_on_failure=True),
         100_000_000, 3137.254901),
        (JobSpec(max_cost=637_500), 637_500, 60),
        (JobSpec(max_cost=637_499), 637_499, 59.999905),
        (JobSpec(max_cost=10**12), 637_500, 60),
        (JobSpec(max_cost=10_625), 10_625, 1),
        (JobSpec(max_cost=5_000, limits=Limits(timeout_s=0.4)), 5_000, 0.4),
        (JobSpec(max_cost=31_875, max_attempts=3, retry_on_failure=True), 31_875, 1),
    ],
)  # fmt: skip
def test_hold_and_limit(spec: JobSpec, hold: int, limit_s: float) -> None:
    terms = terms_of(spec, TARIFF)
    assert terms == Terms(10_625, 850_000, 5_000, hold, round(limit_s * SECOND))


@pytest.mark.parametrize(
    "spec",
    [
        JobSpec(max_cost=4_999),
        JobSpec(max_cost=1),
        JobSpec(max_cost=10_624),
        JobSpec(max_cost=5_000),
        JobSpec(max_cost=5_000, limits=Limits(timeout_s=0.5)),
        JobSpec(max_cost=31_874, max_attempts=3, retry_on_failure=True),
    ],
)
def test_a_max_cost_that_pays_for_too_little_is_refused_by_name(spec: JobSpec) -> None:
    with pytest.raises(InvalidInput) as refused:
        terms_of(spec, TARIFF)
    assert [detail.field for detail in refused.value.details] == ["max_cost"]


def terms_or_none(spec: JobSpec, tariff: Tariff) -> Terms | None:
    try:
        return terms_of(spec, tariff)
    except InvalidInput:
        return None


@given(specs, tariffs)
def test_nothing_runs_longer_than_its_hold_pays(spec: JobSpec, tariff: Tariff) -> None:
    terms = terms_or_none(spec, tariff)
    assume(terms is not None)
    assert terms is not None
    tries = spec.max_attempts if spec.retry_on_failure else 1
    full = Fraction(terms.price_per_second * terms.limit_us * tries, SECOND)
    assert round(full) <= terms.hold
    assert terms.limit_us <= round(spec.limits.timeout_s * SECOND)
    assert 0 < terms.hold <= tariff.max_cost
    assert spec.max_cost is None or terms.hold <= spec.max_cost
    assert terms.hold >= tariff.min_cost


@given(specs)
def test_a_job_without_a_cap_gets_the_time_it_asked_for_or_a_full_hold(spec: JobSpec) -> None:
    spec = changed(spec, max_cost=None)
    terms = terms_or_none(spec, TARIFF)
    assume(terms is not None)
    assert terms is not None
    asked_us = round(Fraction(str(spec.limits.timeout_s)) * SECOND)
    assert terms.limit_us == asked_us or terms.hold == TARIFF.max_cost


# ------------------------------------------------------------------ billed time


@pytest.mark.parametrize(
    ("status", "reason", "own", "reported", "limit", "observed", "billed"),
    [
        (AttemptStatus.SUCCEEDED, None, False, 5, 60, 6, 5),
        (AttemptStatus.SUCCEEDED, None, False, 3_600, 60, 6, 6),  # it reports an hour
        (AttemptStatus.SUCCEEDED, None, False, 70, 60, 80, 60),  # it ignored TERM
        (AttemptStatus.SUCCEEDED, None, False, 0, 60, 6, 0),
        (AttemptStatus.SUCCEEDED, None, False, -5, 60, 6, 0),
        (AttemptStatus.SUCCEEDED, None, False, 5, 60, -1, 0),  # a clock went back
        (AttemptStatus.SUCCEEDED, None, True, 5, 60, 6, 0),
        (AttemptStatus.FAILED, Reason.EXIT_CODE, False, 5, 60, 6, 5),
        (AttemptStatus.FAILED, Reason.TIMEOUT, False, 62, 60, 63, 60),
        (AttemptStatus.FAILED, Reason.OUT_OF_MEMORY, False, 5, 60, 6, 5),
        (AttemptStatus.FAILED, Reason.OUTPUT_LIMIT, False, 5, 60, 6, 5),
        (AttemptStatus.FAILED, Reason.DISK_LIMIT, False, 5, 60, 6, 5),
        (AttemptStatus.FAILED, Reason.PROCESS_LIMIT, False, 5, 60, 6, 5),
        (AttemptStatus.CANCELLED, None, False, 5, 60, 6, 5),
        (AttemptStatus.FAILED, Reason.SANDBOX_ERROR, False, 5, 60, 6, 0),
        (AttemptStatus.LOST, Reason.LOST, False, 5, 60, 6, 0),
    ],
)  # fmt: skip
def test_billed_time(
    *,
    status: AttemptStatus,
    reason: Reason | None,
    own: bool,
    reported: int,
    limit: int,
    observed: int,
    billed: int,
) -> None:
    assert billed == billed_us(
        status, reason, own_worker=own, reported_us=reported, limit_us=limit, observed_us=observed
    )


# ------------------------------------------------------------------ settling


@pytest.mark.parametrize(
    ("bills", "cost", "rewards", "fee"),
    [
        ([], 0, (), 0),
        ([Bill("bob", False, 60 * SECOND)], 637_500, (("bob", 541_875),), 95_625),
        ([Bill("bob", False, SECOND)], 10_625, (("bob", 9_031),), 1_594),
        ([Bill("bob", False, 0)], 5_000, (), 5_000),
        # What min_cost adds is never reward: 1,062.5 rounds to 1,062, of which 903 are bob's.
        ([Bill("bob", False, 100_000)], 5_000, (("bob", 903),), 4_097),
        ([Bill("alice", True, 0)], 0, (), 0),
        # Her own worker after another's, and before it.
        ([Bill("bob", False, SECOND), Bill("alice", True, 0)], 10_625, (("bob", 9_031),), 1_594),
        ([Bill("alice", True, 0), Bill("bob", False, 0)], 5_000, (), 5_000),
        ([Bill("bob", False, SECOND), Bill("carol", False, SECOND)], 21_250,
         (("bob", 9_031), ("carol", 9_031)), 3_188),
        ([Bill("bob", False, SECOND), Bill("bob", False, SECOND)], 21_250,
         (("bob", 18_062),), 3_188),
        # Never above the hold, whatever was billed.
        ([Bill("bob", False, 3_600 * SECOND)], 637_500, (("bob", 637_500),), 0),
    ],
)  # fmt: skip
def test_settling_the_default_job(
    bills: list[Bill], cost: int, rewards: tuple[tuple[str, int], ...], fee: int
) -> None:
    settled = settle(DEFAULT, bills)
    assert (settled.cost, settled.rewards, settled.fee) == (cost, rewards, fee)
    assert settled.released == 637_500 - cost


terms_strategy = st.builds(
    Terms,
    st.integers(1, 10**8),
    st.integers(0, 1_000_000),
    st.integers(0, 10**5),
    st.integers(1, 10**11),
    st.integers(1, 3_600 * SECOND),
)
bills_strategy = st.lists(
    st.builds(Bill, st.sampled_from(["bob", "carol", "dave"]), st.just(False),
              st.integers(0, 3_600 * SECOND))
    | st.just(Bill("alice", True, 0)),
    max_size=20,
)  # fmt: skip


@given(terms_strategy, bills_strategy)
def test_the_parts_always_add_up_to_the_whole(terms: Terms, bills: list[Bill]) -> None:
    settled = settle(terms, bills)
    assert settled.cost + settled.released == terms.hold
    assert settled.reward + settled.fee == settled.cost
    assert 0 <= settled.cost <= terms.hold
    assert settled.fee >= 0
    assert all(amount > 0 for _, amount in settled.rewards)
    assert settled.billed_us == sum(bill.billed_us for bill in bills)


@given(terms_strategy, bills_strategy)
def test_a_reward_is_never_above_the_owners_share_of_what_was_billed(
    terms: Terms, bills: list[Bill]
) -> None:
    settled = settle(terms, bills)
    for owner, amount in settled.rewards:
        billed = sum(bill.billed_us for bill in bills if bill.owner == owner)
        share = Fraction(terms.reward_ppm * terms.price_per_second * billed, 10**6 * SECOND)
        assert amount <= share
    assert "alice" not in dict(settled.rewards)


@given(terms_strategy, st.lists(st.just(Bill("alice", True, 0))))
def test_ones_own_workers_are_free(terms: Terms, bills: list[Bill]) -> None:
    assert settle(terms, bills).cost == 0


@given(terms_strategy, bills_strategy)
def test_min_cost_is_charged_for_anything_on_anothers_worker(
    terms: Terms, bills: list[Bill]
) -> None:
    if any(not bill.own_worker for bill in bills):
        assert settle(terms, bills).cost >= min(terms.min_cost, terms.hold)


# ------------------------------------------------------------------ receipts

CHARGED = "0.010625 credits are charged to the submitter for 1.000000 s of run time."


@pytest.mark.parametrize(
    ("status", "reason", "cost", "ran", "fault", "why"),
    [
        (JobStatus.SUCCEEDED, None, 10_625, True, "none",
         f"The job succeeded: {CHARGED}"),
        (JobStatus.SUCCEEDED, None, 0, True, "none",
         "The job succeeded: nothing is charged, because it ran on the submitter's own worker."),
        (JobStatus.CANCELLED, None, 0, False, "submitter",
         "The submitter cancelled the job before it started: nothing is charged."),
        (JobStatus.CANCELLED, None, 10_625, True, "submitter",
         f"The submitter cancelled the job: {CHARGED}"),
        (JobStatus.FAILED, Reason.TIMEOUT, 10_625, True, "submitter",
         f"The program ran into its time limit: {CHARGED}"),
        (JobStatus.FAILED, Reason.LOST, 0, True, "worker",
         "The workers that ran the job were lost: nothing is charged."),
        (JobStatus.FAILED, Reason.SANDBOX_ERROR, 0, True, "worker",
         "The workers could not run the job: nothing is charged."),
        (JobStatus.FAILED, Reason.DEPENDENCY_FAILED, 0, False, "submitter",
         "A job it waits for failed: nothing is charged."),
        (JobStatus.FAILED, Reason.EXPIRED, 0, False, "grid",
         "No worker took the job in time: nothing is charged."),
    ],
)  # fmt: skip
def test_the_receipt_says_who_bears_it_and_why(
    *, status: JobStatus, reason: Reason | None, cost: int, ran: bool, fault: str, why: str
) -> None:
    says = verdict(status, reason, cost, SECOND, ran=ran)
    assert (says.fault, says.why) == (fault, why)


@pytest.mark.parametrize("reason", [r for r in Reason if r is not Reason.CANCELLED])
def test_every_reason_has_its_sentence(reason: Reason) -> None:
    says = verdict(JobStatus.FAILED, reason, 0, 0, ran=True)
    assert says.fault in {"submitter", "worker", "grid"}
    assert says.why.endswith("nothing is charged.")


@given(st.sampled_from(sorted(FINAL)), st.integers(1, 10**9), st.booleans())
def test_a_receipt_names_what_is_charged(status: JobStatus, cost: int, ran: bool) -> None:
    assert "credits are charged" in verdict(status, None, cost, 1, ran=ran).why


def attempt(status: AttemptStatus, reason: Reason | None = None, **more: object) -> Attempt:
    usual: dict[str, object] = {
        "job_id": "j", "number": 1, "lease": "l", "worker_id": "w", "owner_id": "bob",
        "exit_code": None, "counted": True, "assigned_at": 0, "started_at": 1, "finished_at": 2,
        "usage": Usage(1.0), "billed_us": 0, "sandbox": None,
    }  # fmt: skip
    return Attempt(status=status, reason=reason, **(usual | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ended", "own", "fault", "says"),
    [
        (attempt(AttemptStatus.SUCCEEDED, billed_us=SECOND), False, "none", "pays for 1.000000 s"),
        (attempt(AttemptStatus.SUCCEEDED), True, "none", "own worker"),
        (attempt(AttemptStatus.FAILED, Reason.EXIT_CODE), False, "submitter", "error of its own"),
        (attempt(AttemptStatus.FAILED, Reason.SANDBOX_ERROR), False, "worker", "nobody pays"),
        (attempt(AttemptStatus.LOST, Reason.LOST, usage=None), False, "worker", "lease run out"),
        (attempt(AttemptStatus.LOST, Reason.LOST, usage=None, counted=False), False, "worker",
         "handed it over"),
        (attempt(AttemptStatus.CANCELLED, billed_us=SECOND), False, "submitter", "pays for 1.0"),
        (attempt(AttemptStatus.CANCELLED, usage=None, counted=False), False, "none", "taken back"),
    ],
)  # fmt: skip
def test_each_attempt_says_whose_fault_it_was_and_who_pays(
    *, ended: Attempt, own: bool, fault: str, says: str
) -> None:
    found = attempt_verdict(ended, "bob" if own else "alice")
    assert found is not None
    assert found.fault == fault
    assert says in found.why
    assert found.why.endswith(".")


def test_an_attempt_that_has_not_ended_is_nobodys_fault() -> None:
    assert attempt_verdict(attempt(AttemptStatus.RUNNING, usage=None), "alice") is None


def test_a_job_that_brings_workers_down_is_told_so() -> None:
    for lost_on, told in ((2, False), (3, True)):
        says = verdict(JobStatus.FAILED, Reason.LOST, 0, 0, ran=True, lost_on=lost_on)
        assert ("different workers" in says.why) is told
        assert says.fault == "worker"
