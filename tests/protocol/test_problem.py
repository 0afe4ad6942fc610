"""Errors on the wire: each refusal goes out and comes back as the same class."""

import pytest

from gridx.domain.errors import Detail, GridError, InvalidInput, RateLimited, Unavailable
from gridx.protocol.problem import STATUS_OF, from_answer, status_of, to_body


@pytest.mark.parametrize("kind", [kind for kind in STATUS_OF if kind is not RateLimited])
def test_a_refusal_comes_back_as_it_went(kind: type[GridError]) -> None:
    refusal = kind("message", [Detail("field", "what")])

    body = to_body(status_of(refusal), refusal.message, "now", refusal.details)
    back = from_answer(status_of(refusal), body)

    assert type(back) is kind
    assert (back.message, back.details) == ("message", (Detail("field", "what"),))


def test_a_limit_comes_back_with_its_time() -> None:
    back = from_answer(429, {"error": "slower"}, retry_after_s=7)

    assert isinstance(back, RateLimited)
    assert back.retry_after_s == 7


@pytest.mark.parametrize(
    ("status", "kind"), [(502, Unavailable), (504, Unavailable), (418, InvalidInput)]
)
def test_a_status_that_is_not_ours_still_means_something(
    status: int, kind: type[GridError]
) -> None:
    assert type(from_answer(status, None)) is kind


@pytest.mark.parametrize("details", [None, 5, "x", [1, None, "x"], [{}], [{"field": 1}]])
def test_details_of_strangers_are_taken_with_care(details: object) -> None:
    back = from_answer(400, {"error": 5, "details": details})

    assert back.message == "5"
    assert all(isinstance(d.field, str) and isinstance(d.message, str) for d in back.details)


def test_every_refusal_has_a_status() -> None:
    assert set(GridError.__subclasses__()) <= set(STATUS_OF)
