"""Image references, and which of them an owner's patterns allow."""

import re

import pytest

from gridx.domain.images import REFERENCE, is_allowed

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("image", "good"),
    [
        ("python", True),
        ("python:3.12-slim", True),
        ("library/python", True),
        ("a__b/c--d/e.f:V_1", True),
        ("localhost:5000/x", True),
        ("Registry.example.org/x", True),
        (f"python@{DIGEST}", True),
        (f"python:3@{DIGEST}", True),
        ("", False),
        ("Python", False),
        ("python:", False),
        ("python:3 ", False),
        ("python\n", False),
        ("-v", False),
        ("--privileged", False),
        ("a//b", False),
        ("../b", False),
        ("/b", False),
        ("a:" + "t" * 129, False),
        ("a@sha256:0123", False),
        ("a;b", False),
        ("a$b", False),
    ],
)
def test_what_is_a_reference(image: str, good: bool) -> None:
    assert (re.fullmatch(REFERENCE, image) is not None) == good


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
    assert is_allowed(image, [pattern]) == allowed


def test_no_pattern_allows_nothing_and_any_of_several_is_enough() -> None:
    assert not is_allowed("python", [])
    assert is_allowed("python:3", ["node:*", "python:*"])
