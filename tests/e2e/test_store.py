"""The store silent or full under a grid at work: 503 soon, nothing lost or done twice, and it heals."""

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.e2e.house import House
from tests.e2e.people import Person, refusal, soon
from tests.e2e.test_faults import COUNTS, said_once
from tests.support.postgres import PostgresServer
from tests.support.waiting import until
from tests.worker.sandbox.traces import TEST_DISK


@contextmanager
def frozen(server: PostgresServer) -> Generator[None]:
    """No process of the server runs while inside; its connections stay open."""
    postmaster = psutil.Process(server.process.pid)
    postmaster.send_signal(signal.SIGSTOP)  # first: from now on it makes no other
    family = postmaster.children(recursive=True)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in (*family, postmaster):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def outlast_a_lease() -> None:
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 5, "a lease has passed")


def is_unhealthy(somebody: Person) -> bool:
    answer = somebody.get("/health")
    assert answer.json()["service"] == "grid-x-coordinator"
    return (answer.status_code, answer.json()["status"]) == (503, "unhealthy")


def is_healthy(somebody: Person) -> bool:
    return somebody.get("/health").status_code == 200


def test_a_database_that_hangs(postgres_house: tuple[House, PostgresServer]) -> None:
    house, server = postgres_house
    alice = house.person("alice")
    house.person("olive")
    house.worker("olive")
    running = alice.submit(COUNTS.format(lines=10))
    alice.printed(running, "line 1")
    queued = alice.submit("print('waited')", resources={"cpus": 2})
    with frozen(server):
        spec = {"code": "print('once')"}
        soon(lambda: refusal(alice.call("POST", "/jobs", spec, key="one-of-a-kind")))
        soon(lambda: alice.refused("GET", "/jobs"))
        assert is_unhealthy(alice)
        # Longer than a lease: what the worker runs, and ends meanwhile, is still its own.
        outlast_a_lease()
    until(lambda: is_healthy(alice), "it is healthy again")
    said_once(alice, running, 10)
    assert alice.final(queued)["stdout"] == "waited\n"
    made = alice.call("POST", "/jobs", {"code": "print('once')"}, key="one-of-a-kind")
    assert made.status_code == 201, made.text
    assert alice.final(made.json()["job_id"])["stdout"] == "once\n"
    assert len(alice.items("/jobs")) == 3, "what was sent again was made once"


@contextmanager
def a_disk(folder: Path) -> Generator[Path]:
    """A place for a store that can be filled: a small disk where we may mount one."""
    folder.mkdir()
    if os.geteuid() != 0:
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", TEST_DISK, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def filled(folder: Path, pid: int) -> Generator[None]:
    """No byte more can be written to the store while inside."""
    if os.geteuid() != 0:
        usual = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        yield
        resource.prlimit(pid, resource.RLIMIT_FSIZE, usual)
        return
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    assert shutil.disk_usage(folder).free == 0
    yield
    ballast.unlink()


def test_a_full_disk(tmp_path: Path) -> None:
    with a_disk(tmp_path / "disk") as folder:
        url = f"sqlite:///{folder / 'gridx.db'}"
        house = House(tmp_path, url)
        try:
            house.initialise()
            house.start()
            _fill_and_heal(house, folder)
        finally:
            house.close()


def _fill_and_heal(house: House, folder: Path) -> None:
    alice = house.person("alice")
    house.person("olive")
    house.worker("olive")
    running = alice.submit(COUNTS.format(lines=10))
    alice.printed(running, "line 1")
    assert house.process is not None
    with filled(folder, house.process.pid):
        big = {"code": f"# {'x' * 900_000}\nprint('once')"}
        refused = alice.call("POST", "/jobs", big, key="one-of-a-kind")
        soon(lambda: refusal(refused))
        until(lambda: is_unhealthy(alice), "it says that it is unhealthy")
        assert alice.get("/jobs").status_code == 200, "what is there can still be read"
        outlast_a_lease()
    until(lambda: is_healthy(alice), "it is healthy again")
    said_once(alice, running, 10)
    made = alice.call("POST", "/jobs", big, key="one-of-a-kind")
    assert made.status_code == 201, made.text
    assert alice.final(made.json()["job_id"])["stdout"] == "once\n"
    assert len(alice.items("/jobs")) == 2
