"""Submitting, reading, listing, cancelling and retrying jobs over HTTP."""

import re
from pathlib import Path

import pytest

from tests.server.running import Api, Running, running, settings_for

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_a_submitted_job_is_answered_with_its_hold(alice: Api) -> None:
    answer = alice.post("/jobs", {"code": "print(1)"})

    assert answer.status_code == 201
    body = answer.json()
    assert UUID4.fullmatch(body.pop("job_id"))
    assert body == {"status": "queued", "held": "0.637500", "timeout_s": 60.0}
    assert alice.get(f"/credits/{alice.user_id}").json() == {
        "user_id": alice.user_id,
        "balance": "100.000000",
        "held": "0.637500",
        "available": "99.362500",
    }


def test_defaults_keep_below_a_grids_ceilings(tmp_path: Path) -> None:
    flags = {"limits.timeout_s": 30, "limits.output_bytes": 1000, "limits.processes": 8}
    low = {"timeout_s": 30.0, "output_bytes": 1000, "processes": 8}
    with running(settings_for(f"sqlite:///{tmp_path / 'grid.db'}", flags)) as grid:
        user = grid.user()
        some = user.submit(limits={"processes": 4})
        assert user.get(f"/jobs/{some}").json()["limits"] == low | {"processes": 4}
        batches: list[dict[str, object]] = [
            {"jobs": [{"code": "1"}]},
            {"template": {"code": "1", "limits": {}}, "args": [["a"]]},
        ]
        for batch in batches:
            (job_id,) = user.post("/jobs/batch", batch).json()["job_ids"]
            assert user.get(f"/jobs/{job_id}").json()["limits"] == low
        for name, value in (("timeout_s", 60), ("output_bytes", 1_048_576), ("processes", 64)):
            refused = user.post("/jobs", {"code": "1", "limits": {name: value}})
            assert refused.status_code == 400, "what is asked for is never clamped"


def test_the_whole_job_shows_its_spec(alice: Api) -> None:
    spec = {
        "code": "print('ä')", "language": "node", "args": ["a", "b\tc"], "env": {"K": "v\n"},
        "stdin": "text", "name": "demo", "tags": ["x", "y"], "user_id": alice.user_id,
        "resources": {"cpus": 0.5, "memory_mb": 512, "gpus": 1, "disk_mb": 64},
        "limits": {"timeout_s": 5.5, "output_bytes": 1024, "processes": 8},
        "image": "registry.example.org:5000/lab/python:3.12",
        "require": {"os": "linux", "label:site": "lab-2"},
        "priority": -3, "max_attempts": 2, "retry_on_failure": True, "max_cost": "1.5",
        "not_before": "2099-01-01T01:00:00+01:00", "deadline": "2099-01-02T00:00:00Z",
    }  # fmt: skip
    job_id = alice.submit(**spec)

    job = alice.get(f"/jobs/{job_id}").json()

    spec |= {"language": "javascript", "max_cost": "1.500000"}
    spec |= {"not_before": "2099-01-01T00:00:00.000000Z", "deadline": "2099-01-02T00:00:00.000000Z"}
    assert {name: job[name] for name in spec} == spec
    assert (job["job_id"], job["status"], job["command"]) == (job_id, "queued", None)
    assert job["created_at"].endswith("Z")
    for unknown in (
        "reason", "exit_code", "started_at", "finished_at", "queued_s", "run_s", "worker_id",
        "cost", "retry_of", "receipt", "result", "batch_id",
    ):  # fmt: skip
        assert job[unknown] is None, unknown
    assert (job["stdout"], job["stderr"], job["attempts"]) == ("", "", [])
    assert (job["stdout_truncated"], job["cancel_requested"]) == (False, False)


def test_a_command_takes_the_place_of_code(alice: Api) -> None:
    words = alice.post("/jobs", {"command": ["echo", "a b"]})
    line = alice.post("/jobs", {"command": "echo $HOME | wc"})

    assert alice.get(f"/jobs/{words.json()['job_id']}").json()["command"] == ["echo", "a b"]
    assert alice.get(f"/jobs/{line.json()['job_id']}").json()["command"] == "echo $HOME | wc"


def test_lists_are_newest_first_in_pages(alice: Api) -> None:
    ids = [alice.submit(name=f"n{i % 2}", tags=["even" if i % 2 == 0 else "odd"]) for i in range(5)]

    first = alice.get("/jobs?limit=2").json()
    second = alice.get("/jobs", params={"limit": 3, "cursor": first["next_cursor"]}).json()

    listed = [job["job_id"] for job in first["items"] + second["items"]]
    assert listed == ids[::-1]
    assert second["next_cursor"] is None
    assert "code" not in first["items"][0]
    for query in ("name=n1", "tag=odd"):
        found = alice.get(f"/jobs?{query}").json()["items"]
        assert [job["job_id"] for job in found] == [ids[3], ids[1]]
    assert alice.get("/jobs?status=running").json()["items"] == []


