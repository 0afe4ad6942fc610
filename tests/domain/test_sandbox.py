"""The order of sandboxes, and which one an attempt gets."""

import pytest

from gridx.domain.sandbox import (
    STRONGEST_FIRST,
    Backend,
    choose,
    floor_for,
    is_at_least,
    may_run_in,
    reaches,
)

NONE, DOCKER, BUBBLEWRAP, GVISOR = Backend


def test_the_order_is_the_published_one() -> None:
    assert [each.value for each in STRONGEST_FIRST] == ["gvisor", "bubblewrap", "docker", "none"]
    assert [each.strength for each in Backend] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("none", [NONE]),
        ("docker", [NONE, DOCKER]),
        ("bubblewrap", [NONE, DOCKER, BUBBLEWRAP]),
        ("gvisor", [NONE, DOCKER, BUBBLEWRAP, GVISOR]),
        ("of-a-newer-version", [NONE, DOCKER]),
        (None, [NONE, DOCKER]),
    ],
)
def test_what_is_as_strong_as_what(name: str | None, reached: list[Backend]) -> None:
    assert [floor for floor in Backend if is_at_least(name, floor)] == reached


def test_one_of_several_is_enough() -> None:
    assert reaches(["docker", "gvisor"], BUBBLEWRAP)
    assert not reaches(["docker", "none"], BUBBLEWRAP)
    assert reaches([], DOCKER)
    assert not reaches(["none"], DOCKER)


def test_the_one_that_is_wanted_must_be_strong_enough_itself() -> None:
    assert reaches(["docker", "gvisor"], BUBBLEWRAP, "gvisor")
    assert not reaches(["docker", "gvisor"], BUBBLEWRAP, "docker")
    assert not reaches([], DOCKER, "gvisor")


def test_the_floor_is_for_strangers() -> None:
    assert floor_for("alice", "bob", GVISOR) is GVISOR
    assert floor_for("alice", "alice", GVISOR) is NONE


@pytest.mark.parametrize(
    ("name", "wanted", "floor", "may"),
    [
        ("bubblewrap", None, DOCKER, True),
        ("none", None, DOCKER, False),
        ("none", None, NONE, True),
        (None, None, DOCKER, True),
        (None, None, BUBBLEWRAP, False),
        ("gvisor", "gvisor", DOCKER, True),
        ("bubblewrap", "gvisor", DOCKER, False),
        (None, "gvisor", DOCKER, True),
    ],
)
def test_what_a_worker_may_say_that_it_used(
    name: str | None, wanted: str | None, floor: Backend, may: bool
) -> None:
    assert may_run_in(name, wanted, floor) is may


@pytest.mark.parametrize(
    ("offered", "wanted", "floor", "chosen"),
    [
        ("docker bubblewrap gvisor", None, DOCKER, BUBBLEWRAP),
        ("docker gvisor", None, DOCKER, GVISOR),
        ("docker", None, DOCKER, DOCKER),
        ("docker bubblewrap gvisor", "docker", DOCKER, DOCKER),
        ("docker bubblewrap gvisor", "docker", BUBBLEWRAP, None),
        ("docker bubblewrap gvisor", None, GVISOR, GVISOR),
        ("docker bubblewrap", None, GVISOR, None),
        ("docker", "gvisor", DOCKER, None),
        ("none", None, DOCKER, None),
        ("none", None, NONE, NONE),
        ("none bubblewrap", None, NONE, BUBBLEWRAP),
        ("unheard-of", None, NONE, None),
        ("", None, NONE, None),
    ],
)
def test_the_fastest_that_will_do(
    offered: str, wanted: str | None, floor: Backend, chosen: Backend | None
) -> None:
    assert choose(offered.split(), wanted, floor) is chosen
