"""Which images an owner's patterns allow."""

import pytest

from gridx.domain.matching import image_allowed

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("image", "pattern", "allowed"),
    [
        ("python:3.12", "python:3.12", True),
        ("python", "python:latest", True),
        ("python:latest", "python:latest", True),
        ("python", "python", True),
        ("python:3", "python", False),
        ("python:3.12", "python:*", True),
        ("python", "python:*", True),
        (f"python@{DIGEST}", "python:*", False),
        (f"python@{DIGEST}", "python@*", True),
        ("python:5000/evil", "python:*", False),
        ("python/evil:3", "python*", False),
        ("evil/python:3", "*python:3", False),
        ("lab/a/b:1", "lab/*", False),
        ("lab/a/b:1", "lab/**", True),
        ("labs/a:1", "lab/**", False),
        ("pythonX3", "python.3", False),
        ("anything/at:all", "**", True),
        ("python:3", "", False),
    ],
)
def test_what_a_pattern_allows(image: str, pattern: str, allowed: bool) -> None:
    assert image_allowed(image, [pattern]) == allowed


def test_no_pattern_allows_nothing_and_any_of_several_is_enough() -> None:
    assert not image_allowed("python", [])
    assert image_allowed("python:3", ["node:*", "python:*"])
