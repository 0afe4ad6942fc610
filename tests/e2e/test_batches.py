"""Batches, templates, idempotency keys, retries, lists and waiting, over plain HTTP."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.house import House
from tests.e2e.people import Json, Person, refusal

NOWHERE = {"label:site": "nowhere"}
WAITS: Json = {"code": "print(1)", "require": NOWHERE}


def test_a_batch_is_all_or_none(alice: Person) -> None:
    before = alice.balance()
    bad = {"jobs": [WAITS, WAITS | {"code": ""}]}
    answer = alice.post("/jobs/batch", bad)
    assert refusal(answer)[0] == 400
    assert any("1" in detail["field"] for detail in answer.json()["details"]), "names the index"
    assert alice.balance() == before
    specs = [{"code": f"print({n})", "name": f"n{n}"} for n in range(5)]
    batch = alice.tell("/jobs/batch", {"jobs": specs}, 201)
    assert set(batch) == {"batch_id", "job_ids"}
    jobs = [alice.final(job_id) for job_id in batch["job_ids"]]
    assert [job["stdout"] for job in jobs] == [f"{n}\n" for n in range(5)]
    assert [job["name"] for job in jobs] == [f"n{n}" for n in range(5)]
    listed = alice.items(f"/jobs?batch_id={batch['batch_id']}&limit=2")
    assert {job["job_id"] for job in listed} == set(batch["job_ids"])


def test_a_template_with_arguments(alice: Person) -> None:
    template = {"code": "import sys; print(sys.argv[1:])", "tags": ["t"]}
    batch = alice.tell(
        "/jobs/batch", {"template": template, "args": [["1"], ["2", "x y"], []]}, 201
    )
    said = [alice.final(job_id)["stdout"] for job_id in batch["job_ids"]]
    assert said == ["['1']\n", "['2', 'x y']\n", "[]\n"]
    refused: list[Json] = [
        {"template": template},
        {"args": [["1"]]},
        {"jobs": []},
        {"jobs": [WAITS], "template": template, "args": [["1"]]},
        {"template": template, "args": [[1]]},
        {"template": template, "args": []},
    ]
    for body in refused:
        assert alice.refused("POST", "/jobs/batch", body)[0] == 400, body


def test_the_same_key_answers_the_same_and_costs_once(house: House, alice: Person) -> None:
    first = alice.post("/jobs", WAITS, key="k-1")
    again = alice.post("/jobs", dict(reversed(WAITS.items())), key="k-1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert alice.balance()["held"] == "0.637500"
    status, _ = refusal(alice.post("/jobs", WAITS | {"name": "other"}, key="k-1"))
    assert status == 422
    batch = {"template": WAITS, "args": [["1"], ["2"]]}
    # A key is of (user, path): here it is another one.
    one = alice.post("/jobs/batch", batch, key="k-1").json()
    assert alice.post("/jobs/batch", batch, key="k-1").json() == one
    other = house.person()
    theirs = other.post("/jobs", WAITS, key="k-1").json()
    assert theirs["job_id"] != first.json()["job_id"]
    assert len(alice.items("/jobs")) == 3
    assert alice.tell(f"/batches/{one['batch_id']}/cancel") == {"cancelled": 2}
    alice.cancel(first.json()["job_id"])
    other.cancel(theirs["job_id"])


def test_only_a_success_is_kept(house: House, alice: Person) -> None:
    poor = house.person()
    poor.tell("/credits/transfer", {"to": alice.user_id, "amount": "100"}, 201)
    assert refusal(poor.post("/jobs", WAITS, key="k"))[0] == 402
    body = {"to": poor.user_id, "amount": "10"}
    given = [alice.post("/credits/transfer", body, key="t") for _ in range(3)]
    assert {answer.status_code for answer in given} == {201}
    assert len({answer.json()["id"] for answer in given}) == 1
    assert poor.balance()["available"] == "10.000000"
    granted = [house.admin.post("/credits/grant", body, key="t") for _ in range(2)]
    assert granted[0].json() == granted[1].json()
    assert poor.balance()["available"] == "20.000000"
    answer = poor.post("/jobs", WAITS, key="k")
    assert answer.status_code == 201
    poor.cancel(answer.json()["job_id"])


def test_many_at_once_with_one_key_make_one_job(alice: Person) -> None:
    barrier = threading.Barrier(8)

    def submit(_: int) -> Json:
        barrier.wait()
        answer = alice.post("/jobs", WAITS, key="race")
        assert answer.status_code == 201, answer.text
        return answer.json()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(submit, range(8)))
    assert len({answer["job_id"] for answer in answers}) == 1
    assert len(alice.items("/jobs")) == 1
    alice.cancel(answers[0]["job_id"])


def test_retry_is_a_new_job_of_the_same_spec(house: House, alice: Person) -> None:
    spec = {"args": ["x"], "env": {"A": "b"}, "name": "again", "tags": ["t"], "priority": 3}
    job = alice.run("import sys; sys.exit(2)", **spec)
    answer = alice.post(f"/jobs/{job['job_id']}/retry", key="r")
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert set(told) == {"job_id", "status", "held", "timeout_s"}
    assert alice.post(f"/jobs/{job['job_id']}/retry", key="r").json() == told
    again = alice.final(told["job_id"])
    assert again["retry_of"] == job["job_id"]
    for name in (*spec, "code", "limits", "resources", "exit_code"):
        assert again[name] == job[name], name
    waiting = alice.submit(**WAITS)
    assert alice.refused("POST", f"/jobs/{waiting}/retry")[0] == 409
    alice.cancel(waiting)
    assert house.person().refused("POST", f"/jobs/{waiting}/retry")[0] == 403


def test_wait_answers_at_the_end_or_at_the_time_out(alice: Person) -> None:
    waiting = alice.submit(**WAITS)
    began = time.monotonic()
    assert alice.ask(f"/jobs/{waiting}/wait?timeout_s=1")["status"] == "queued"
    assert 0.9 < time.monotonic() - began < 20
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(alice.ask, f"/jobs/{waiting}/wait?timeout_s=60")
        alice.cancel(waiting)
        assert told.result(30)["status"] == "cancelled"
    for bad in ("61", "-1", "nan", "x"):
        assert alice.refused("GET", f"/jobs/{waiting}/wait?timeout_s={bad}")[0] == 400


def test_lists_filter_and_turn_pages(house: House, alice: Person) -> None:
    ids = [alice.submit(**WAITS, name=f"name-{n % 2}", tags=["all", f"t{n}"]) for n in range(5)]
    alice.cancel(ids[0])

    def listed(query: str) -> list[str]:
        return [job["job_id"] for job in alice.items(f"/jobs?{query}")]

    newest_first = list(reversed(ids))
    assert listed("limit=2") == newest_first
    assert listed("status=cancelled") == [ids[0]]
    assert listed("status=queued&limit=1") == newest_first[:-1]
    assert listed("name=name-1") == [ids[3], ids[1]]
    assert listed("tag=t2") == [ids[2]]
    assert listed("tag=all&name=name-0&status=queued") == [ids[4], ids[2]]
    assert listed("batch_id=00000000-0000-4000-8000-000000000000") == []
    page = alice.ask("/jobs?limit=5")
    assert (len(page["items"]), page["next_cursor"]) == (5, None)
    assert house.person().ask("/jobs") == {"items": [], "next_cursor": None}
    for bad in ("limit=0", "limit=501", "limit=x", "status=done", "cursor=x", "batch_id=x"):
        assert alice.refused("GET", f"/jobs?{bad}")[0] == 400, bad
    for job_id in ids[1:]:
        alice.cancel(job_id)


def test_ids_that_are_none(alice: Person) -> None:
    status, words = alice.refused("GET", "/jobs/nope")
    assert (status, words.startswith("Invalid job ID format")) == (400, True), words
    absent = "00000000-0000-4000-8000-000000000000"
    assert alice.refused("GET", f"/jobs/{absent}")[0] == 404
    for path in ("/jobs/nope/logs", "/jobs/nope/wait", "/jobs/nope/events", "/workers/nope"):
        assert alice.refused("GET", path)[0] == 400, path
    for path in ("/jobs/nope/cancel", "/batches/nope/cancel", "/workers/nope/pause"):
        assert alice.refused("POST", path)[0] == 400, path
    for path in (f"/jobs/{absent}/cancel", f"/batches/{absent}/cancel", f"/workers/{absent}/pause"):
        assert alice.refused("POST", path)[0] == 404, path
    assert alice.refused("GET", "/nope")[0] == 404
    answer = alice.call("DELETE", "/jobs")
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "POST"})
