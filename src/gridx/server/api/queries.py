"""What several operations take: types of query parameters, read strictly from text, and moments."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gridx.clock import from_rfc3339
from gridx.domain.errors import Detail, InvalidInput
from gridx.protocol.spec import NO_CONTROL
from gridx.server.operation import Call

LIMIT_MAX = 500


def _whole_number(text: object) -> object:
    if isinstance(text, str):
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise ValueError("a whole number")
        return int(text)
    return text


def seconds(text: object) -> object:
    """A decimal number without sign or exponent."""
    if isinstance(text, str):
        if not text.isascii() or not text.replace(".", "", 1).isdigit() or len(text) > 20:
            raise ValueError("a number of seconds, like 30 or 0.5")
        return float(text)
    return text


class Parameters(BaseModel):
    """Base of query models."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Cursor = Annotated[str, Field(min_length=1, max_length=100, pattern=NO_CONTROL)]
Limit = Annotated[int, Field(ge=1, le=LIMIT_MAX), BeforeValidator(_whole_number)]


class PageQuery(Parameters):
    """Which page of a list."""

    limit: Limit = 100
    cursor: Cursor | None = None


def yes_or_no(text: object) -> object:
    """`true` or `false`, nothing else."""
    if isinstance(text, str):
        if text not in {"true", "false"}:
            raise ValueError("true or false")
        return text == "true"
    return text


def expiry(call: Call, text: str | None) -> int | None:
    """Microseconds since the epoch of a moment to come; raises `InvalidInput` for a past one."""
    if text is None:
        return None
    moment = from_rfc3339(text)
    if moment <= call.parts.clock.now():
        message = "this is in the past"
        raise InvalidInput(f"expires_at: {message}", [Detail("expires_at", message)])
    return moment
