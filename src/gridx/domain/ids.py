"""Identifiers: what a well-formed one looks like."""

import re

_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_USER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_uuid4(text: str) -> bool:
    """Whether `text` is a UUID version 4 in its canonical form (any case)."""
    return _UUID4.fullmatch(text.lower()) is not None and text.isascii()


def is_user_id(text: str) -> bool:
    """Whether `text` is 1 to 64 of `A-Z a-z 0-9 _ -`."""
    return _USER_ID.fullmatch(text) is not None
