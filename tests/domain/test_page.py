"""Cursors of lists that go by number."""

import pytest

from gridx.domain.errors import InvalidInput
from gridx.domain.page import number_of_cursor


@pytest.mark.parametrize(("cursor", "number"), [(None, None), ("0", 0), ("9" * 18, 10**18 - 1)])
def test_a_cursor_is_a_number(cursor: str | None, number: int | None) -> None:
    assert number_of_cursor(cursor) == number


@pytest.mark.parametrize(
    "cursor", ["", "-1", "1.0", "x", "\u0663", "9" * 19, "1 OR 1=1", "1\n", " 1"]
)
def test_nonsense_is_refused_by_name(cursor: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        number_of_cursor(cursor)
    assert [detail.field for detail in refused.value.details] == ["cursor"]
