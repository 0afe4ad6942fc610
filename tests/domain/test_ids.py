"""Which ids are well formed, and what only looks like one."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridx.domain.ids import is_user_id, is_uuid4


@given(st.uuids(version=4))
def test_every_uuid4_is_one_in_either_case(value: uuid.UUID) -> None:
    assert is_uuid4(str(value))
    assert is_uuid4(str(value).upper())


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "not-a-uuid",
        "00000000-0000-0000-0000-000000000000",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8",  # version 1
        "123e4567-e89b-42d3-c456-426614174000",  # variant c
        "123e4567e89b42d3a456426614174000",
        "{123e4567-e89b-42d3-a456-426614174000}",
        "123e4567-e89b-42d3-a456-426614174000\n",
        " 123e4567-e89b-42d3-a456-426614174000",
        "\u066123e4567-e89b-42d3-a456-426614174000",
        "' OR '1'='1",
    ],
)  # fmt: skip
def test_anything_else_is_none(text: str) -> None:
    assert not is_uuid4(text)


@pytest.mark.parametrize("text", ["a", "A-Z_09", "x" * 64, "-", "_"])
def test_user_ids(text: str) -> None:
    assert is_user_id(text)


@pytest.mark.parametrize("text", ["", "x" * 65, "a b", "a:b", "é", "a\n", "a/b", "a.b", "'--"])
def test_no_user_ids(text: str) -> None:
    assert not is_user_id(text)
