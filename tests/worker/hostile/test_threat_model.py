"""The threat model names its proofs: every test that it names is there."""

import re
from pathlib import Path

import pytest

from tests.worker.hostile import escape, exhaustion, lying, spying, staying

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "concepts" / "sandbox.md"
MODULES = {
    "escape": escape,
    "exhaustion": exhaustion,
    "lying": lying,
    "spying": spying,
    "staying": staying,
}
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in DOCUMENT.read_text().splitlines()
    if line.startswith("|") and line.count("|") == 6 and "---" not in line
][1:]


def test_it_has_a_row_for_everybody() -> None:
    attackers = {row[0] for row in ROWS} - {""}
    assert {"job → machine", "job → owner", "job → worker", "job → other jobs"} <= attackers
    assert {"worker → job", "worker → ledger", "submitter → everybody"} <= attackers
    assert len(ROWS) > 25


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}".strip())
def test_what_is_stopped_names_its_test(row: list[str]) -> None:
    _, attack, stopped, _, proof = row
    if not stopped.startswith("yes"):
        return
    assert proof, attack
    for part in proof.split(";"):
        name, _, programs = part.strip().partition(":")
        name = name.strip("` ")
        if name.endswith(".py"):
            _check_function(name, programs.strip())
            continue
        names = {each.name for each in MODULES[name].PROGRAMS}
        for program in filter(None, (each.strip() for each in programs.split(","))):
            if program.endswith("…"):
                assert any(each.startswith(program[:-1].strip()) for each in names), program
            else:
                assert program in names, program


def _check_function(file: str, title: str) -> None:
    below = ROOT / "tests" / ("" if "/" in file else "worker")
    found = list(below.rglob(file))
    assert len(found) == 1, file
    functions = re.findall(r"def test_(\w+)", found[0].read_text())
    assert not title or title.replace(" ", "_") in functions, (title, functions)
