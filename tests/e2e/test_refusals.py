"""A worker that is not let in says why in words of its own, exits 1 in time, and shows no prompt."""

import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.house import GRIDX, House
from tests.e2e.people import PASSWORD, Person
from tests.support.processes import Process, clean_environment, free_port, running
from tests.support.waiting import until

WITHIN_S = 20.0
"""Ten seconds are meant; a loaded machine gets more, also for the start of the interpreter."""


@contextmanager
def knocking(folder: Path, url: str, *words: str, **environment: str) -> Generator[Process]:
    """An interactive worker that will not be let in."""
    command = (GRIDX, "worker", "--url", url, "--state-dir", str(folder / "state"), *words)
    with running(*command, env=clean_environment(folder, **environment)) as process:
        yield process


def last_words(process: Process) -> str:
    """What it says on standard error before it exits 1."""
    assert process.wait(WITHIN_S) == 1, process.output
    assert process.stdout == "", "no prompt before the welcome"
    assert "Traceback" not in process.stderr
    return process.stderr.splitlines()[-1]


def said(folder: Path, url: str, *words: str, **environment: str) -> str:
    with knocking(folder, url, *words, **environment) as process:
        return last_words(process)


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
    assert worker.process.wait(WITHIN_S) == 1
    assert "banned" in worker.process.stderr
    again = house.start_worker(alice.user_id, state=worker.state)
    assert again.process.wait(WITHIN_S) == 1
    assert "banned" in again.process.stderr.splitlines()[-1]


def test_nobody_there_and_somebody_silent(tmp_path: Path) -> None:
    """All at once: each is given several seconds to answer."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            knocking(tmp_path, nowhere, "--user", "alice", GRIDX_PASSWORD=PASSWORD) as lonely,
            knocking(tmp_path / "known", nowhere, GRIDX_TOKEN="some-token") as known,
            knocking(tmp_path / "other", silent, GRIDX_TOKEN="some-token") as unanswered,
        ):
            for process in (lonely, known):
                line = last_words(process)
                assert f"No coordinator can be reached at {nowhere}" in line
            assert "answer" in last_words(unanswered)


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
        assert worker.wait(WITHIN_S) == 0
        until(lambda: alice.ask(path)["status"] == "offline", "it is offline")
    finally:
        worker.close()


def test_two_addresses_of_which_one_is_dead(house: House, alice: Person, tmp_path: Path) -> None:
    urls = f"http://127.0.0.1:{free_port()},{house.url}"
    worker = prompt(house, alice, tmp_path / "state", url=urls)
    try:
        worker.wait_for(f"^{alice.user_id}> $")
        worker.send("quit\n")
        assert worker.wait(WITHIN_S) == 0
    finally:
        worker.close()


def test_run_of_a_job_that_is_cancelled_by_another_hand(house: House, alice: Person) -> None:
    command = (GRIDX, "run", "-c", "import time; print('up', flush=True); time.sleep(60)")
    with running(*command, env=house.environment_of(alice)) as process:
        process.wait_for("up")
        alice.cancel(alice.ask("/jobs?status=running")["items"][0]["job_id"])
        assert process.wait() == 130
