"""Amounts of resources: sums, what fits, and how many fit side by side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridx.domain.resources import NOTHING, Resources, total

amounts = st.builds(
    Resources,
    st.integers(1, 10_240).map(lambda n: n / 100),
    st.integers(16, 100_000),
    st.integers(0, 8),
    st.integers(1, 100_000),
)


@given(amounts, amounts)
def test_what_is_added_can_be_taken_away_again(one: Resources, other: Resources) -> None:
    assert one.plus(other).minus(other) == one
    assert one.plus(other) == other.plus(one)


@given(amounts, st.integers(1, 60))
def test_times_is_repeated_addition(one: Resources, count: int) -> None:
    assert one.times(count) == total([one] * count)


@given(amounts, amounts)
def test_as_many_copies_fit_as_are_counted_and_not_one_more(
    need: Resources, room: Resources
) -> None:
    copies = need.copies_in(room)
    assert need.times(copies).fits(room) or copies == 0
    assert not need.times(copies + 1).fits(room)
    assert (copies > 0) == need.fits(room)


@given(amounts, amounts)
def test_capped_is_within_both(one: Resources, cap: Resources) -> None:
    capped = one.capped(cap)
    assert capped.fits(one)
    assert capped.fits(cap)


@pytest.mark.parametrize(
    ("need", "room", "copies"),
    [
        (Resources(0.1, 16, 0, 1), Resources(1.0, 1024, 0, 1024), 10),
        (Resources(0.3, 16, 0, 1), Resources(0.9, 1024, 0, 1024), 3),
        (Resources(1, 256, 1, 1), Resources(8, 8192, 2, 1024), 2),
        (Resources(1, 256, 1, 1), Resources(8, 8192, 0, 1024), 0),
        (Resources(1, 256, 0, 512), Resources(8, 8192, 4, 1024), 2),
        (Resources(1, 256, 0, 256), Resources(-1, 8192, 0, 1024), 0),
        (Resources(1, 256, 0, 256), NOTHING, 0),
        (NOTHING, Resources(), 0),
    ],
)
def test_copies_in(need: Resources, room: Resources, copies: int) -> None:
    assert need.copies_in(room) == copies


def test_nothing_is_the_sum_of_nothing() -> None:
    assert total([]) == NOTHING
