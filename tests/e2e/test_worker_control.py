"""Workers as their owners and administrators steer them: pause, drain, suspend, ban, disconnect."""

from decimal import Decimal

import pytest

from tests.e2e.conftest import LEASE_S
from tests.e2e.house import House
from tests.e2e.people import Person
from tests.e2e.sockets import HEARTBEAT_S, HandWorker, by_hand, knock
from tests.support.waiting import until

SLOW = "import time; print('up', flush=True); time.sleep(1)"


def status(person: Person, worker: HandWorker) -> str:
    return person.ask(f"/workers/{worker.worker_id}")["status"]


def test_pause_and_resume_from_the_api(house: House, alice: Person) -> None:
    owner = house.person()
    site = owner.user_id
    with by_hand(house.url, owner.token, label=site) as worker:
        owner.tell(f"/workers/{worker.worker_id}/pause")
        worker.expect("pause")
        assert status(owner, worker) == "paused"
        job_id = alice.submit(require={"label:site": site})
        with pytest.raises(TimeoutError):
            worker.receive(1)
        assert alice.job(job_id)["status"] == "queued"
        owner.tell(f"/workers/{worker.worker_id}/resume")
        worker.expect("resume")
        attempt = worker.assigned()
        worker.start(attempt)
        worker.finish(attempt)
        worker.expect("ack")
        assert status(owner, worker) == "online"


def test_pause_at_the_machine(house: House, alice: Person) -> None:
    owner = house.person()
    site = owner.user_id
    with by_hand(house.url, owner.token, label=site) as worker:
        worker.send("state", paused=True)
        until(lambda: status(owner, worker) == "paused", "it is paused")
        job_id = alice.submit(require={"label:site": site})
        with pytest.raises(TimeoutError):
            worker.receive(1)
        worker.send("state", paused=False)
        assert worker.assigned()["job_id"] == job_id
        alice.cancel(job_id)


def test_drain_lets_end_and_takes_no_more(house: House, alice: Person) -> None:
    owner = house.person()
    site = owner.user_id
    with by_hand(house.url, owner.token, label=site) as worker:
        runs = alice.submit(require={"label:site": site})
        attempt = worker.assigned()
        worker.start(attempt)
        alice.running(runs)
        owner.tell(f"/workers/{worker.worker_id}/drain")
        worker.expect("drain")
        assert status(owner, worker) == "draining"
        waits = alice.submit(require={"label:site": site})
        worker.finish(attempt)
        worker.expect("ack")
        assert alice.job(runs)["status"] == "succeeded"
        with pytest.raises(TimeoutError):
            worker.receive(1)
        assert alice.cancel(waits)["status"] == "cancelled"


def test_suspend_lets_end_and_pays(house: House, alice: Person) -> None:
    owner = house.person()
    site = owner.user_id
    with by_hand(house.url, owner.token, label=site) as worker:
        path = f"/workers/{worker.worker_id}"
        runs = alice.submit(require={"label:site": site})
        attempt = worker.assigned()
        worker.start(attempt)
        alice.running(runs)
        assert owner.refused("POST", f"{path}/suspend")[0] == 403
        house.admin.tell(f"{path}/suspend")
        assert status(owner, worker) == "suspended"
        waits = alice.submit(require={"label:site": site})
        worker.finish(attempt)
        while worker.receive()["type"] != "ack":
            pass
        assert alice.job(runs)["status"] == "succeeded"
        assert Decimal(owner.balance()["balance"]) > 100
        with pytest.raises(TimeoutError):
            worker.receive(1)
        house.admin.tell(f"{path}/unsuspend")
        while (frame := worker.receive())["type"] != "assign":
            pass
        assert frame["attempts"][0]["job_id"] == waits
        alice.cancel(waits)


def test_ban_loses_what_runs_and_pays_nothing(house: House, alice: Person) -> None:
    owner = house.person()
    site = owner.user_id
    with by_hand(house.url, owner.token, label=site) as worker:
        path = f"/workers/{worker.worker_id}"
        runs = alice.submit(require={"label:site": site}, max_attempts=1)
        worker.start(worker.assigned())
        alice.running(runs)
        assert owner.refused("POST", f"{path}/ban")[0] == 403
        house.admin.tell(f"{path}/ban")
        told = worker.expect("disconnect")
        assert told["retry"] is False
        job = alice.final(runs, LEASE_S - 5)
        assert (job["reason"], job["cost"]) == ("lost", "0.000000")
        assert owner.balance()["balance"] == "100.000000"
        assert status(owner, worker) == "banned"
    assert worker.token
    with knock(house.url, worker.token) as again:
        again.send("hello", name="x", version="2", capabilities=CAPABLE)
        refused = again.expect("refused")
        assert refused["retry"] is False
        assert "banned" in refused["reason"]


