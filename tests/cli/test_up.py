"""`gridx up` from its first start to a power cut."""

import os
import signal
from pathlib import Path

import psutil

from tests.support.grid import GRIDX, PASSWORD, Person, grid_up
from tests.support.processes import clean_environment, free_port, running


def test_the_first_start_makes_an_administrator_and_says_so_once(tmp_path: Path) -> None:
    words = (GRIDX, "up", "--data", str(tmp_path / "data"), "--port", "0", "--slots", "1")
    environment = clean_environment(tmp_path)
    with running(*words, env=environment) as process:
        url = process.wait_for(r"Grid-X is ready at (\S+)").group(1)
        password = process.wait_for(r"^    (\S+)$").group(1)
        person = Person({**environment, "GRIDX_URL": url})
        person.ok("login", "--user", "admin", GRIDX_PASSWORD=password)
        assert person.ok("run", "-c", "print(6 * 7)") == "42\n"
        (worker,) = person.json("workers")
        assert worker["resources"]["cpus"] == 1
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
        assert process.stop() == 0
    with running(*words, env=environment) as process:
        process.wait_for("Grid-X is ready")
        assert "password" not in process.stdout
        assert process.stop(signal.SIGINT) == 0
        assert "Traceback" not in process.stderr


def test_stopping_in_the_middle_of_work_is_in_order(tmp_path: Path) -> None:
    with grid_up(tmp_path / "data") as grid:
        admin = grid.person(tmp_path / "home", "admin")
        code = "import time; print('begun', flush=True); time.sleep(60)"
        with running(*admin.command("run", "-c", code), env=admin.environment) as run:
            run.wait_for("begun")
            assert grid.process.stop() == 0
        assert grid.process.family() == set()
        assert admin.json("ledger", "verify", "--data", str(grid.folder))["ok"]


def test_a_power_cut_leaves_nothing_running(tmp_path: Path) -> None:
    with grid_up(tmp_path / "data") as grid:
        up = psutil.Process(grid.process.pid)
        family = [up, *up.children(recursive=True)]
        (worker,) = up.children()
        assert os.getpgid(worker.pid) == up.pid
        assert any(name.startswith("GRIDX_") for name in up.environ())
        assert not any(name.startswith("GRIDX_") for name in worker.environ())
        assert len(family) > 2, "the worker's sandbox is there, in a session of its own"
        os.kill(grid.process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(family, timeout=20)
        assert alive == []
    with grid_up(tmp_path / "data") as again:
        admin = again.person(tmp_path / "home", "admin")
        assert admin.ok("run", "-c", "print(1)") == "1\n"


def test_one_folder_and_one_port_serve_one_grid(tmp_path: Path) -> None:
    with grid_up(tmp_path / "data") as grid:
        person = Person(clean_environment(tmp_path))
        second = person.gridx("up", "--data", str(grid.folder), "--port", str(free_port()))
        assert second.returncode == 1
        assert f"process {grid.process.pid}" in second.stderr
        assert "--data" in second.stderr
        port = grid.url.rpartition(":")[2]
        taken = person.gridx("up", "--data", str(tmp_path / "other"), "--port", port)
        assert taken.returncode == 1
        assert f"port {port}" in taken.stderr
        assert "Traceback" not in second.stderr + taken.stderr
        assert grid.process.exit_code is None


def test_without_a_worker_and_with_a_password_that_was_given(tmp_path: Path) -> None:
    with grid_up(tmp_path / "data", "--no-worker") as grid:
        assert PASSWORD not in grid.process.output
        admin = grid.person(tmp_path / "home", "admin")
        assert admin.json("workers") == []


def test_a_password_that_is_too_short_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    person = Person(clean_environment(tmp_path, GRIDX_ADMIN_PASSWORD="short"))
    done = person.gridx("up", "--data", str(tmp_path / "data"), "--port", "0")
    assert done.returncode == 1
    assert "8 to 128" in done.stderr
    assert not (tmp_path / "data" / "gridx.db").exists()


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = Person(clean_environment(tmp_path)).gridx("up", "--data", str(tmp_path / "file" / "x"))
    assert done.returncode == 1
    assert "--data" in done.stderr


def test_ctrl_c_in_the_middle_of_starting_is_quiet(tmp_path: Path) -> None:
    words = (GRIDX, "up", "--data", str(tmp_path / "data"), "--port", "0")
    environment = clean_environment(tmp_path, GRIDX_ADMIN_PASSWORD=PASSWORD)
    with running(*words, env=environment) as process:
        process.wait_for("data in")
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all of them
        assert process.wait() == 0
        assert "Traceback" not in process.output
        assert process.family() == set()
