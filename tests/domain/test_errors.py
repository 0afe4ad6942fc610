"""Refusals: stable codes, and which are worth trying again."""

from gridx.domain import errors
from gridx.domain.errors import Detail, GridError, RateLimited, Unavailable

CODES = {
    "invalid", "too_large", "key_reused", "unauthenticated", "denied", "not_found", "conflict",
    "insufficient_credits", "rate_limited", "unavailable",
}  # fmt: skip
REFUSALS = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, GridError) and found is not GridError
]


def test_codes_are_stable_and_told_apart() -> None:
    assert {refusal.code for refusal in REFUSALS} == CODES
    assert len(REFUSALS) == len(CODES)


def test_only_what_passes_is_worth_trying_again() -> None:
    assert {r for r in REFUSALS if r.retryable} == {RateLimited, Unavailable}


def test_a_refusal_names_what_is_wrong() -> None:
    refusal = GridError("no", [Detail("field", "why")])
    assert (str(refusal), refusal.details) == ("no", (Detail("field", "why"),))
    assert RateLimited("slower", 3.0).retry_after_s == 3.0