def test_a_batch_is_all_or_none(alice: Api) -> None:
    answer = alice.post("/jobs/batch", {"jobs": [{"code": "1"}, {"code": "2", "name": "b"}]})

    assert answer.status_code == 201
    batch = answer.json()
    assert len(batch["job_ids"]) == 2
    listed = alice.get("/jobs", params={"batch_id": batch["batch_id"]}).json()["items"]
    assert [job["job_id"] for job in listed] == batch["job_ids"][::-1]

    poor = alice.post("/jobs/batch", {"jobs": [{"code": "1"}] * 200})

    assert poor.status_code == 402
    assert re.fullmatch(
        r"Insufficient credits\. Need [0-9.]+, have [0-9.]+", poor.json()["error"]
    ), poor.text
    assert len(alice.get("/jobs").json()["items"]) == 2


@pytest.mark.parametrize(
    ("template", "args", "shown"),
    [
        ({"code": "1"}, ["x"], {"code": "1", "args": ["x"]}),
        ({"code": "1", "args": ["gone"]}, ["x", "y"], {"args": ["x", "y"]}),
        ({"command": ["echo", "a"]}, ["b"], {"command": ["echo", "a", "b"]}),
        ({"command": "echo $1"}, ["b"], {"command": "echo $1", "args": ["b"]}),
    ],
)
def test_a_template_makes_a_job_of_each_argument_list(
    alice: Api, template: dict[str, object], args: list[str], shown: dict[str, object]
) -> None:
    answer = alice.post("/jobs/batch", {"template": template, "args": [args, args]})

    assert answer.status_code == 201, answer.text
    for job_id in answer.json()["job_ids"]:
        job = alice.get(f"/jobs/{job_id}").json()
        assert {name: job[name] for name in shown} == shown


def test_a_waiting_job_is_cancelled_at_once_and_free(alice: Api) -> None:
    job_id = alice.submit()

    answer = alice.post(f"/jobs/{job_id}/cancel")

    assert answer.status_code == 200
    assert answer.json() == {"job_id": job_id, "status": "cancelled", "cancel_requested": True} or (
        answer.json() == {"job_id": job_id, "status": "cancelled", "cancel_requested": False}
    )
    assert alice.get(f"/credits/{alice.user_id}").json()["available"] == "100.000000"
    assert alice.post(f"/jobs/{job_id}/cancel").status_code == 409
    job = alice.get(f"/jobs/{job_id}").json()
    assert job["receipt"]["cost"] == "0.000000"


def test_a_batch_is_cancelled_together(alice: Api) -> None:
    batch = alice.post("/jobs/batch", {"jobs": [{"code": "1"}] * 3}).json()
    alice.post(f"/jobs/{batch['job_ids'][0]}/cancel")

    assert alice.post(f"/batches/{batch['batch_id']}/cancel").json() == {"cancelled": 2}
    assert alice.post(f"/batches/{batch['batch_id']}/cancel").json() == {"cancelled": 0}


def test_a_final_job_is_retried_as_a_new_one(alice: Api) -> None:
    job_id = alice.submit(name="again")
    assert alice.post(f"/jobs/{job_id}/retry").status_code == 409
    alice.post(f"/jobs/{job_id}/cancel")

    answer = alice.post(f"/jobs/{job_id}/retry")

    assert answer.status_code == 201
    job = alice.get(f"/jobs/{answer.json()['job_id']}").json()
    assert (job["retry_of"], job["name"], job["status"]) == (job_id, "again", "queued")


def test_a_retry_comes_once_for_its_key_however_it_is_written(alice: Api) -> None:
    job_id = alice.submit()
    alice.post(f"/jobs/{job_id}/cancel")
    headers = {"Idempotency-Key": "again"}

    first = alice.post(f"/jobs/{job_id}/retry", headers=headers)
    others = [
        alice.post(f"/jobs/{job_id.upper()}/retry", headers=headers),
        alice.post(f"/jobs/%{ord(job_id[0]):x}{job_id[1:]}/retry", headers=headers),
        alice.post(f"/jobs/{job_id}/retry", {}, headers=headers),
    ]

    assert first.status_code == 201
    assert [answer.json() for answer in others] == [first.json()] * 3
    refused = alice.post(f"/jobs/{job_id}/retry", {"limits": {}}, headers=headers)
    assert refused.status_code == 400
    assert len(alice.get("/jobs").json()["items"]) == 2