CAPABLE = {"resources": {"cpus": 1.0, "memory_mb": 512, "gpus": 0, "disk_mb": 512}}


def test_disconnect_and_broadcast(house: House) -> None:
    owner = house.person()
    with by_hand(house.url, owner.token, label="b") as worker:
        house.admin.tell("/admin/broadcast", {"text": "hello \u20ac"})
        assert worker.expect("broadcast")["text"] == "hello \u20ac"
        path = f"/workers/{worker.worker_id}/disconnect"
        assert owner.refused("POST", path)[0] == 403
        house.admin.tell(path)
        assert worker.expect("disconnect")["reason"]
        assert worker.closing()[0] in {1000, 1001}


def test_a_worker_is_steered_by_its_owner_alone(house: House, alice: Person) -> None:
    owner = house.person()
    with by_hand(house.url, owner.token, label="s") as worker:
        for word in ("pause", "resume", "drain"):
            path = f"/workers/{worker.worker_id}/{word}"
            assert alice.refused("POST", path)[0] == 403
        for word in ("pause", "resume"):
            house.admin.tell(f"/workers/{worker.worker_id}/{word}")
        view = owner.ask(f"/workers/{worker.worker_id}")
        assert (view["owner_id"], view["status"]) == (owner.user_id, "online")
        assert view["resources"]["cpus"] == 4.0


def test_a_suspended_user_is_out_at_once(house: House, alice: Person) -> None:
    owner = house.person()
    waits = owner.submit(require={"label:site": "nowhere"})
    with by_hand(house.url, owner.token, label="sus") as worker:
        assert worker.token
        assert alice.refused("POST", f"/users/{owner.user_id}/suspend")[0] == 403
        house.admin.tell(f"/users/{owner.user_id}/suspend")
        assert worker.expect("disconnect")["type"]
        worker.closing()
    assert owner.get("/jobs").status_code in {401, 403}
    assert house.admin.job(waits)["status"] == "cancelled"
    body = {"user_id": owner.user_id, "password": "correct horse"}
    nobody = Person(house.url, "", "")
    assert nobody.refused("POST", "/auth/token", body)[0] in {401, 403}
    nobody.close()
    house.admin.tell(f"/users/{owner.user_id}/unsuspend")
    assert house.log_in(owner.user_id).job(waits)["status"] == "cancelled"


def test_a_registered_worker_s_token_opens_nothing_else(house: House) -> None:
    owner = house.person()
    body = {"name": "r", "capabilities": CAPABLE}
    made = owner.tell("/workers/register", body | {"owner_id": owner.user_id}, 201)
    assert set(made) == {"worker_id", "worker_token"}
    assert owner.refused("POST", "/workers/register", body | {"owner_id": "olive"})[0] == 403
    machine = Person(house.url, "", made["worker_token"])
    for path in ("/jobs", f"/credits/{owner.user_id}", "/workers", "/users"):
        assert machine.refused("GET", path)[0] in {401, 403}, path
    assert machine.refused("POST", "/jobs", {"code": "1"})[0] in {401, 403}
    machine.close()
    with knock(house.url, made["worker_token"]) as worker:
        welcome = worker.hello(label="r")
        assert welcome["worker_id"] == made["worker_id"]
        assert welcome.get("worker_token") is None
        assert (welcome["heartbeat_s"], welcome["lease_s"]) == (HEARTBEAT_S, LEASE_S)


def test_real_workers_pause_and_drain(house: House, alice: Person) -> None:
    """The agent's side of it: what runs ends, and a drained worker goes by itself."""
    owner = house.person()
    site = owner.user_id
    worker = house.worker(owner.user_id, "--label", f"site={site}")
    first = alice.submit(SLOW, require={"label:site": site})
    alice.printed(first, "up")
    owner.tell(f"/workers/{worker.worker_id}/pause")
    second = alice.submit("print(2)", require={"label:site": site})
    assert alice.final(first)["status"] == "succeeded"
    assert alice.job(second)["status"] == "queued"
    owner.tell(f"/workers/{worker.worker_id}/resume")
    assert alice.final(second)["stdout"] == "2\n"
    third = alice.submit(SLOW, require={"label:site": site})
    alice.printed(third, "up")
    owner.tell(f"/workers/{worker.worker_id}/drain")
    assert alice.final(third)["status"] == "succeeded"
    assert worker.process.wait() == 0
