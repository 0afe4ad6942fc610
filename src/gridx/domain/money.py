"""Credits as whole micro-credits: reading, showing and rounding them.

Amounts are `int` micro-credits everywhere inside; text with six decimals at the edges; never floats.
"""

import re

MICROCREDITS = 1_000_000
AMOUNT_MICROCREDITS_MAX = 10**18 - 1
"""The largest amount one request may name: twelve digits before the point."""

_AMOUNT = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?")


def parse_credits(text: str) -> int:
    """Micro-credits of `"12.5"`.

    Raises `ValueError` unless `text` is at most twelve digits with at most six places, above 0.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError(
            "an amount is a string of digits, at most twelve before the point and six after it, "
            "like '12.5'"
        )
    whole, places = match.group(1), match.group(2) or ""
    amount = int(whole) * MICROCREDITS + int(places.ljust(6, "0"))
    if amount == 0:
        raise ValueError("an amount is above 0")
    return amount


def format_credits(amount: int) -> str:
    """`"-0.637500"` for -637500: always six decimals."""
    whole, places = divmod(abs(amount), MICROCREDITS)
    return f"{'-' if amount < 0 else ''}{whole}.{places:06d}"


def round_half_even(numerator: int, denominator: int) -> int:
    """`numerator / denominator` (above 0) to the nearest whole, ties to the even one."""
    whole, rest = divmod(numerator, denominator)
    twice = 2 * rest
    if twice > denominator or (twice == denominator and whole % 2):
        whole += 1
    return whole
