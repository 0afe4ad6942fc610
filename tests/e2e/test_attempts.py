"""Attempts and their leases, by a worker spoken by hand: lost, late, handed over, tried again."""

import pytest

from tests.e2e.conftest import LEASE_S
from tests.e2e.house import House
from tests.e2e.people import Person
from tests.e2e.sockets import JSON, MSGPACK, by_hand, knock, lease_of
from tests.support.waiting import until


@pytest.mark.parametrize("subprotocol", [MSGPACK, JSON])
def test_the_whole_of_an_attempt(house: House, alice: Person, subprotocol: str) -> None:
    owner = house.person()
    site = owner.user_id
    with by_hand(house.url, owner.token, subprotocol=subprotocol, label=site) as worker:
        assert worker.token
        job_id = alice.submit(
            "print(2)", args=["a"], env={"K": "v"}, stdin="in", require={"label:site": site}
        )
        attempt = worker.assigned()
        assert (attempt["job_id"], attempt["attempt"]) == (job_id, 1)
        spec = attempt["spec"]
        told = {name: spec[name] for name in ("language", "code", "args", "env", "stdin")}
        assert told == {
            "language": "python", "code": "print(2)", "args": ["a"], "env": {"K": "v"}, "stdin": "in",
        }  # fmt: skip
        worker.start(attempt)
        alice.running(job_id)
        worker.log(attempt, b"one\xff\n")
        worker.log(attempt, b"two\n", 1, "stderr")
        worker.heartbeat()
        worker.finish(attempt)
        assert lease_of(worker.expect("ack")) == lease_of(attempt)
        job = alice.job(job_id)
        assert (job["status"], job["stdout"], job["stderr"]) == (
            "succeeded",
            "one\ufffd\n",
            "two\n",
        )
        assert job["attempts"][0]["usage"] == {
            "wall_s": 0.5, "cpu_s": 0.25, "peak_memory_mb": 12.0,
        }  # fmt: skip
        worker.finish(attempt)
        worker.expect("ack")
        assert alice.job(job_id) == job


def test_silence_loses_the_lease_and_the_job_runs_elsewhere(hasty: House) -> None:
    alice, one, two = hasty.person(), hasty.person(), hasty.person()
    site = one.user_id
    with by_hand(hasty.url, one.token, label=site) as first:
        job_id = alice.submit(require={"label:site": site})
        lost = first.assigned()
        first.start(lost)
        alice.running(job_id)
    with by_hand(hasty.url, two.token, label=site) as second:
        attempt = second.assigned()
        assert (attempt["job_id"], attempt["attempt"]) == (job_id, 2)
        assert alice.job(job_id)["status"] == "queued"
        with by_hand(hasty.url, one.token, label="away") as late:
            late.finish(lost)
            assert lease_of(late.expect("drop")) == lease_of(lost)
        second.start(attempt)
        second.finish(attempt)
        second.expect("ack")
    job = alice.job(job_id)
    assert job["status"] == "succeeded"
    assert [(a["number"], a["status"]) for a in job["attempts"]] == [(1, "lost"), (2, "succeeded")]
    assert job["worker_id"] == second.worker_id
    assert one.balance()["balance"] == "100.000000"
    assert float(two.balance()["balance"]) > 100


def test_a_result_that_was_thought_lost_counts_while_nobody_else_took_it(hasty: House) -> None:
    alice, owner = hasty.person(), hasty.person()
    site = owner.user_id
    with by_hand(hasty.url, owner.token, label=site) as worker:
        job_id = alice.submit(require={"label:site": site})
        attempt = worker.assigned()
        worker.start(attempt)
        alice.running(job_id)
    alice.at(job_id, "queued")
    assert alice.job(job_id)["attempts"][0]["status"] == "lost"
    assert worker.token
    # It comes back paused, so that its own job is not assigned to it anew.
    with knock(hasty.url, worker.token) as again:
        welcome = again.hello(
            label=f"not-{site}", worker_id=worker.worker_id, unacknowledged=[lease_of(attempt)]
        )
        assert welcome["worker_id"] == worker.worker_id
        assert welcome.get("worker_token") is None
        assert [lease_of(each) for each in welcome["keep"]] == [lease_of(attempt)]
        again.finish(attempt)
        assert lease_of(again.expect("ack")) == lease_of(attempt)
    job = alice.final(job_id)
    assert (job["status"], len(job["attempts"])) == ("succeeded", 1)
    assert job["attempts"][0]["status"] == "succeeded"


