"""Two hundred worlds, in portions that test processes can share; and that a seed is a story."""

import os
import subprocess
import sys

import pytest

from tests.simulation.store import watch_postgresql
from tests.simulation.world import Result, simulate
from tests.support.postgres import PostgresServer

SEEDS = 200
PORTION = 10
JOBS = 100
"""More of them are for the command line: here two hundred worlds have to fit."""


def must_hold(result: Result) -> None:
    if result.violation is not None:
        again = f"python -m tests.simulation --from {result.seed} --seeds 1 --jobs {JOBS}"
        pytest.fail(
            f"seed {result.seed}: {result.violation}\n{result.story}\nagain: {again}",
            pytrace=False,
        )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(1, SEEDS + 1, PORTION))
def test_everything_holds_whatever_dies(first: int) -> None:
    for seed in range(first, first + PORTION):
        must_hold(simulate(seed, JOBS))


@pytest.mark.timeout(600)
def test_everything_holds_for_thousands_of_jobs() -> None:
    must_hold(simulate(1_000, 2_000))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_everything_holds_on_postgresql(
    seed: int, postgres: PostgresServer, postgres_template: str
) -> None:
    name = postgres.create(template=postgres_template)
    try:
        watch_postgresql(postgres.url(name))
        must_hold(simulate(seed, JOBS, url=postgres.url(name)))
    finally:
        postgres.drop(name)


@pytest.mark.timeout(300)
def test_a_seed_is_always_the_same_story() -> None:
    """Twice in this process, and in another whose sets and dictionaries are in another order."""
    first, again = simulate(7, jobs=100), simulate(7, jobs=100)
    assert first == again
    code = "from tests.simulation.world import simulate; print(simulate(7, jobs=100).digest)"
    for hash_seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            check=True,
            capture_output=True,
            text=True,
        )
        assert told.stdout.strip() == first.digest


def test_seeds_differ() -> None:
    assert simulate(8, jobs=20).digest != simulate(9, jobs=20).digest
