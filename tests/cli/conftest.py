"""One grid for all commands of this folder, and two of its people."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.grid import Grid, Person, grid_up


@pytest.fixture(scope="package")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Generator[Grid]:
    """A grid with one local worker."""
    with grid_up(tmp_path_factory.mktemp("cli") / "data") as it:
        yield it
        verified = it.person(it.folder.parent / "verifier").ok(
            "ledger", "verify", "--data", str(it.folder)
        )
        assert "adds up" in verified


@pytest.fixture(scope="package")
def admin(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """Its administrator, logged in."""
    return grid.person(tmp_path_factory.mktemp("admin"), "admin")


@pytest.fixture(scope="package")
def alice(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """A user with the initial grant, logged in."""
    return grid.person(tmp_path_factory.mktemp("alice"), "alice")


@pytest.fixture
def stranger(grid: Grid, tmp_path: Path) -> Person:
    """Somebody who is not logged in."""
    return grid.person(tmp_path)
