"""Which job fits which worker, and the names of shapes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridx.domain.job import JobSpec
from gridx.domain.matching import (
    REQUIRE_KEYS,
    Shape,
    shape_key,
    shape_of,
    shunning,
    suits,
    why_not,
)
from gridx.domain.resources import Resources
from gridx.domain.sandbox import Backend
from gridx.domain.worker import Capabilities

OFFER = Capabilities(
    Resources(4, 8_192, 1, 10_000),
    languages=("python", "bash"),
    sandboxes=("bubblewrap",),
    gpus=("T4",),
    labels={"site": "lab-2", "empty": ""},
    os="linux",
    arch="x86_64",
)


def shape(**changes: object) -> Shape:
    return Shape(**{"resources": Resources(), "language": "python", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (shape(), None),
        (shape(resources=Resources(4, 8_192, 1, 10_000)), None),
        (shape(resources=Resources(4.01, 256, 0, 1)), "it offers 4 cpus and the job needs 4.01"),
        (shape(resources=Resources(1, 8_193, 0, 1)),
         "it offers 8192 memory_mb and the job needs 8193"),
        (shape(resources=Resources(1, 256, 2, 1)), "it offers 1 gpus and the job needs 2"),
        (shape(resources=Resources(1, 256, 0, 10_001)),
         "it offers 10000 disk_mb and the job needs 10001"),
        (shape(language="javascript"), "it does not offer javascript"),
        (shape(require=(("os", "linux"),)), None),
        (shape(require=(("os", "darwin"),)), "it does not offer os=darwin"),
        (shape(require=(("arch", "x86_64"), ("os", "linux"))), None),
        (shape(require=(("arch", "arm64"),)), "it does not offer arch=arm64"),
        (shape(require=(("sandbox", "bubblewrap"),)), None),
        (shape(require=(("sandbox", "docker"),)), "it does not offer sandbox=docker"),
        (shape(require=(("gpu", "T4"),)), None),
        (shape(require=(("gpu", "H100"),)), "it does not offer gpu=H100"),
        (shape(require=(("label:site", "lab-2"),)), None),
        (shape(require=(("label:site", "lab-3"),)), "it does not offer label:site=lab-3"),
        (shape(require=(("label:empty", ""),)), None),
        (shape(require=(("label:none", ""),)), "it does not offer label:none="),
        (shape(image="python:3.12"), "it does not run image python:3.12"),
        (shape(require=(("colour", "red"),)), "it does not offer colour=red"),
    ],
)  # fmt: skip
def test_why_a_worker_does_not_suit(wanted: Shape, why: str | None) -> None:
    assert why_not(wanted, OFFER) == why
    assert suits(wanted, OFFER) == (why is None)


def test_a_floor_is_for_the_sandbox_that_the_job_would_get() -> None:
    two = replace(OFFER, sandboxes=("docker", "gvisor"))
    assert suits(shape(), two, Backend.GVISOR)
    assert suits(shape(require=(("sandbox", "docker"),)), two, Backend.DOCKER)
    why = why_not(shape(require=(("sandbox", "docker"),)), two, Backend.BUBBLEWRAP)
    assert why == "it offers no such sandbox as strong as bubblewrap, which this grid demands"
    assert why_not(shape(), OFFER, Backend.GVISOR) is not None


def test_what_a_sandbox_cannot_enforce_is_refused_to_jobs_that_require_it() -> None:
    lacks = {"bubblewrap": ("io",), "docker": ("memory", "io")}
    offer = replace(OFFER, sandboxes=("bubblewrap", "docker"), lacks=lacks)
    for asked, sandbox, why in (
        ("cpu", None, None),
        ("memory", None, "it cannot enforce memory"),  # in docker, which it might choose
        ("memory", "bubblewrap", None),
        ("cpu, io", "bubblewrap", "it cannot enforce io"),
    ):
        named = (("sandbox", sandbox),) if sandbox else ()
        assert why_not(shape(require=(("enforces", asked), *named)), offer) == why


def test_an_image_needs_a_worker_that_allows_it_in_containers() -> None:
    wanted = shape(image="python:3.12")
    offer = replace(OFFER, sandboxes=("bubblewrap", "docker"), images=("python:3.*",))
    assert wanted.sandbox == "docker"
    assert why_not(wanted, offer) is None
    assert why_not(shape(image="python:2"), offer) == "it does not run image python:2"
    assert not suits(wanted, offer, Backend.BUBBLEWRAP)
    assert not suits(wanted, replace(offer, sandboxes=("bubblewrap",)))


@pytest.mark.parametrize("key", REQUIRE_KEYS)
def test_every_key_of_require_can_be_met(key: str) -> None:
    value = {
        "os": "linux",
        "arch": "x86_64",
        "sandbox": "bubblewrap",
        "gpu": "T4",
        "enforces": "memory",
    }[key]
    assert suits(shape(require=((key, value),)), OFFER)


def test_a_shape_is_what_matching_looks_at_and_nothing_else() -> None:
    one = JobSpec(code="1", name="a", priority=5, require={"b": "2", "a": "1"})
    other = JobSpec(code="2", tags=("x",), max_cost=5, require={"a": "1", "b": "2"})
    assert shape_of(one) == shape_of(other)
    assert shape_key(shape_of(one)) == shape_key(shape_of(other))


def test_the_name_of_a_shape_never_changes() -> None:
    # Stored with each job: another name for the same shape would strand what waits.
    assert shape_key(shape_of(JobSpec())) == "433d101b833ef25dfb924f392b6e0558"


def test_jobs_of_two_images_are_of_two_shapes() -> None:
    shapes = [shape_of(JobSpec(image=image)) for image in (None, "a", "b")]
    assert len({shape_key(each) for each in shapes}) == 3


shapes = st.builds(
    Shape,
    st.builds(Resources, st.sampled_from([0.5, 1.0, 2.0]), st.integers(16, 18), st.integers(0, 1),
              st.integers(1, 2)),
    st.sampled_from(["python", "bash"]),
    st.lists(st.tuples(st.sampled_from(["os", "label:a"]), st.text(max_size=2)), max_size=2)
    .map(tuple),
)  # fmt: skip


@given(shapes, shapes)
def test_shapes_share_a_name_only_when_they_are_equal(one: Shape, other: Shape) -> None:
    assert (shape_key(one) == shape_key(other)) == (one == other)
    assert len(shape_key(one)) == 32


def test_whole_cpus_are_one_shape_however_they_are_written() -> None:
    one = shape_of(JobSpec(resources=Resources(1, 256, 0, 256)))
    other = shape_of(JobSpec(resources=Resources(1.0, 256, 0, 256)))
    assert shape_key(one) == shape_key(other)


def test_a_shape_that_shuns_workers_has_a_name_of_its_own() -> None:
    plain = shape()
    one, two = shape(shuns=("a",)), shape(shuns=("a", "b"))
    assert len({shape_key(each) for each in (plain, one, two, shape(shuns=("b",)))}) == 4
    assert shape_key(one) == shunning(shape_key(plain), "a")
    assert shape_key(two) == shunning(shape_key(one), "b")
