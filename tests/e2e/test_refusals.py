"""A worker that is not let in says why in words of its own, exits 1 in time, and shows no prompt."""

import socket
import time
from pathlib import Path

import pytest

from tests.e2e.house import GRIDX, House
from tests.e2e.people import PASSWORD, Person, until
from tests.support.processes import Process, clean_environment, free_port, running

WITHIN_S = 10.0


def said(folder: Path, url: str, *words: str, **environment: str) -> str:
    """What an interactive worker says on standard error before it exits 1."""
    command = (GRIDX, "worker", "--url", url, "--state-dir", str(folder / "state"), *words)
    began = time.monotonic()
    with running(*command, env=clean_environment(folder, **environment)) as process:
        assert process.wait(WITHIN_S + 5) == 1, process.output
        assert time.monotonic() - began < WITHIN_S + 3, "10 s and the start of an interpreter"
        assert process.stdout == "", "no prompt before the welcome"
        assert "Traceback" not in process.stderr
        return process.stderr.splitlines()[-1]


def test_a_wrong_password(house: House, tmp_path: Path) -> None:
    line = said(tmp_path, house.url, "--user", "olive", GRIDX_PASSWORD="not the right one")
    assert "password" in line
    assert "not the right one" not in line


def test_a_suspended_owner(house: House, alice: Person, tmp_path: Path) -> None:
    house.admin.tell(f"/users/{alice.user_id}/suspend")
    line = said(tmp_path, house.url, "--user", alice.user_id, GRIDX_PASSWORD=PASSWORD)
    assert "suspended" in line


def test_a_banned_worker(house: House, alice: Person) -> None:
    worker = house.worker(alice.user_id)
    house.admin.tell(f"/workers/{worker.worker_id}/ban")
    assert worker.process.wait(10) == 1
    assert "banned" in worker.process.stderr
    again = house.start_worker(alice.user_id, state=worker.state)
    assert again.process.wait(WITHIN_S + 5) == 1
    assert "banned" in again.process.stderr.splitlines()[-1]


def test_nobody_there(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    line = said(tmp_path, url, "--user", "alice", GRIDX_PASSWORD=PASSWORD)
    assert url in line
    assert "reach" in line


def test_somebody_silent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "answer" in said(tmp_path, url, GRIDX_TOKEN="some-token")


def test_no_password_over_plain_http_to_another_machine(tmp_path: Path) -> None:
    for secret in ({"GRIDX_PASSWORD": PASSWORD}, {"GRIDX_TOKEN": "some-token"}):
        line = said(tmp_path, "http://grid.example.org:8081", "--user", "alice", **secret)
        assert "--insecure" in line
        assert PASSWORD not in line


def prompt(house: House, owner: Person, state: Path, *flags: str, url: str = "") -> Process:
    command = (GRIDX, "worker", "--url", url or house.url, "--user", owner.user_id, "--slots", "1")
    environment = clean_environment(state.parent, GRIDX_PASSWORD=PASSWORD)
    return Process(*command, "--state-dir", str(state), *flags, env=environment)


def test_the_prompt_over_a_pipe(house: House, alice: Person, tmp_path: Path) -> None:
    state = tmp_path / "state"
    worker = prompt(house, alice, state)
    try:
        worker.wait_for(f"^{alice.user_id}> ")
        assert len(alice.items("/workers?limit=500")) >= 1
        second = prompt(house, alice, state)
        assert second.wait() == 1
        assert "--state-dir" in second.stderr
        second.close()
        worker.send("pause\n")
        mine = [w for w in alice.items("/workers") if w["owner_id"] == alice.user_id]
        assert len(mine) == 1
        path = f"/workers/{mine[0]['worker_id']}"
        until(lambda: alice.ask(path)["status"] == "paused", "it is paused")
        worker.send("resume\n")
        until(lambda: alice.ask(path)["status"] == "online", "it is online")
        worker.close_input()
        assert worker.wait(10) == 0
        until(lambda: alice.ask(path)["status"] == "offline", "it is offline")
    finally:
        worker.close()


def test_two_addresses_of_which_one_is_dead(house: House, alice: Person, tmp_path: Path) -> None:
    urls = f"http://127.0.0.1:{free_port()},{house.url}"
    worker = prompt(house, alice, tmp_path / "state", url=urls)
    try:
        worker.wait_for(f"^{alice.user_id}> $")
        worker.send("quit\n")
        assert worker.wait(10) == 0
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("-c", "print(1)"), 0),
        (("-c", "raise SystemExit(3)"), 3),
        (("--timeout", "0.5", "-c", "while True: pass"), 124),
        (("--memory", "64", "-c", "x = b'x' * (300 << 20)"), 137),
        (("--output-bytes", "10", "-c", "print('x' * 100)"), 1),
    ],
)
def test_what_run_exits_with(
    house: House, alice: Person, words: tuple[str, ...], code: int
) -> None:
    assert house.gridx(alice, "run", *words).returncode == code


def test_run_of_a_job_that_is_cancelled_or_lost(house: House, alice: Person) -> None:
    command = (GRIDX, "run", "-c", "import time; print('up', flush=True); time.sleep(60)")
    with running(*command, env=house.environment_of(alice)) as process:
        process.wait_for("up")
        alice.cancel(alice.ask("/jobs?status=running")["items"][0]["job_id"])
        assert process.wait(10) == 130
