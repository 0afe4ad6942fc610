"""The times of a job, and what is tried again, through the API and over a restart."""

from datetime import UTC, datetime, timedelta

from tests.e2e.conftest import OpenHouse
from tests.e2e.house import House
from tests.e2e.people import Person
from tests.e2e.sockets import by_hand
from tests.support.waiting import until

NOWHERE = {"label:site": "nowhere"}


def moment(in_s: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=in_s)).isoformat()


def test_a_job_begins_at_its_time_and_not_before(alice: Person) -> None:
    at = moment(2)
    job_id = alice.submit("print(1)", not_before=at)
    later = alice.submit("print(2)", not_before=moment(3600))
    job = alice.final(job_id)
    assert job["status"] == "succeeded"
    assert datetime.fromisoformat(job["not_before"]) == datetime.fromisoformat(at)
    assert datetime.fromisoformat(job["started_at"]) >= datetime.fromisoformat(at)
    assert alice.job(later)["status"] == "queued"
    alice.cancel(later)


def test_a_job_that_nobody_began_by_its_deadline_is_given_up(alice: Person) -> None:
    before = alice.balance()
    at = moment(4)  # one that has passed already would be refused
    job_id = alice.submit("print(1)", require=NOWHERE, deadline=at)
    job = alice.final(job_id)
    assert (job["status"], job["reason"], job["cost"]) == ("failed", "expired", "0.000000")
    assert datetime.fromisoformat(job["finished_at"]) >= datetime.fromisoformat(at)
    assert job["receipt"]["fault"] == "grid"
    assert alice.balance() == before


def test_a_job_that_runs_outlives_its_deadline(alice: Person) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=6)
    code = "import sys, time\nwhile time.time() < float(sys.argv[1]) + 0.5: time.sleep(0.1)"
    job = alice.run(code, args=[str(deadline.timestamp())], deadline=deadline.isoformat())
    assert job["status"] == "succeeded"
    assert datetime.fromisoformat(job["finished_at"]) > deadline


def test_times_hold_over_a_restart(open_house: OpenHouse) -> None:
    house = open_house()
    alice = house.person("alice")
    house.person("olive")
    house.worker("olive")
    held = alice.submit("print('held')", not_before=moment(4))
    late = alice.submit("print('late')", require=NOWHERE, deadline=moment(4))
    assert house.process is not None
    house.process.kill()
    house.process.close()
    house.start()
    assert alice.final(late)["reason"] == "expired"
    job = alice.final(held)
    assert (job["status"], job["stdout"]) == ("succeeded", "held\n")
    assert job["started_at"] >= job["not_before"]


def test_a_worker_that_says_running_for_ever_loses_the_job(hasty: House) -> None:
    alice, owner = hasty.person(), hasty.person()
    with by_hand(hasty.url, owner.token, label=owner.user_id) as worker:
        job_id = alice.submit(
            require={"label:site": owner.user_id}, limits={"timeout_s": 0.1}, max_attempts=1
        )
        worker.start(worker.assigned())
        until(lambda: worker.heartbeat() or alice.job(job_id)["status"] == "failed", "it is lost")
    job = alice.job(job_id)
    assert (job["reason"], job["cost"]) == ("lost", "0.000000")
    assert (job["attempts"][0]["fault"], job["receipt"]["fault"]) == ("worker", "worker")
