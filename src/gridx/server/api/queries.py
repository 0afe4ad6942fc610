"""Query parameters: the types that several operations share, read strictly from text."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gridx.domain.ids import is_uuid4
from gridx.protocol.spec import NO_CONTROL

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


def batch_uuid(text: str) -> str:
    """The id of a batch, in lower case."""
    if not is_uuid4(text):
        raise ValueError("Invalid batch ID format")
    return text.lower()


class Parameters(BaseModel):
    """Base of query models."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Cursor = Annotated[str, Field(min_length=1, max_length=100, pattern=NO_CONTROL)]
Limit = Annotated[int, BeforeValidator(_whole_number), Field(ge=1, le=LIMIT_MAX)]


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
