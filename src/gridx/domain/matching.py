"""Shapes and offers: which job fits which worker.

A `Shape` holds all that matching looks at; jobs of one owner and one shape are interchangeable
for placing and form a queue. `shape_key` names it in the store.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct

from gridx.domain.job import JobSpec
from gridx.domain.resources import Resources
from gridx.domain.sandbox import Backend, reaches
from gridx.domain.worker import Capabilities


class Shape(Struct, frozen=True):
    """What a job needs of a worker; `require` is sorted pairs.

    `shuns` are the workers that could not run it before, in the order in which they failed: it goes
    to another one where there is one.
    """

    resources: Resources
    language: str
    require: tuple[tuple[str, str], ...] = ()
    image: str | None = None
    shuns: tuple[str, ...] = ()

    @property
    def sandbox(self) -> str | None:
        """The backend it requires, if it names one; images are what containers run in."""
        return dict(self.require).get("sandbox", Backend.DOCKER if self.image else None)

    @property
    def enforced(self) -> tuple[str, ...]:
        """The limits and walls that it must find enforced."""
        asked = dict(self.require).get("enforces", "")
        return tuple(word.strip() for word in asked.split(",") if word.strip())


def shape_of(spec: JobSpec) -> Shape:
    """The shape of a job."""
    return Shape(spec.resources, spec.language, tuple(sorted(spec.require.items())), spec.image)


def shape_key(shape: Shape) -> str:
    """A short stable name of `shape`: 32 hexadecimal digits."""
    r = shape.resources
    parts = [float(r.cpus), r.memory_mb, r.gpus, r.disk_mb, shape.language, shape.require]
    if shape.image is not None:
        parts.append(shape.image)
    text = json.dumps(parts, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    for worker_id in shape.shuns:
        key = shunning(key, worker_id)
    return key


def shunning(key: str, worker_id: str) -> str:
    """The name of the shape named `key` that shuns one worker more."""
    return hashlib.sha256(f"{key} {worker_id}".encode()).hexdigest()[:32]


def suits(shape: Shape, offer: Capabilities, floor: Backend = Backend.NONE) -> bool:
    """Whether a worker that offers `offer` could run `shape` when it is idle."""
    return why_not(shape, offer, floor) is None


def why_not(shape: Shape, offer: Capabilities, floor: Backend = Backend.NONE) -> str | None:
    """What keeps an idle worker from running `shape`, for a person; None when nothing does.

    `floor` is the weakest sandbox that will do.
    """
    if shape.language not in offer.languages:
        return f"it does not offer {shape.language}"
    if shape.image is not None and not image_allowed(shape.image, offer.images):
        return f"it does not run image {shape.image}"
    need, have = shape.resources, offer.resources
    for name, wanted, there in (
        ("cpus", need.cpus, have.cpus),
        ("memory_mb", need.memory_mb, have.memory_mb),
        ("gpus", need.gpus, have.gpus),
        ("disk_mb", need.disk_mb, have.disk_mb),
    ):
        if wanted > there:
            return f"it offers {there:g} {name} and the job needs {wanted:g}"
    for limit in shape.enforced:
        if any(limit in offer.lacks.get(each, ()) for each in _open_to(shape, offer)):
            return f"it cannot enforce {limit}"
    for key, value in shape.require:
        if _offered(key, value, offer) is False:
            return f"it does not offer {key}={value}"
    if not reaches(offer.sandboxes, floor, shape.sandbox):
        return f"it offers no such sandbox as strong as {floor}, which this grid demands"
    return None


def image_allowed(image: str, patterns: Iterable[str]) -> bool:
    """Whether `image` is one of those that `patterns` allow; without a tag it is `latest`.

    `*` stands for anything within one part of a reference, `**` for anything at all: `python:*` is
    every tag of `python`, and not `python:5000/other`, an image of a registry called python.
    """
    tagged = ":" in image.rpartition("/")[2] or "@" in image
    full = image if tagged else f"{image}:latest"
    return any(_compiled(each).fullmatch(name) for each in patterns for name in {image, full})


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    words = {"**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\*\*|\*)", pattern)
    return re.compile("".join(words.get(part) or re.escape(part) for part in parts))


def _open_to(shape: Shape, offer: Capabilities) -> list[str]:
    """The sandboxes of a worker that it may choose for the job."""
    return [each for each in offer.sandboxes if shape.sandbox in (None, each)]


def _offered(key: str, value: str, offer: Capabilities) -> bool:
    if key.startswith("label:"):
        return offer.labels.get(key.removeprefix("label:")) == value
    match key:
        case "os":
            return offer.os == value
        case "arch":
            return offer.arch == value
        case "sandbox":
            return value in offer.sandboxes
        case "gpu":
            return value in offer.gpus
        case "enforces":
            return True  # looked at above, with the sandbox it is asked of
        case _:
            return False


REQUIRE_KEYS = ("os", "arch", "sandbox", "gpu", "enforces")
"""What `require` may name besides `label:<name>`."""
