"""Processes killed, networks cut, a database away: everything is run and paid once, and heals."""

import asyncio
import signal
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx2
import psutil
import pytest

from tests.e2e.conftest import OpenHouse
from tests.e2e.house import END_S, House, Worker
from tests.e2e.people import Person, soon
from tests.support.postgres import PostgresServer
from tests.support.processes import asleep, is_alive
from tests.support.proxy import proxy_to
from tests.support.waiting import until

COUNTS = """
import time
for number in range({lines}):
    print("line", number, flush=True)
    time.sleep(0.2)
"""


def counted(lines: int) -> str:
    return "".join(f"line {number}\n" for number in range(lines))


def said_once(alice: Person, job_id: str, lines: int) -> None:
    """The job ended well in its first attempt, with every line of its output once."""
    job = alice.final(job_id)
    assert (job["status"], len(job["attempts"])) == ("succeeded", 1), job
    assert job["stdout"] == counted(lines)
    assert alice.get(f"/jobs/{job_id}/logs").text == counted(lines)


def family_of(worker: Worker) -> Iterator[psutil.Process]:
    """Its processes, but for those that have just ended."""
    for pid in worker.process.family():
        with suppress(psutil.NoSuchProcess):
            yield psutil.Process(pid)


def the_one(worker: Worker, last_word: str) -> psutil.Process | None:
    """The process of a worker whose command ends so; none while there are two, as it forks."""
    found: list[psutil.Process] = []
    for each in family_of(worker):
        with suppress(psutil.NoSuchProcess):
            if each.cmdline()[-1:] == [last_word]:
                found.append(each)
    return found[0] if len(found) == 1 else None


def test_a_coordinator_killed_in_the_middle(open_house: OpenHouse) -> None:
    # The lease outlasts a slow start and the worker's backoff: coming back late is another test.
    house = open_house(GRIDX_LEASES__LEASE_S="30")
    alice = house.person("alice")
    house.person("olive")
    house.worker("olive")
    running = [alice.submit(COUNTS.format(lines=15)) for _ in range(2)]
    for job_id in running:
        alice.printed(job_id, "line 1")
    waiting = alice.submit("print('after')", resources={"cpus": 2})
    assert house.process is not None
    house.process.kill()
    house.process.close()
    house.start()
    for job_id in running:
        said_once(alice, job_id, 15)
    assert alice.final(waiting)["stdout"] == "after\n"
    job = alice.run("print(1)")
    assert job["status"] == "succeeded"


async def test_a_coordinator_that_stands_still_for_longer_than_a_lease(
    open_house: OpenHouse,
) -> None:
    house = open_house(GRIDX_LEASES__LEASE_S="8")  # the worker's backoff is shorter
    alice = house.person("alice")
    house.person("olive")
    async with proxy_to(house.port) as proxy:
        worker = house.start_worker("olive", url=f"http://127.0.0.1:{proxy.port}")
        await asyncio.to_thread(until, lambda: house.is_online(worker), "it is online")
        code = f"echo up; {(nap := 'sleep 10.017')}; echo end"
        job_id = await asyncio.to_thread(alice.submit, code, language="bash")
        await asyncio.to_thread(alice.printed, job_id, "up")
        sleepers = await asyncio.to_thread(until, lambda: asleep(nap), "it sleeps")
        assert house.process is not None
        house.process.suspend()
        await proxy.cut()  # as a worker does that hears nothing for so long
        await asyncio.to_thread(psutil.wait_procs, sleepers, 60)
        house.process.resume()
        proxy.resume()
        job = await asyncio.to_thread(alice.final, job_id)
        assert (job["status"], job["stdout"]) == ("succeeded", "up\nend\n")
        assert [each["status"] for each in job["attempts"]] == ["succeeded"]
        await asyncio.to_thread(worker.process.stop)


