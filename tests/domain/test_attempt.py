"""What a worker's report makes of an attempt."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridx.domain.attempt import (
    OWN_DOING,
    REPORTABLE,
    USAGE_MAX,
    AttemptStatus,
    Ending,
    Reason,
    Usage,
    ending_of_report,
)

FAILED, CANCELLED = AttemptStatus.FAILED, AttemptStatus.CANCELLED
BROKEN = Ending(FAILED, Reason.SANDBOX_ERROR)


@pytest.mark.parametrize(
    ("reason", "exit_code", "ending"),
    [
        (None, 0, Ending(AttemptStatus.SUCCEEDED, None, 0)),
        (None, 1, Ending(FAILED, Reason.EXIT_CODE, 1)),
        (None, 137, Ending(FAILED, Reason.EXIT_CODE, 137)),
        (None, None, BROKEN),
        (Reason.EXIT_CODE, 3, Ending(FAILED, Reason.EXIT_CODE, 3)),
        (Reason.EXIT_CODE, 0, BROKEN),
        (Reason.EXIT_CODE, None, BROKEN),
        (Reason.TIMEOUT, None, Ending(FAILED, Reason.TIMEOUT)),
        (Reason.TIMEOUT, 143, Ending(FAILED, Reason.TIMEOUT)),
        (Reason.OUT_OF_MEMORY, None, Ending(FAILED, Reason.OUT_OF_MEMORY)),
        (Reason.OUTPUT_LIMIT, None, Ending(FAILED, Reason.OUTPUT_LIMIT)),
        (Reason.DISK_LIMIT, 1, Ending(FAILED, Reason.DISK_LIMIT)),
        (Reason.PROCESS_LIMIT, 1, Ending(FAILED, Reason.PROCESS_LIMIT)),
        (Reason.SANDBOX_ERROR, None, BROKEN),
        (Reason.CANCELLED, None, BROKEN),
        (Reason.LOST, None, BROKEN),
        (Reason.EXPIRED, None, BROKEN),
        (Reason.DEPENDENCY_FAILED, None, BROKEN),
    ],
)
def test_the_end_of_an_attempt_nobody_cancelled(
    reason: Reason | None, exit_code: int | None, ending: Ending
) -> None:
    assert ending_of_report(reason, exit_code, cancelled=False) == ending


@pytest.mark.parametrize("reason", [None, *Reason])
def test_a_cancelled_job_is_cancelled_however_its_program_ended(reason: Reason | None) -> None:
    ending = ending_of_report(reason, 0, cancelled=True)
    assert ending == (BROKEN if reason is Reason.SANDBOX_ERROR else Ending(CANCELLED))


@given(st.none() | st.sampled_from(Reason), st.none() | st.integers(0, 255), st.booleans())
def test_every_report_ends_an_attempt_with_a_reason_it_may_have(
    reason: Reason | None, exit_code: int | None, cancelled: bool
) -> None:
    ending = ending_of_report(reason, exit_code, cancelled)
    assert not ending.status.live
    assert (ending.status is FAILED) == (ending.reason is not None)
    assert ending.reason is None or ending.reason in REPORTABLE
    # Only a program that ended by itself has an exit code.
    by_itself = ending.status is AttemptStatus.SUCCEEDED or ending.reason is Reason.EXIT_CODE
    assert (ending.exit_code is not None) == by_itself


@pytest.mark.parametrize(
    ("reported", "kept"),
    [
        (Usage(1.5, 0.5, 20.0), Usage(1.5, 0.5, 20.0)),
        (Usage(-1.0, -1e300, -0.5), Usage(0.0, 0.0, 0.0)),
        (Usage(math.inf, math.nan, -math.inf), Usage(USAGE_MAX, 0.0, 0.0)),
    ],
)
def test_usage_is_kept_as_kept(reported: Usage, kept: Usage) -> None:
    assert reported.as_kept() == kept


def test_a_worker_cannot_report_what_only_the_grid_decides() -> None:
    assert Reason.LOST not in REPORTABLE
    assert Reason.EXPIRED not in REPORTABLE
    assert Reason.DEPENDENCY_FAILED not in REPORTABLE
    assert OWN_DOING < REPORTABLE


def test_a_lease_lives_while_an_attempt_is_assigned_or_runs() -> None:
    assert {s for s in AttemptStatus if s.live} == {AttemptStatus.ASSIGNED, AttemptStatus.RUNNING}
