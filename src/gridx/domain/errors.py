"""Refusals: what Grid-X says no to, each with a stable code.

A refusal is not a bug and not an outcome of a job. `protocol.problem` maps each class to its HTTP
status in one table; the SDK raises the same classes again at the caller's.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Detail:
    """One thing wrong with one field of what was sent."""

    field: str
    message: str


class GridError(Exception):
    """A refusal; its text is for a person and says what to do next."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, details: Sequence[Detail] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)


class InvalidInput(GridError):
    """Something that was sent breaks a rule."""

    code = "invalid"


@contextmanager
def named_from(place: Callable[[], str]) -> Generator[None]:
    """The fields that a refusal of what is inside names stand at `place`: a prefix, may be empty."""
    try:
        yield
    except InvalidInput as error:
        above = place()
        details = [Detail(f"{above}{detail.field}", detail.message) for detail in error.details]
        raise InvalidInput(f"{above}{error.message}", details) from None


class TooLarge(InvalidInput):
    """A body, a frame or a file is over its limit."""

    code = "too_large"


class KeyReused(InvalidInput):
    """An idempotency key came again with another body."""

    code = "key_reused"


class Unauthenticated(GridError):
    """Nobody the grid knows is asking."""

    code = "unauthenticated"


class Denied(GridError):
    """The caller is known but may not do this."""

    code = "denied"


class NotFound(GridError):
    """There is no such thing, or none that the caller may know of."""

    code = "not_found"


class Conflict(GridError):
    """The state of the thing does not allow it."""

    code = "conflict"


class InsufficientCredits(GridError):
    """The available credits do not cover the amount."""

    code = "insufficient_credits"


class RateLimited(GridError):
    """Too many tries; try again after `retry_after_s` seconds."""

    code = "rate_limited"
    retryable = True

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(GridError):
    """The grid cannot serve this now; the same request may succeed later."""

    code = "unavailable"
    retryable = True
