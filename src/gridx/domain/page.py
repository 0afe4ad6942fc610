"""A page of a list: some items and where the next page starts."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from gridx.domain.errors import Detail, InvalidInput

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Page(Generic[T_co]):
    """Items of a list; `next_cursor` is None on the last page."""

    items: tuple[T_co, ...]
    next_cursor: str | None = None


def number_of_cursor(cursor: str | None) -> int | None:
    """The row number a cursor stands for. Raises `InvalidInput` naming `cursor`."""
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        message = "not a cursor of this list; take next_cursor of the page before"
        raise InvalidInput(f"cursor: {message}", [Detail("cursor", message)])
    return int(cursor)
