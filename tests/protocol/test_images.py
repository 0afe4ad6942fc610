"""What is a reference of an image, and what is something else."""

import re

import pytest

from gridx.protocol.spec import IMAGE

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
    assert (re.fullmatch(IMAGE, image) is not None) == good
