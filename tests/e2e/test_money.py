"""What jobs cost, to the micro-credit, and what stands in the statements of everybody."""

import time
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal

from tests.e2e.house import House
from tests.e2e.people import Json, Person
from tests.e2e.sockets import HandWorker, by_hand
from tests.support.waiting import until

MICRO = Decimal("0.000001")
PRICE = Decimal("0.010625")
LEAST = Decimal("0.005")


def micro(amount: Decimal) -> str:
    return str(amount.quantize(MICRO, ROUND_HALF_EVEN))


def passed(seconds: float) -> None:
    """Let time pass that the coordinator sees: more is not billed, whatever a worker reports."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end, "time passes")


def by_a_worker_that_says(
    house: House, alice: Person, owner: Person, wall_s: float, exit_code: int = 0, **spec: object
) -> Json:
    """The job after a worker of `owner` reported so much time for it."""
    site = f"money-{owner.user_id}"
    with by_hand(house.url, owner.token, label=site) as worker:
        job_id = alice.submit(require={"label:site": site}, **spec)
        attempt = worker.assigned()
        worker.start(attempt)
        passed(0.03)
        usage = {"wall_s": wall_s, "cpu_s": 0.0, "peak_memory_mb": 1.0}
        worker.finish(attempt, exit_code, usage=usage)
        worker.expect("ack")
    return alice.job(job_id)


def test_a_job_on_another_s_worker(house: House, alice: Person) -> None:
    olive = house.admin.ask("/credits/olive")
    job = alice.run("import time; time.sleep(1)")
    receipt = job["receipt"]
    billed = Decimal(str(receipt["billed_s"]))
    assert Decimal(1) < billed <= Decimal(str(job["attempts"][0]["usage"]["wall_s"])) + MICRO
    cost, held = Decimal(job["cost"]), Decimal("0.637500")
    assert abs(cost - PRICE * billed) <= MICRO
    assert receipt["price_per_second"] == "0.010625"
    assert (receipt["held"], receipt["cost"]) == (str(held), job["cost"])
    assert Decimal(receipt["released"]) == held - cost
    assert Decimal(receipt["reward"]) + Decimal(receipt["fee"]) == cost
    reward = (PRICE * billed * Decimal("0.85")).quantize(MICRO, ROUND_DOWN)
    assert abs(Decimal(receipt["reward"]) - reward) <= MICRO
    assert (receipt["fault"], bool(receipt["why"])) == ("none", True)
    mine = alice.balance()
    assert mine == {
        "user_id": alice.user_id,
        "balance": micro(Decimal(100) - cost),
        "held": "0.000000",
        "available": micro(Decimal(100) - cost),
    }
    after = house.admin.ask("/credits/olive")
    earned = Decimal(after["balance"]) - Decimal(olive["balance"])
    assert earned == Decimal(receipt["reward"])


def test_the_least_is_no_reward(house: House, alice: Person) -> None:
    owner = house.person()
    job = by_a_worker_that_says(house, alice, owner, 0.01)
    receipt = job["receipt"]
    assert (job["cost"], receipt["billed_s"]) == ("0.005000", 0.01)
    assert (receipt["reward"], receipt["fee"]) == ("0.000090", "0.004910")
    assert owner.balance()["balance"] == "100.000090"
    nothing = by_a_worker_that_says(house, alice, owner, 0.0)
    assert (nothing["cost"], nothing["receipt"]["reward"]) == ("0.005000", "0.000000")
    assert nothing["receipt"]["fee"] == "0.005000"


def test_a_worker_that_lies_is_paid_what_was_seen(house: House, alice: Person) -> None:
    owner = house.person()
    began = time.monotonic()
    job = by_a_worker_that_says(house, alice, owner, 3600.0)
    took_s = time.monotonic() - began
    assert job["status"] == "succeeded"
    assert job["receipt"]["billed_s"] <= took_s
    assert Decimal(job["cost"]) <= max(LEAST, PRICE * Decimal(took_s) + MICRO)


def test_one_s_own_worker_is_free_and_tried_first(house: House, alice: Person) -> None:
    with by_hand(house.url, alice.token, label="own") as worker:
        job_id = alice.submit()
        attempt = worker.assigned()
        assert attempt["job_id"] == job_id, "olive's worker was free too"
        worker.start(attempt)
        worker.finish(attempt)
        worker.expect("ack")
    job = alice.job(job_id)
    assert (job["cost"], job["receipt"]["billed_s"]) == ("0.000000", 0.0)
    assert job["receipt"]["released"] == "0.637500"
    assert alice.balance()["balance"] == "100.000000"


def pause(house: House, worker: HandWorker) -> None:
    worker.send("state", paused=True)
    path = f"/workers/{worker.worker_id}"
    until(lambda: house.admin.ask(path)["status"] == "paused", "it is paused")


def test_attempts_of_two_owners_are_each_paid_their_own(house: House, alice: Person) -> None:
    owners = [house.person(), house.person()]
    site = f"two-{alice.user_id}"
    job_id = alice.submit(
        require={"label:site": site},
        retry_on_failure=True,
        max_attempts=2,
        limits={"timeout_s": 10},
    )
    assert alice.job(job_id)["held"] == "0.212500"
    usage = {"wall_s": 0.003, "cpu_s": 0.0, "peak_memory_mb": 1.0}
    for owner, code in zip(owners, (1, 0), strict=True):
        with by_hand(house.url, owner.token, label=site) as worker:
            attempt = worker.assigned()
            worker.start(attempt)
            passed(0.03)
            pause(house, worker)  # or it would get the next attempt too
            worker.finish(attempt, code, usage=usage)
            worker.expect("ack")
    job = alice.job(job_id)
    assert [each["status"] for each in job["attempts"]] == ["failed", "succeeded"]
    assert (job["status"], job["receipt"]["billed_s"]) == ("succeeded", 0.006)
    # 0.85 of 0.010625 a second for 3 ms each, rounded down each.
    assert [owner.balance()["balance"] for owner in owners] == ["100.000027"] * 2
    assert (job["receipt"]["reward"], job["cost"]) == ("0.000054", "0.005000")


def test_the_price_of_resources(alice: Person) -> None:
    wanted = {"cpus": 2.5, "memory_mb": 1000, "gpus": 1}
    spec = {
        "code": "1",
        "resources": wanted,
        "limits": {"timeout_s": 7},
        "require": {"label:x": "y"},
    }
    answer = alice.tell("/jobs", spec, 201)
    price = micro(Decimal("0.01") * (Decimal("2.5") + Decimal(1000) / 4096 + 4))
    assert price == "0.067441"
    assert abs(Decimal(answer["held"]) - Decimal("0.472087")) <= MICRO, answer
    alice.cancel(answer["job_id"])


def test_too_little_is_402_and_changes_nothing(house: House, alice: Person) -> None:
    alice.tell("/credits/transfer", {"to": "olive", "amount": "99.5"}, 201)
    before = alice.balance()
    assert before["available"] == "0.500000"
    status, words = alice.refused("POST", "/jobs", {"code": "1"})
    assert status == 402
    assert words == "Insufficient credits. Need 0.637500, have 0.500000"
    spec = {"code": "1", "limits": {"timeout_s": 30}, "require": {"label:x": "y"}}
    assert alice.refused("POST", "/jobs/batch", {"jobs": [spec, spec]})[0] == 402
    assert alice.ask("/jobs")["items"] == []
    assert alice.balance() == before
    job_id = alice.submit(**spec)
    assert alice.balance()["available"] == "0.181250"
    assert alice.refused("POST", "/credits/transfer", {"to": "olive", "amount": "0.2"})[0] == 402
    alice.cancel(job_id)
    assert alice.balance() == before


def test_the_statement_tells_all_of_it(house: House, alice: Person) -> None:
    other = house.person()
    sent = alice.tell("/credits/transfer", {"to": other.user_id, "amount": "1.5", "memo": "m"}, 201)
    expected = {"from": alice.user_id, "to": other.user_id, "amount": "1.500000", "memo": "m"}
    assert {name: sent[name] for name in expected} == expected
    assert {"id", "at"} <= set(sent)
    given = house.admin.tell("/credits/grant", {"to": alice.user_id, "amount": "2"}, 201)
    assert (given["to"], given["amount"]) == (alice.user_id, "2.000000")
    job = alice.run()
    lines = alice.items(f"/credits/{alice.user_id}/transactions?limit=2")
    fields = {"id", "at", "kind", "amount", "available_after", "job_id", "with", "memo"}
    assert set(lines[0]) == fields
    kinds = [line["kind"] for line in lines]
    assert kinds[-1] == "grant" and "transfer" in kinds and "hold" in kinds
    assert sum(Decimal(line["amount"]) for line in lines) == Decimal(alice.balance()["available"])
    assert lines[0]["available_after"] == alice.balance()["available"]
    running = Decimal(0)
    for line in reversed(lines):
        running += Decimal(line["amount"])
        assert Decimal(line["available_after"]) == running, line
    assert {line["job_id"] for line in lines if line["kind"] == "hold"} == {job["job_id"]}
    assert [line["memo"] for line in lines if line["kind"] == "transfer"] == ["m"]
    path = f"/credits/{other.user_id}/transactions"
    (theirs,) = (line for line in other.items(path) if line["kind"] == "transfer")
    assert (theirs["amount"].lstrip("+"), theirs["with"]) == ("1.500000", alice.user_id)


def test_credits_are_the_business_of_their_owner(house: House, alice: Person) -> None:
    other = house.person()
    for path in (f"/credits/{other.user_id}", f"/credits/{other.user_id}/transactions"):
        assert alice.refused("GET", path)[0] == 403
        assert house.admin.get(path).status_code == 200
    assert alice.refused("POST", "/credits/grant", {"to": "olive", "amount": "1"})[0] == 403
    for amount in ("0", "-1", "+1", "1e3", "0.0000001", "", " 1", "NaN"):
        body = {"to": other.user_id, "amount": amount}
        assert alice.refused("POST", "/credits/transfer", body)[0] == 400, amount
    nobody = {"to": "nobody-here", "amount": "1"}
    assert alice.refused("POST", "/credits/transfer", nobody)[0] == 404
    assert alice.balance()["balance"] == "100.000000"
