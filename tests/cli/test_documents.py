"""The reference pages say what the code says, and the examples run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_words import commands
from tests.support.grid import Person

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "examples/README.md"]


def test_the_reference_is_current() -> None:
    code = (
        "import json, runpy; print(json.dumps(runpy.run_path('scripts/reference.py')['pages']()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name, text in json.loads(done.stdout).items():
        written = (ROOT / "docs" / "reference" / name).read_text()
        assert written == text, f"{name} is old: run `python scripts/reference.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_in_the_pages_exist(page: Path) -> None:
    names = {name for name, _ in commands()}
    for line in re.findall(r"^\$ (?:\.venv/bin/)?(gridx [^\n]*)", page.read_text(), re.MULTILINE):
        words = line.split()
        assert " ".join(words[:2]) in names, line


def run(person: Person, file: str) -> str:
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / file)],
        env=person.environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_examples_for_the_sdk(alice: Person) -> None:
    assert "78498 primes below 1,000,000" in run(alice, "primes.py")
    laps = run(alice, "race.py").splitlines()
    for language in ("python", "javascript", "bash"):
        own = [line.split(maxsplit=1)[1] for line in laps if line.startswith(f"{language} ")]
        assert own == ["lap 1", "lap 2", "lap 3", "succeeded"]


def test_the_examples_for_the_command_line(alice: Person) -> None:
    assert "hello you" in alice.ok("run", str(ROOT / "examples" / "hello.sh"), "you")
    jobs = alice.ok("submit", "--batch", str(ROOT / "examples" / "jobs.jsonl")).split()
    alice.ok("wait", *jobs)
    assert [alice.ok("logs", job) for job in jobs] == ["45\n", "1 4 9\n", "42\n"]
