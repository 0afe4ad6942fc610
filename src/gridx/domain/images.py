"""Image references, and the patterns by which an owner allows them.

`*` stands for anything within one part of a reference, `**` for anything at all: `python:*` is every
tag of `python`, and not `python:5000/other`, which is an image of a registry called python.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache

DEFAULT_IMAGE = "gridx:latest"
"""What jobs that name none run in, where they run in containers."""

REFERENCE_MAX = 255
_NAME = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?/"
REFERENCE = rf"^({_HOST})?{_NAME}(/{_NAME})*(:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(@sha256:[0-9a-f]{{64}})?$"
"""An OCI image reference: a registry, a name, a tag, a digest; only the name is required."""


class Pull(StrEnum):
    """When a worker's engine fetches an image from a registry."""

    NEVER = "never"
    MISSING = "missing"
    ALWAYS = "always"


def is_allowed(image: str, patterns: Iterable[str]) -> bool:
    """Whether `image` is one of those that `patterns` allow; without a tag it is `latest`."""
    tagged = ":" in image.rpartition("/")[2] or "@" in image
    full = image if tagged else f"{image}:latest"
    return any(_compiled(each).fullmatch(name) for each in patterns for name in {image, full})


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*)", pattern)
    words = {"**": ".*", "*": "[^/]*"}
    return re.compile("".join(words.get(part) or re.escape(part) for part in parts))
