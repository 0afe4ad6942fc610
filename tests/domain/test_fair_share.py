"""Decayed use of the grid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridx.domain.fair_share import Share, standing

HOUR = 3_600.0


def test_use_is_halved_every_half_life() -> None:
    share = Share(100.0, 0.0)
    assert share.at(HOUR, HOUR).used == pytest.approx(50)
    assert share.at(3 * HOUR, HOUR).used == pytest.approx(12.5)
    assert share.plus(10, HOUR, HOUR).used == pytest.approx(60)


@given(st.floats(0, 1e9), st.floats(0, 1e6), st.floats(0, 1e6))
def test_it_does_not_matter_how_often_one_looks(used: float, first: float, then: float) -> None:
    share = Share(used, 0.0)
    at_once = share.at(first + then, HOUR).used
    assert share.at(first, HOUR).at(first + then, HOUR).used == pytest.approx(at_once)


@given(st.floats(0, 1e9), st.floats(0, 1e6))
def test_time_that_goes_back_forgives_and_adds_nothing(used: float, back: float) -> None:
    assert Share(used, 1e6).at(1e6 - back, HOUR).used == used


def test_what_runs_counts_and_weight_divides() -> None:
    assert standing(Share(10.0), 30.0, 1.0) == 40.0
    assert standing(Share(10.0), 30.0, 4.0) == 10.0