async def test_a_network_cut_in_the_middle(open_house: OpenHouse) -> None:
    # Processes die with the thread that started them: not in one of the loop's. The lease outlasts
    # any pause of the worker's backoff, so that coming back late is not what this shows.
    house = open_house(GRIDX_LEASES__LEASE_S="10")
    alice = house.person("alice")
    house.person("olive")
    async with proxy_to(house.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        worker = house.start_worker("olive", url=url)
        await asyncio.to_thread(until, lambda: house.is_online(worker), "it is online")
        job_id = await asyncio.to_thread(alice.submit, COUNTS.format(lines=10))
        await asyncio.to_thread(alice.printed, job_id, "line 1")
        await proxy.cut()
        await asyncio.to_thread(
            until, lambda: house.admin.ask("/status")["workers"]["active"] == 0, "nobody is there"
        )
        proxy.resume()
        await asyncio.to_thread(said_once, alice, job_id, 10)
        # It ends while nobody can be reached, and is told afterwards, within its lease.
        job_id = await asyncio.to_thread(alice.submit, COUNTS.format(lines=3))
        await asyncio.to_thread(alice.printed, job_id, "line 1")
        proxy.freeze()
        await asyncio.to_thread(
            until, lambda: house.view(house.workers[0])["status"] == "offline", "lost"
        )
        proxy.resume()
        job = await asyncio.to_thread(alice.final, job_id)
        assert job["status"] == "succeeded"
        assert job["stdout"] == counted(3)
        assert job["attempts"][-1]["status"] == "succeeded"
        await asyncio.to_thread(house.workers[0].process.stop)


def test_a_worker_killed_in_the_middle(open_house: OpenHouse) -> None:
    house = open_house()
    alice = house.person("alice")
    house.person("olive")
    pair = [house.worker("olive"), house.worker("olive")]
    job_id = alice.submit("import time; print('up', flush=True); time.sleep(3); print('end')")
    alice.printed(job_id, "up")
    holder = alice.job(job_id)["worker_id"]
    first, second = sorted(pair, key=lambda worker: worker.worker_id != holder)
    family = list(family_of(first))
    assert len(family) > 1
    first.process.send_signal(signal.SIGKILL)
    _, left = psutil.wait_procs(family, timeout=20)
    assert not [each for each in left if is_alive(each.pid)], "no program outlives its worker"
    until(lambda: len(alice.job(job_id)["attempts"]) == 2, "it runs elsewhere")
    job = alice.final(job_id)
    assert (job["status"], job["stdout"]) == ("succeeded", "up\nend\n")
    assert [each["status"] for each in job["attempts"]] == ["lost", "succeeded"]
    assert job["worker_id"] == second.worker_id
    # The same folder is the same worker again.
    again = house.worker("olive", state=first.state)
    assert again.worker_id == first.worker_id


def test_a_sandbox_that_is_stuck_loses_its_lease(open_house: OpenHouse) -> None:
    """Its worker lives and sends heartbeats; what watches over the job does not answer any more."""
    house = open_house()
    alice = house.person("alice")
    house.person("olive")
    first = house.worker("olive")
    nap = f"sleep 1000.{house.port}"
    job_id = alice.submit(f"echo up; {nap}; echo end", language="bash", args=["stuck"])
    alice.printed(job_id, "up")
    job = until(lambda: the_one(first, "stuck"), "its program is found")
    supervisor = job.parent()
    assert supervisor is not None
    supervisor.suspend()
    second = house.worker("olive")
    until(lambda: len(alice.job(job_id)["attempts"]) == 2, "it runs elsewhere")
    until(lambda: the_one(second, nap.rsplit(maxsplit=1)[-1]), "it sleeps there").send_signal(
        signal.SIGPIPE
    )
    done = alice.final(job_id)
    assert (done["status"], done["stdout"]) == ("succeeded", "up\nend\n")
    assert [each["status"] for each in done["attempts"]] == ["lost", "succeeded"]
    assert [each["fault"] for each in done["attempts"]] == ["worker", "none"]
    assert done["worker_id"] == second.worker_id
    # The worker is told to drop it, and ends what does not listen any more.
    psutil.wait_procs([supervisor, job], timeout=40)
    assert not supervisor.is_running()
    assert not job.is_running()
    assert house.view(first)["status"] == "online"


def test_a_worker_stopped_in_order_hands_over(open_house: OpenHouse) -> None:
    house = open_house()
    alice = house.person("alice")
    house.person("olive")
    first = house.worker("olive")
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\n"
    job_id = alice.submit(code + "time.sleep(60)", max_attempts=1)
    alice.printed(job_id, "up")
    house.worker("olive")
    family = first.process.family()
    assert first.process.stop(timeout_s=END_S) == 0
    until(lambda: not [pid for pid in family if is_alive(pid)], "all of it has ended")
    job = alice.running(job_id)
    assert [each["status"] for each in job["attempts"]] == ["lost", "running"]


def test_a_coordinator_stopped_in_order(open_house: OpenHouse) -> None:
    house = open_house(GRIDX_LEASES__LEASE_S="30")  # as above
    alice = house.person("alice")
    house.person("olive")
    worker = house.worker("olive")
    job_id = alice.submit(COUNTS.format(lines=15))
    alice.printed(job_id, "line 1")
    with ExitStack() as open_streams:
        followers = [
            open_streams.enter_context(alice.stream(path))
            for path in ("/events", f"/jobs/{job_id}/logs?follow=true", f"/jobs/{job_id}/events")
        ]
        assert house.end() == 0
        for follower in followers:
            try:
                list(follower)
            except httpx2.HTTPError:
                pytest.fail("a stream was cut instead of ended")
    assert house.process is not None
    assert "Traceback" not in house.process.output
    house.start()
    said_once(alice, job_id, 15)
    assert worker.process.exit_code is None


@contextmanager
def stopped(server: PostgresServer) -> Generator[None]:
    """No server while inside; a new one on the same data and port afterwards."""
    server.process.stop(signal.SIGINT)
    yield
    server.start_again()


def test_a_database_restarted(postgres_house: tuple[House, PostgresServer]) -> None:
    house, server = postgres_house
    alice = house.person("alice")
    house.person("olive")
    house.worker("olive")
    running = alice.submit(COUNTS.format(lines=10))
    alice.printed(running, "line 1")
    with stopped(server):
        assert alice.get("/health").status_code == 503
        soon(lambda: alice.refused("POST", "/jobs", {"code": "1"}))
    until(lambda: alice.get("/health").status_code == 200, "it is healthy again")
    said_once(alice, running, 10)
    assert alice.run("print(1)")["status"] == "succeeded"
