"""Cancelling a job in each of its states, and how soon it is over."""

import time

from gridx.coordinator.workers import CANCEL_DEADLINE_S
from tests.e2e.house import House
from tests.e2e.people import Person
from tests.e2e.sockets import by_hand, lease_of
from tests.support.waiting import until

SOON_S = 20.0
"""Seven seconds are meant; a loaded machine gets more."""
NOWHERE = {"label:site": "nowhere"}
STUBBORN = """
import signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
print("up", flush=True)
while True:
    time.sleep(1)
"""


def test_a_queued_job_at_once_and_free(alice: Person) -> None:
    before = alice.balance()
    job_id = alice.submit(require=NOWHERE)
    assert alice.balance()["held"] == "0.637500"
    told = alice.cancel(job_id)
    assert (told["status"], told["job_id"]) == ("cancelled", job_id)
    job = alice.job(job_id)
    assert (job["status"], job["cost"], job["attempts"]) == ("cancelled", "0.000000", [])
    assert job["receipt"]["fault"] in {"none", "submitter"}
    assert alice.balance() == before


def test_a_final_job_is_a_conflict(alice: Person) -> None:
    done = alice.run("print(1)")["job_id"]
    assert alice.refused("POST", f"/jobs/{done}/cancel")[0] == 409
    queued = alice.submit(require=NOWHERE)
    alice.cancel(queued)
    assert alice.refused("POST", f"/jobs/{queued}/cancel")[0] == 409


def test_an_assigned_one_at_once_and_free_and_its_start_is_dropped(
    house: House, alice: Person
) -> None:
    owner = house.person()
    with by_hand(house.url, owner.token, label=owner.user_id) as worker:
        before = alice.balance()
        job_id = alice.submit(require={"label:site": owner.user_id})
        attempt = worker.assigned()
        assert alice.job(job_id)["status"] == "queued"
        told = alice.cancel(job_id)
        assert told["status"] == "cancelled"
        job = alice.job(job_id)
        assert job["cost"] == "0.000000"
        assert [each["status"] for each in job["attempts"]] in ([], ["cancelled"])
        frame = worker.receive()
        assert frame["type"] in {"take_back", "drop"}
        assert lease_of(frame) == lease_of(attempt)
        worker.start(attempt)
        assert lease_of(worker.expect("drop")) == lease_of(attempt)
        worker.finish(attempt)
        assert lease_of(worker.expect("drop")) == lease_of(attempt)
        assert alice.job(job_id) == job
        assert alice.balance() == before


def test_a_running_one_says_that_it_is_asked(house: House, alice: Person) -> None:
    owner = house.person()
    with by_hand(house.url, owner.token, label=owner.user_id) as worker:
        job_id = alice.submit(require={"label:site": owner.user_id})
        attempt = worker.assigned()
        worker.start(attempt)
        alice.running(job_id)
        told = alice.cancel(job_id)
        assert (told["status"], told["cancel_requested"]) == ("running", True)
        assert lease_of(worker.expect("cancel")) == lease_of(attempt)
        again = alice.cancel(job_id)
        assert (again["status"], again["cancel_requested"]) == ("running", True)
        worker.finish(attempt, None, reason="cancelled")
        while (frame := worker.receive())["type"] != "ack":
            assert frame["type"] == "cancel", frame
        job = alice.job(job_id)
        assert (job["status"], job["cancel_requested"]) == ("cancelled", True)
        assert [each["status"] for each in job["attempts"]] == ["cancelled"]


def test_a_success_that_comes_after_the_wish(house: House, alice: Person) -> None:
    """What ended by itself before the worker heard of it is told as the worker tells it."""
    owner = house.person()
    with by_hand(house.url, owner.token, label=owner.user_id) as worker:
        job_id = alice.submit(require={"label:site": owner.user_id})
        attempt = worker.assigned()
        worker.start(attempt)
        alice.running(job_id)
        alice.cancel(job_id)
        worker.expect("cancel")
        worker.finish(attempt, 0)
        worker.expect("ack")
        job = alice.job(job_id)
        assert job["status"] in {"cancelled", "succeeded"}
        assert job["attempts"][0]["status"] == job["status"]


def test_with_its_worker_gone_the_lease_ends_it_unbilled(hasty: House) -> None:
    alice, owner = hasty.person(), hasty.person()
    before = alice.balance()
    with by_hand(hasty.url, owner.token, label=owner.user_id) as worker:
        job_id = alice.submit(require={"label:site": owner.user_id})
        attempt = worker.assigned()
        worker.start(attempt)
        alice.running(job_id)
    told = alice.cancel(job_id)
    assert (told["status"], told["cancel_requested"]) == ("running", True)
    job = alice.final(job_id)
    assert (job["status"], job["cost"]) == ("cancelled", "0.000000")
    assert [each["status"] for each in job["attempts"]] == ["lost"]
    assert alice.balance() == before
    assert owner.balance()["balance"] == "100.000000"


def test_a_program_that_ends_when_it_is_told(alice: Person) -> None:
    job_id = alice.submit(
        "trap 'echo told; exit 3' TERM; echo up; sleep 60 & wait", language="bash"
    )
    alice.printed(job_id, "up")
    alice.cancel(job_id)
    job = alice.final(job_id, SOON_S)
    assert (job["status"], job["exit_code"], job["reason"]) == ("cancelled", None, None)
    assert job["stdout"] == "up\ntold\n", "TERM was enough for it"


def test_a_program_that_ignores_it_is_over_within_seven_seconds(alice: Person) -> None:
    job_id = alice.submit(STUBBORN)
    alice.printed(job_id, "up")
    began = time.monotonic()
    alice.cancel(job_id)
    job = alice.final(job_id, SOON_S)
    took_s = time.monotonic() - began
    assert took_s < SOON_S
    assert (job["status"], job["exit_code"]) == ("cancelled", None)
    (attempt,) = job["attempts"]
    if attempt["status"] == "lost":  # by a worker too busy to say in time that it is over
        assert (took_s > CANCEL_DEADLINE_S, job["cost"]) == (True, "0.000000")
    else:
        assert attempt["status"] == "cancelled"
        assert job["receipt"]["billed_s"] <= attempt["usage"]["wall_s"] + 0.01


def test_a_batch_at_once(house: House, alice: Person) -> None:
    spec = {"code": "import time; time.sleep(60)", "require": NOWHERE}
    batch = alice.tell("/jobs/batch", {"template": spec, "args": [["1"], ["2"], ["3"]]}, 201)
    runs = alice.submit("import time; print('up', flush=True); time.sleep(60)")
    assert alice.tell(f"/batches/{batch['batch_id']}/cancel") == {"cancelled": 3}
    for job_id in batch["job_ids"]:
        assert alice.job(job_id)["status"] == "cancelled"
    assert alice.tell(f"/batches/{batch['batch_id']}/cancel") == {"cancelled": 0}
    alice.printed(runs, "up")
    alice.cancel(runs)
    alice.final(runs, SOON_S)
    other = house.person()
    assert other.refused("POST", f"/batches/{batch['batch_id']}/cancel")[0] in {403, 404}


def test_another_s_job_only_by_an_administrator(house: House, alice: Person) -> None:
    job_id = alice.submit(require=NOWHERE)
    other = house.person()
    assert other.refused("POST", f"/jobs/{job_id}/cancel")[0] == 403
    assert other.refused("GET", f"/jobs/{job_id}")[0] == 403
    assert house.admin.job(job_id)["status"] == "queued"
    assert house.admin.cancel(job_id)["status"] == "cancelled"
    until(lambda: alice.balance()["held"] == "0.000000", "the hold is given back")
