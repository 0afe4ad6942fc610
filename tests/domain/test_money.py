"""Credits as text and back, and rounding to the micro-credit."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridx.domain.money import (
    AMOUNT_MICROCREDITS_MAX,
    format_credits,
    parse_credits,
    round_half_even,
)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1", 1_000_000),
        ("0.000001", 1),
        ("12.5", 12_500_000),
        ("007", 7_000_000),
        ("000000000001", 1_000_000),
        ("999999999999.999999", AMOUNT_MICROCREDITS_MAX),
    ],
)
def test_amounts_are_read_to_the_microcredit(text: str, amount: int) -> None:
    assert parse_credits(text) == amount


@pytest.mark.parametrize(
    "text",
    [
        "", "0", "0.000000", "-1", "+1", "1e3", "1,5", ".5", "5.", "1.0000001", " 1", "1 ", "1\n",
        "NaN", "Infinity", "0x10", "1_000", "\u0661", "1.\u0665", "1000000000000", "0" * 12 + "1", "1" * 16, "9" * 400,
        "1'; DROP TABLE transfers; --",
    ],
)  # fmt: skip
def test_other_texts_are_no_amounts(text: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        parse_credits(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.000000"), (1, "0.000001"), (-1, "-0.000001"), (-637_500, "-0.637500"),
     (100_000_000, "100.000000"), (10**21, "1000000000000000.000000")],
)  # fmt: skip
def test_amounts_are_shown_with_six_places(amount: int, text: str) -> None:
    assert format_credits(amount) == text


@given(st.integers(1, AMOUNT_MICROCREDITS_MAX))
def test_what_is_shown_is_read_back(amount: int) -> None:
    assert parse_credits(format_credits(amount)) == amount


@pytest.mark.parametrize(
    ("numerator", "denominator", "whole"),
    [(1, 2, 0), (3, 2, 2), (5, 2, 2), (7, 2, 4), (1, 3, 0), (2, 3, 1), (0, 7, 0), (499, 1000, 0),
     (500, 1000, 0), (501, 1000, 1), (1500, 1000, 2)],
)  # fmt: skip
def test_ties_go_to_the_even_neighbour(numerator: int, denominator: int, whole: int) -> None:
    assert round_half_even(numerator, denominator) == whole


@given(st.integers(0, 10**24), st.integers(1, 10**12))
def test_rounding_is_that_of_exact_fractions(numerator: int, denominator: int) -> None:
    assert round_half_even(numerator, denominator) == round(Fraction(numerator, denominator))