def test_waiting_answers_at_the_end_of_the_job_or_of_the_time(alice: Api) -> None:
    job_id = alice.submit()
    assert alice.get(f"/jobs/{job_id}/wait?timeout_s=0.05").json()["status"] == "queued"
    alice.post(f"/jobs/{job_id}/cancel")

    assert alice.get(f"/jobs/{job_id}/wait?timeout_s=60").json()["status"] == "cancelled"


def test_anothers_job_is_refused_and_an_administrator_may_see_it(
    shared: Running, alice: Api
) -> None:
    job_id = alice.submit()
    other = shared.user()
    for method, path in (
        ("GET", ""), ("GET", "/logs"), ("GET", "/wait"), ("GET", "/events"),
        ("GET", "/logs?follow=true"), ("POST", "/cancel"), ("POST", "/retry"),
    ):  # fmt: skip
        answer = other.call(method, f"/jobs/{job_id}{path}")
        assert answer.status_code == 403, (method, path, answer.text)

    assert shared.admin.get(f"/jobs/{job_id}").json()["user_id"] == alice.user_id
    assert shared.admin.post(f"/jobs/{job_id}/cancel").status_code == 200


def test_unknown_jobs_are_not_found(alice: Api) -> None:
    for path in ("", "/logs", "/wait", "/events", "/logs?follow=true"):
        answer = alice.get(f"/jobs/9b2f0f5a-8f4f-4a0e-9d38-0a52b0f6f3aa{path}")
        assert answer.status_code == 404, (path, answer.text)


def test_ids_may_be_written_in_capitals(alice: Api) -> None:
    job_id = alice.submit()

    assert alice.get(f"/jobs/{job_id.upper()}").json()["job_id"] == job_id


@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch", "/credits/transfer"])
def test_an_idempotency_key_answers_again_as_the_first_time(
    shared: Running, alice: Api, path: str
) -> None:
    other = shared.user().user_id
    bodies: dict[str, tuple[str, str, object]] = {
        "/jobs": ('{"code":"1","priority":1}', '{ "priority": 1, "code": "\\u0031"}', {"code": "2"}),
        "/jobs/batch": (
            '{"jobs":[{"code":"1"}]}', '{"jobs": [ {"code" : "1"} ]}', {"jobs": [{"code": "2"}]},
        ),
        "/credits/transfer": (
            f'{{"to":"{other}","amount":"1"}}', f'{{"amount":"1", "to":"{other}"}}',
            {"to": other, "amount": "2"},
        ),
    }  # fmt: skip
    body, same, another = bodies[path]
    headers = {"Idempotency-Key": "key-1"}

    first = alice.call("POST", path, headers=headers, content=body)
    again = alice.call("POST", path, headers=headers, content=same)
    reused = alice.post(path, another, headers=headers)

    assert first.status_code == again.status_code == 201, again.text
    assert first.json() == again.json()
    assert reused.status_code == 422
    assert reused.json()["code"] == 422
    lines = alice.get(f"/credits/{alice.user_id}/transactions").json()["items"]
    assert len([line for line in lines if line["kind"] in ("hold", "transfer")]) == 1


def test_a_refused_request_leaves_its_key_free(alice: Api) -> None:
    headers = {"Idempotency-Key": "key"}
    dear = {"code": "1", "resources": {"cpus": 1000}, "limits": {"timeout_s": 3600}}

    # A hundred credits is both what a user has and the most a job may cost: take some away first.
    alice.submit()
    assert alice.post("/jobs", dear, headers=headers).status_code == 402
    assert alice.post("/jobs", {"code": "1"}, headers=headers).status_code == 201


@pytest.mark.parametrize("key", ["k" * 201, "a b", "ä"])
def test_a_malformed_idempotency_key_is_refused(alice: Api, key: str) -> None:
    answer = alice.post("/jobs", {"code": "1"}, headers={"Idempotency-Key": key.encode()})

    assert answer.status_code == 400
    assert answer.json()["details"][0]["field"] == "Idempotency-Key"


def test_the_longest_idempotency_key_is_taken(alice: Api) -> None:
    answer = alice.post("/jobs", {"code": "1"}, headers={"Idempotency-Key": "!" * 200})

    assert answer.status_code == 201


def test_a_trace_context_stays_with_the_job(alice: Api) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    good = alice.post("/jobs", {"code": "1"}, headers={"traceparent": parent}).json()
    bad = alice.post("/jobs", {"code": "1"}, headers={"traceparent": "nonsense"}).json()

    assert alice.get(f"/jobs/{good['job_id']}").json()["traceparent"] == parent
    assert alice.get(f"/jobs/{bad['job_id']}").json()["traceparent"] is None
