"""Shapes and offers: which job fits which worker.

A `Shape` holds all that matching looks at; jobs of one owner and one shape are interchangeable
for placing and form a queue. `shape_key` names it in the store.
"""

import hashlib
import json

from msgspec import Struct

from gridx.domain.job import JobSpec
from gridx.domain.resources import Resources
from gridx.domain.sandbox import Backend, reaches
from gridx.domain.worker import Capabilities


class Shape(Struct, frozen=True):
    """What a job needs of a worker; `require` is sorted pairs."""

    resources: Resources
    language: str
    require: tuple[tuple[str, str], ...] = ()

    @property
    def sandbox(self) -> str | None:
        """The backend it requires, if it names one."""
        return dict(self.require).get("sandbox")


def shape_of(spec: JobSpec) -> Shape:
    """The shape of a job."""
    return Shape(spec.resources, spec.language, tuple(sorted(spec.require.items())))


def shape_key(shape: Shape) -> str:
    """A short stable name of `shape`: 32 hexadecimal digits."""
    r = shape.resources
    text = json.dumps(
        [float(r.cpus), r.memory_mb, r.gpus, r.disk_mb, shape.language, shape.require],
        separators=(",", ":"),
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def suits(shape: Shape, offer: Capabilities, floor: Backend = Backend.NONE) -> bool:
    """Whether a worker that offers `offer` could run `shape` when it is idle."""
    return why_not(shape, offer, floor) is None


def why_not(shape: Shape, offer: Capabilities, floor: Backend = Backend.NONE) -> str | None:
    """What keeps an idle worker from running `shape`, for a person; None when nothing does.

    `floor` is the weakest sandbox that will do.
    """
    if shape.language not in offer.languages:
        return f"it does not offer {shape.language}"
    need, have = shape.resources, offer.resources
    for name, wanted, there in (
        ("cpus", need.cpus, have.cpus),
        ("memory_mb", need.memory_mb, have.memory_mb),
        ("gpus", need.gpus, have.gpus),
        ("disk_mb", need.disk_mb, have.disk_mb),
    ):
        if wanted > there:
            return f"it offers {there:g} {name} and the job needs {wanted:g}"
    for key, value in shape.require:
        if _offered(key, value, offer) is False:
            return f"it does not offer {key}={value}"
    if not reaches(offer.sandboxes, floor, shape.sandbox):
        return f"it offers no such sandbox as strong as {floor}, which this grid demands"
    return None


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
        case _:
            return False


REQUIRE_KEYS = ("os", "arch", "sandbox", "gpu")
"""What `require` may name besides `label:<name>`."""
