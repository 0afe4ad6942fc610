"""The one shape of an error on the wire, and the one table of refusals and HTTP statuses."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from gridx.domain.errors import (
    Conflict,
    Denied,
    Detail,
    GridError,
    InsufficientCredits,
    InvalidInput,
    KeyReused,
    NotFound,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

STATUS_OF: dict[type[GridError], int] = {
    InvalidInput: 400,
    Unauthenticated: 401,
    InsufficientCredits: 402,
    Denied: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    KeyReused: 422,
    RateLimited: 429,
    Unavailable: 503,
}
_CLASS_OF = {status: cls for cls, status in STATUS_OF.items()}


def status_of(error: GridError) -> int:
    """The HTTP status of a refusal."""
    return STATUS_OF[type(error)]


def to_body(
    status: int, message: str, timestamp: str, details: Sequence[Detail] = ()
) -> dict[str, Any]:
    """The body of an error answer; `timestamp` is RFC 3339, UTC."""
    body: dict[str, Any] = {"error": message, "code": status, "timestamp": timestamp}
    if details:
        body["details"] = [{"field": d.field, "message": d.message} for d in details]
    return body


def from_answer(
    status: int, body: Mapping[str, Any] | None, retry_after_s: float | None = None
) -> GridError:
    """The refusal behind an error answer, as the class the coordinator raised.

    `body` is None when the answer was not of our shape (a proxy in between).
    """
    message = f"The coordinator answered with status {status}"
    details: list[Detail] = []
    if body is not None:
        message = str(body.get("error", message))
        details = list(_details(body.get("details")))
    if status == STATUS_OF[RateLimited]:
        return RateLimited(message, retry_after_s or 1.0)
    if status in _CLASS_OF:
        return _CLASS_OF[status](message, details)
    if status >= 500:
        return Unavailable(message, details)
    return InvalidInput(message, details)


def _details(raw: object) -> Iterator[Detail]:
    for item in cast("list[object]", raw) if isinstance(raw, list) else ():
        if isinstance(item, dict):
            fields = cast("dict[str, object]", item)
            yield Detail(str(fields.get("field", "")), str(fields.get("message", "")))
