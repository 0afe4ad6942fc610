"""Where a job goes when an attempt of it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridx.domain.attempt import (
    LOST,
    OWN_DOING,
    REPORTABLE,
    TAKEN_BACK,
    AttemptStatus,
    Ending,
    Reason,
)
from gridx.domain.job import (
    BACKOFF_MAX_S,
    FINAL,
    LOST_ON_MAX,
    Failure,
    JobSpec,
    JobStatus,
    Next,
    RetryRule,
    after_attempt,
    backoff_s,
    with_failure,
    without_loss,
    without_past_times,
)

SUCCESS = Ending(AttemptStatus.SUCCEEDED, None, 0)
CANCELLED = Ending(AttemptStatus.CANCELLED)
QUEUED = Next(JobStatus.QUEUED)


def failed(reason: Reason) -> Ending:
    return Ending(AttemptStatus.FAILED, reason)


endings = st.sampled_from([SUCCESS, CANCELLED, LOST, *(failed(reason) for reason in REPORTABLE)])
rules = st.builds(RetryRule, st.integers(1, 20), st.booleans(), st.integers(0, 20))


@pytest.mark.parametrize(
    ("ending", "tried", "of", "retry_on_failure", "cancel", "following"),
    [
        (SUCCESS, 1, 3, False, False, Next(JobStatus.SUCCEEDED)),
        (SUCCESS, 3, 3, True, True, Next(JobStatus.SUCCEEDED)),
        (failed(Reason.EXIT_CODE), 1, 3, False, False, Next(JobStatus.FAILED, Reason.EXIT_CODE)),
        (failed(Reason.EXIT_CODE), 1, 3, True, False, QUEUED),
        (failed(Reason.EXIT_CODE), 3, 3, True, False, Next(JobStatus.FAILED, Reason.EXIT_CODE)),
        (failed(Reason.TIMEOUT), 1, 3, False, False, Next(JobStatus.FAILED, Reason.TIMEOUT)),
        (failed(Reason.SANDBOX_ERROR), 1, 3, False, False, QUEUED),
        (failed(Reason.SANDBOX_ERROR), 3, 3, False, False,
         Next(JobStatus.FAILED, Reason.SANDBOX_ERROR)),
        (failed(Reason.SANDBOX_ERROR), 1, 3, False, True, Next(JobStatus.CANCELLED)),
        (LOST, 2, 3, False, False, QUEUED),
        (LOST, 3, 3, False, False, Next(JobStatus.FAILED, Reason.LOST)),
        (LOST, 1, 3, False, True, Next(JobStatus.CANCELLED)),
        (LOST, 1, 1, True, False, Next(JobStatus.FAILED, Reason.LOST)),
        (TAKEN_BACK, 0, 1, False, False, QUEUED),
        (CANCELLED, 1, 3, False, True, Next(JobStatus.CANCELLED)),
    ],
)  # fmt: skip
def test_after_an_attempt(
    *,
    ending: Ending,
    tried: int,
    of: int,
    retry_on_failure: bool,
    cancel: bool,
    following: Next,
) -> None:
    rule = RetryRule(of, retry_on_failure, tried)
    assert after_attempt(ending, rule, cancel) == following


@given(endings, rules)
def test_a_job_that_is_to_be_cancelled_never_waits_again(ending: Ending, rule: RetryRule) -> None:
    assert after_attempt(ending, rule, cancel_requested=True).status in FINAL


@given(endings, rules, st.booleans())
def test_a_job_fails_for_the_reason_of_its_last_attempt(
    ending: Ending, rule: RetryRule, cancel: bool
) -> None:
    following = after_attempt(ending, rule, cancel)
    if following.status is JobStatus.FAILED:
        assert following.reason is ending.reason
    else:
        assert following.reason is None


@given(st.sampled_from(sorted(REPORTABLE | {Reason.LOST})), st.integers(1, 20), st.booleans())
def test_a_job_that_only_fails_ends_after_max_attempts(
    reason: Reason, of: int, retry_on_failure: bool
) -> None:
    tries = 1
    while after_attempt(failed(reason), RetryRule(of, retry_on_failure, tries), False) == QUEUED:
        tries += 1
    once = reason in OWN_DOING and not retry_on_failure
    assert tries == (1 if once else of)


def test_the_last_three_states_are_final() -> None:
    assert {s for s in JobStatus if s.final} == {
        JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED,
    }  # fmt: skip


# ------------------------------------------------------------------ failures and backoff


def test_a_job_lost_on_three_workers_is_not_tried_again() -> None:
    for lost_on in range(1, LOST_ON_MAX):
        assert after_attempt(LOST, RetryRule(20, False, 9, lost_on), False) == QUEUED
    stops = Next(JobStatus.FAILED, Reason.LOST)
    assert after_attempt(LOST, RetryRule(20, True, 3, LOST_ON_MAX), False) == stops
    # What it did before is forgotten as soon as somebody can run it.
    other = failed(Reason.SANDBOX_ERROR)
    assert after_attempt(other, RetryRule(20, False, 4, LOST_ON_MAX), False) == QUEUED


def test_each_worker_that_failed_is_named_once() -> None:
    broken, told = failed(Reason.SANDBOX_ERROR), failed(Reason.EXIT_CODE)
    failures: tuple[Failure, ...] = ()
    for worker_id, ending in (("a", broken), ("b", LOST), ("c", told), ("a", LOST), ("b", broken)):
        failures = with_failure(failures, worker_id, ending)
    assert failures == (Failure("a", lost=True), Failure("b", lost=True))
    assert with_failure((), "a", SUCCESS) == with_failure((), "a", TAKEN_BACK) == ()


@pytest.mark.parametrize(
    ("ending", "attempts", "least_s", "most_s"),
    [
        (LOST, 1, 0.0, 0.0),
        (LOST, 2, 0.5, 1.0),
        (LOST, 4, 2.0, 4.0),
        (failed(Reason.SANDBOX_ERROR), 1, 0.5, 1.0),
        (failed(Reason.SANDBOX_ERROR), 2, 1.0, 2.0),
        (failed(Reason.EXIT_CODE), 5, 8.0, 16.0),
        (failed(Reason.EXIT_CODE), 20, BACKOFF_MAX_S / 2, BACKOFF_MAX_S),
    ],
)
def test_the_wait_doubles_and_half_of_it_is_chance(
    ending: Ending, attempts: int, least_s: float, most_s: float
) -> None:
    assert backoff_s(ending, attempts, 0.0) == least_s
    assert backoff_s(ending, attempts, 1.0) == most_s


def test_times_that_have_passed_are_left_out_of_a_retry() -> None:
    spec = JobSpec(code="x", not_before=10, deadline=20)
    assert without_past_times(spec, 9) == spec
    assert without_past_times(spec, 10) == JobSpec(code="x", deadline=20)
    assert without_past_times(spec, 20) == JobSpec(code="x")


def test_a_worker_that_tells_the_end_late_did_not_kill_the_job() -> None:
    lost = with_failure(with_failure((), "a", LOST), "b", LOST)
    assert without_loss(lost, "a") == (Failure("a", lost=False), Failure("b", lost=True))