def test_what_hello_names_nowhere_is_lost_at_once(house: House, alice: Person) -> None:
    owner = house.person()
    site = owner.user_id
    with by_hand(house.url, owner.token, label=site) as worker:
        job_id = alice.submit(require={"label:site": site})
        attempt = worker.assigned()
        worker.start(attempt)
        alice.running(job_id)
        assert worker.token
        with by_hand(
            house.url, worker.token, label=f"not-{site}", worker_id=worker.worker_id
        ) as newer:
            told = worker.receive()
            assert (told["type"], told["reason"], told["retry"]) == (
                "disconnect", "replaced", False,
            )  # fmt: skip
            alice.at(job_id, "queued", LEASE_S - 5)
            assert alice.job(job_id)["attempts"][0]["status"] == "lost"
            newer.finish(attempt)
            assert lease_of(newer.expect("ack")) == lease_of(attempt)
    # Nobody else had taken it.
    assert alice.job(job_id)["status"] == "succeeded"


def test_running_leases_go_on_over_a_reconnect(house: House, alice: Person) -> None:
    owner = house.person()
    site = owner.user_id
    with by_hand(house.url, owner.token, label=site) as worker:
        job_id = alice.submit(require={"label:site": site})
        attempt = worker.assigned()
        worker.start(attempt)
        alice.running(job_id)
        worker.log(attempt, b"first\n")
        alice.printed(job_id, "first")
    assert worker.token
    again = {"worker_id": worker.worker_id, "running": [lease_of(attempt)]}
    with knock(house.url, worker.token) as back:
        welcome = back.hello(label=site, **again)
        (kept,) = welcome["keep"]
        assert lease_of(kept) == lease_of(attempt)
        assert kept.get("log_frames") == 1
        back.log(attempt, b"second\n", 1)
        back.finish(attempt)
        back.expect("ack")
    job = alice.final(job_id)
    assert (job["status"], job["stdout"]) == ("succeeded", "first\nsecond\n")
    assert len(job["attempts"]) == 1


def test_a_job_is_tried_so_often_and_then_failed_as_lost(hasty: House) -> None:
    alice, owner = hasty.person(), hasty.person()
    site = owner.user_id
    before = alice.balance()
    job_id = alice.submit(require={"label:site": site}, max_attempts=2)
    token = owner.token
    for number in (1, 2):
        with by_hand(hasty.url, token, label=site) as worker:
            attempt = worker.assigned()
            assert attempt["attempt"] == number
            worker.start(attempt)
            alice.running(job_id)
    job = alice.final(job_id)
    assert (job["status"], job["reason"], job["exit_code"]) == ("failed", "lost", None)
    assert [each["status"] for each in job["attempts"]] == ["lost", "lost"]
    assert (job["cost"], job["receipt"]["fault"]) == ("0.000000", "worker")
    assert alice.balance() == before


def test_leaving_hands_over_at_once_and_does_not_count(house: House, alice: Person) -> None:
    owner, other = house.person(), house.person()
    site = owner.user_id
    with by_hand(house.url, owner.token, label=site) as worker:
        job_id = alice.submit(require={"label:site": site}, max_attempts=1)
        attempt = worker.assigned()
        worker.start(attempt)
        alice.running(job_id)
        with by_hand(house.url, other.token, label=site) as second:
            worker.send("leaving")
            taken = second.assigned(LEASE_S - 5)
            assert (taken["job_id"], taken["attempt"]) == (job_id, 2)
            second.start(taken)
            second.finish(taken)
            second.expect("ack")
    job = alice.job(job_id)
    assert (job["status"], job["max_attempts"]) == ("succeeded", 1)
    assert [each["status"] for each in job["attempts"]] == ["lost", "succeeded"]


