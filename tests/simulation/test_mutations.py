"""The simulation finds planted bugs: here some that are found at once; the script hunts them all."""

import shutil
from pathlib import Path

import pytest

from tests.simulation.mutations import MUTATIONS, PACKAGE, Mutation, hunt, plant

QUICK = (
    "an ack is never sent",
    "what is left of a hold is released twice",
    "a lease is not cleared",
    "a run on the submitter's own worker is billed",
    "a worker's session forgets what is not acknowledged when the line is cut",
    "what was not committed is answered as if it were",
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", QUICK)
def test_a_planted_bug_is_found(name: str) -> None:
    (mutation,) = [m for m in MUTATIONS if m.name == name]
    find = hunt(mutation, seeds_max=20, jobs=80)
    assert find.violation is not None, f"nothing was broken in {find.steps} steps"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_bug_can_be_planted(mutation: Mutation, tmp_path: Path) -> None:
    """The text that it replaces still stands in the source, once."""
    module = tmp_path / mutation.module
    module.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PACKAGE / mutation.module, module)
    plant(mutation, tmp_path)
    compile(module.read_text(encoding="utf-8"), mutation.module, "exec")
