"""Settings that can be misread: what they take, and what they mean."""

import math

import pytest

from gridx.config import load_settings
from gridx.domain.errors import InvalidInput
from gridx.server.policy import policy_of


def retention(value: str) -> float:
    settings = load_settings({}, {"GRIDX_RETENTION__JOBS_S": value})
    return policy_of(settings).retention.jobs_s


@pytest.mark.parametrize(("value", "age_s"), [("forever", math.inf), ("60", 60.0), ("0.5", 0.5)])
def test_an_age_is_seconds_or_for_ever(value: str, age_s: float) -> None:
    assert retention(value) == age_s


@pytest.mark.parametrize("value", ["0", "-1", "null", "none", "", "inf", "nan", "never", "30d"])
def test_what_could_be_read_both_ways_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"retention\.jobs_s"):
        retention(value)
