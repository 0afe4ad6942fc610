"""Backup of a grid at work, and its way back: what is in the copy, what is lost, and who is told."""

import json
import shutil
import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path

from tests.e2e.conftest import OpenHouse
from tests.e2e.house import COMMAND_S, GRIDX, House
from tests.e2e.people import Json, Person
from tests.support.grid import grid_up
from tests.support.processes import clean_environment
from tests.support.waiting import until


def gridx(house: House, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command of whoever runs the house."""
    return subprocess.run(
        [GRIDX, *map(str, words)], env=house.environment, capture_output=True, text=True,
        timeout=COMMAND_S, check=False,
    )  # fmt: skip


def ok(house: House, *words: str | Path) -> str:
    done = gridx(house, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def database_of(house: House) -> Path:
    return house.folder / "gridx.db"


class Load:
    """Somebody who submits all the time while inside, as fast as it is run: nothing piles up."""

    def __init__(self, person: Person) -> None:
        self._person = person
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.accepted: list[str] = []

    def __enter__(self) -> "Load":
        self._thread.start()
        until(lambda: len(self.accepted) > 20, "there is load")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            batch = {"template": {"code": "print(1)"}, "args": [[str(n)] for n in range(5)]}
            self.accepted += self._person.tell("/jobs/batch", batch, 201)["job_ids"]
            self._person.final(self.accepted[-1])


def test_a_backup_under_load_is_of_one_moment(open_house: OpenHouse, tmp_path: Path) -> None:
    house = open_house()
    alice = house.person("alice")
    house.admin.tell("/credits/grant", {"to": "alice", "amount": "1000000"}, 201)
    house.person("olive")
    house.worker("olive")
    known: list[str] = []
    with Load(alice) as load:
        for number in range(2):
            known = list(load.accepted)
            file = tmp_path / f"{number}.db"
            made: Json = json.loads(ok(house, "backup", file, "--json"))
            assert made["verified"]["differences"] == []
            assert made["jobs"] >= len(known), "what was accepted before is in it"
            assert file.stat().st_mode & 0o777 == 0o600
    names = {path.name for path in tmp_path.iterdir()}
    assert not {name for name in names if "partial" in name or name.startswith("1.db-")}
    with closing(sqlite3.connect(tmp_path / "1.db")) as copy:
        stored = {row[0] for row in copy.execute("SELECT job_id FROM jobs")}
    assert stored >= set(known)
    refused = gridx(house, "backup", tmp_path / "1.db")
    assert (refused.returncode, "--force" in refused.stderr) == (1, True), refused.stderr
    ok(house, "backup", tmp_path / "1.db", "--force")


def test_back_to_a_backup(open_house: OpenHouse, tmp_path: Path) -> None:
    """What came after it is gone and told; its unfinished jobs run, leases it lacks are dropped."""
    house = open_house()
    alice = house.person("alice")
    house.person("olive")
    worker = house.worker("olive")
    kept = alice.run("print('kept')")
    waits = alice.submit("print('waited')", resources={"cpus": 2, "memory_mb": 512})
    alice.final(waits)
    busy = alice.submit("import time; time.sleep(60)")
    alice.running(busy)
    queued = alice.submit("print('queued')", resources={"cpus": 2})
    backup = tmp_path / "backup.db"
    ok(house, "backup", backup)
    alice.cancel(busy)
    alice.final(queued)
    later = alice.submit("import time; print('up', flush=True); time.sleep(60)")
    alice.printed(later, "up")
    refused = gridx(house, "restore", backup)
    assert (refused.returncode, "stop it" in refused.stderr) == (1, True), refused.stderr
    with alice.stream(f"/jobs/{later}/events") as events:
        seen = next(events).event_id
    house.end()

    said = ok(house, "restore", backup)

    for word in ("the backup is of", "4 jobs (2 unfinished)", "5 jobs", "What came after"):
        assert word in said, said
    (aside,) = tmp_path.glob("gridx.db.replaced-*Z")
    assert str(aside) in said
    house.start()
    assert alice.refused("GET", f"/jobs/{later}")[0] == 404
    assert alice.job(busy)["status"] in ("queued", "running"), "it was not over at that time"
    alice.cancel(busy)  # it may begin anew before the other one, and leaves no room for it
    assert alice.final(busy)["status"] == "cancelled"
    assert alice.final(queued)["stdout"] == "queued\n"
    assert alice.final(kept["job_id"])["stdout"] == "kept\n"
    # The worker went on with what the grid does not know: it has dropped it, and its room is free.
    until(lambda: house.view(worker)["running"] == 0, "it dropped what nobody knows")
    assert alice.run("print('after')", resources={"cpus": 2})["status"] == "succeeded"
    with alice.stream("/events", last=seen) as events:
        assert next(events).data["job_id"] in (queued, busy), "followers miss nothing"
    ok(house, "ledger", "verify", "--data", tmp_path)


def test_an_administrator_of_up_needs_only_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    environment = clean_environment(tmp_path)

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [GRIDX, *map(str, words)], env=environment, capture_output=True, text=True,
            timeout=COMMAND_S, check=False,
        )  # fmt: skip

    backup = tmp_path / "backup.db"
    with grid_up(folder, "--no-worker"):
        assert run("backup", backup, "--data", folder).returncode == 0
        refused = run("restore", backup, "--data", folder)
        assert (refused.returncode, "already runs" in refused.stderr) == (1, True), refused.stderr
    moved = tmp_path / "elsewhere"
    assert run("restore", backup, "--data", moved).returncode == 0
    with grid_up(moved, "--no-worker") as grid:
        grid.person(tmp_path / "home", "admin")


def change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(statement)


def test_a_ledger_that_does_not_add_up_is_told(made_store: Path, tmp_path: Path) -> None:
    database = tmp_path / "gridx.db"
    shutil.copyfile(made_store, database)
    change(database, "UPDATE balances SET amount = amount + 7")
    house = House(tmp_path, f"sqlite:///{database}")
    done = gridx(house, "backup", tmp_path / "backup.db")
    assert done.returncode == 1
    assert "does not add up" in done.stderr
