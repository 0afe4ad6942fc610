"""Ceilings of a grid."""

import pytest

from gridx.domain.errors import InvalidInput
from gridx.domain.job import JobSpec, Limits
from gridx.domain.policy import Policy, check_ceilings

POLICY = Policy(storage_url="sqlite:///grid.db")


def test_the_ceilings_themselves_are_allowed() -> None:
    check_ceilings(JobSpec(limits=Limits(3_600.0, 1_048_576, 64)), POLICY)


@pytest.mark.parametrize(
    ("limits", "fields"),
    [
        (Limits(timeout_s=3_600.1), ["limits.timeout_s"]),
        (Limits(output_bytes=1_048_577), ["limits.output_bytes"]),
        (Limits(processes=65), ["limits.processes"]),
        (Limits(1e9, 10**9, 10**9),
         ["limits.timeout_s", "limits.output_bytes", "limits.processes"]),
    ],
)  # fmt: skip
def test_above_a_ceiling_is_refused_by_name(limits: Limits, fields: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_ceilings(JobSpec(limits=limits), POLICY)
    assert [detail.field for detail in refused.value.details] == fields