def test_sandbox_errors_are_tried_again_and_cost_nothing(house: House, alice: Person) -> None:
    owner = house.person()
    site = owner.user_id
    before = alice.balance()
    job_id = alice.submit(require={"label:site": site}, max_attempts=2)
    with by_hand(house.url, owner.token, label=site) as worker:
        for _ in range(2):
            attempt = worker.assigned()
            worker.start(attempt)
            worker.finish(attempt, None, reason="sandbox_error")
            worker.expect("ack")
    job = alice.final(job_id)
    assert (job["status"], job["reason"]) == ("failed", "sandbox_error")
    assert [each["reason"] for each in job["attempts"]] == ["sandbox_error"] * 2
    assert job["cost"] == "0.000000"
    assert alice.balance() == before


def test_a_failure_is_tried_again_only_when_asked(alice: Person) -> None:
    job = alice.run("raise SystemExit(3)", max_attempts=2)
    assert len(job["attempts"]) == 1
    answer = alice.tell(
        "/jobs", {"code": "raise SystemExit(3)", "max_attempts": 3, "retry_on_failure": True}, 201
    )
    assert answer["held"] == "1.912500"
    again = alice.final(answer["job_id"])
    assert [each["exit_code"] for each in again["attempts"]] == [3, 3, 3]
    assert (again["reason"], again["exit_code"]) == ("exit_code", 3)
    billed = sum(each["usage"]["wall_s"] for each in again["attempts"])
    assert 0 < again["receipt"]["billed_s"] <= billed + 0.001


def test_another_s_lease_is_nobody_s(house: House, alice: Person) -> None:
    one, two = house.person(), house.person()
    with (
        by_hand(house.url, one.token, label=one.user_id) as first,
        by_hand(house.url, two.token, label=two.user_id) as thief,
    ):
        job_id = alice.submit(require={"label:site": one.user_id})
        attempt = first.assigned()
        first.start(attempt)
        alice.running(job_id)
        thief.log(attempt, b"mine")
        assert lease_of(thief.expect("drop")) == lease_of(attempt)
        thief.finish(attempt)
        assert lease_of(thief.expect("drop")) == lease_of(attempt)
        assert alice.job(job_id)["status"] == "running"
        first.finish(attempt)
        first.expect("ack")
    assert alice.job(job_id)["stdout"] == ""
    assert two.balance()["balance"] == "100.000000"


@pytest.mark.parametrize(
    "nonsense",
    [
        {"type": "dance"},
        {"type": "leaving", "field": "too many"},
        {"type": "state"},
        {"type": "hello", "name": "again"},
    ],
)
def test_nonsense_ends_the_connection_and_nothing_else(
    house: House, alice: Person, nonsense: dict[str, str]
) -> None:
    one, two = house.person(), house.person()
    with (
        by_hand(house.url, one.token, label="x", subprotocol=JSON) as bad,
        by_hand(house.url, two.token, label=two.user_id) as good,
    ):
        bad.send(**nonsense)  # pyright: ignore[reportArgumentType]
        code, reason = bad.closing()
        assert code == 1008
        assert reason
        job_id = alice.submit(require={"label:site": two.user_id})
        attempt = good.assigned()
        good.start(attempt)
        good.finish(attempt)
        good.expect("ack")
    assert alice.job(job_id)["status"] == "succeeded"


def test_a_worker_that_is_silent_is_offline_after_its_lease(hasty: House) -> None:
    owner = hasty.person()
    with by_hand(hasty.url, owner.token, label="silent") as worker:
        path = f"/workers/{worker.worker_id}"
        assert owner.ask(path)["status"] == "online"
        # It says nothing more; a heartbeat every 0.4 s is what keeps one online.
        code, _ = worker.closing()
        assert code
        until(lambda: owner.ask(path)["status"] == "offline", "it is offline")
