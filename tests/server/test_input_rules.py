"""Every input rule: the largest that is good and the smallest that is not."""

import json
from collections.abc import Generator, Mapping
from urllib.parse import quote

import httpx2
import pytest

from tests.server.running import PASSWORD, Api, Running, running, settings_for

MIB = 1024 * 1024
KIB_120 = 120 * 1024

GOOD_SPECS: dict[str, Mapping[str, object]] = {
    "code of 1 MiB": {"code": "x" * MIB},
    "code of 1 MiB in two-byte characters": {"code": "é" * (MIB // 2)},
    "code with every control but NUL": {"code": "".join(map(chr, range(1, 32)))},
    "code of one character": {"code": " "},
    "language python": {"code": "1", "language": "python"},
    "language javascript": {"code": "1", "language": "javascript"},
    "language node": {"code": "1", "language": "node"},
    "language bash": {"code": "1", "language": "bash"},
    "image": {"code": "1", "image": "ghcr.io/lab-2/py_thon:3.12-slim@sha256:" + "0" * 64},
    "image null": {"code": "1", "image": None},
    "command line": {"command": "echo 1"},
    "command words": {"command": ["echo", ""]},
    "stdin of 1 MiB": {"code": "1", "stdin": "x" * MIB},
    "stdin empty": {"code": "1", "stdin": ""},
    "stdin with newlines and tabs": {"code": "1", "stdin": "a\n\tb\r\x1b"},
    "argument of 120 KiB": {"code": "1", "args": ["x" * KIB_120]},
    "arguments of 1 MiB together": {"code": "1", "args": ["x" * 65536] * 16},
    "argument empty": {"code": "1", "args": [""]},
    "argument with newline and tab": {"code": "1", "args": ["a\n\tb"]},
    "10,000 arguments": {"code": "1", "args": ["x"] * 10_000},
    "env name and value of 120 KiB": {"code": "1", "env": {"A": "x" * (KIB_120 - 1)}},
    "env name of 120 KiB": {"code": "1", "env": {"A" * KIB_120: ""}},
    "env name of 120 KiB less a value": {"code": "1", "env": {"A" * (KIB_120 - 2): "é"}},
    "env and args of 1 MiB together": {
        "code": "1", "args": ["x" * 65536] * 15, "env": {"AAAA": "x" * 65532},
    },
    "env names": {"code": "1", "env": {"_": "1", "aZ_09": "\t\n"}},
    "cpus least": {"code": "1", "resources": {"cpus": 0.01}},
    "cpus most": {"code": "1", "resources": {"cpus": 1024}, "limits": {"timeout_s": 1}},
    "memory least": {"code": "1", "resources": {"memory_mb": 16}},
    "memory most": {
        "code": "1", "resources": {"memory_mb": 16_777_216}, "limits": {"timeout_s": 1},
    },
    "gpus none": {"code": "1", "resources": {"gpus": 0}},
    "gpus most": {"code": "1", "resources": {"gpus": 64}, "limits": {"timeout_s": 1}},
    "disk least": {"code": "1", "resources": {"disk_mb": 1}},
    "disk most": {"code": "1", "resources": {"disk_mb": 16_777_216}},
    "time least": {"code": "1", "limits": {"timeout_s": 0.1}},
    "time most": {"code": "1", "limits": {"timeout_s": 3600}},
    "time a fraction": {"code": "1", "limits": {"timeout_s": 1.5}},
    "output least": {"code": "1", "limits": {"output_bytes": 1}},
    "output most": {"code": "1", "limits": {"output_bytes": 1_048_576}},
    "processes least": {"code": "1", "limits": {"processes": 1}},
    "processes most": {"code": "1", "limits": {"processes": 64}},
    "attempts least": {"code": "1", "max_attempts": 1},
    "attempts most": {"code": "1", "max_attempts": 20},
    "priority least": {"code": "1", "priority": -100},
    "priority most": {"code": "1", "priority": 100},
    "retry": {"code": "1", "retry_on_failure": True, "max_attempts": 2},
    "max_cost null": {"code": "1", "max_cost": None},
    "max_cost least": {"code": "1", "max_cost": "0.020000", "limits": {"timeout_s": 1}},
    "max_cost whole": {"code": "1", "max_cost": "1000000000"},
    "max_cost most": {"code": "1", "max_cost": "999999999999.999999"},
    "name of 200": {"code": "1", "name": "n" * 200},
    "name in any script": {"code": "1", "name": "名前 — 🎉"},
    "tag of 64": {"code": "1", "tags": ["t" * 64]},
    "32 tags": {"code": "1", "tags": [str(i) for i in range(32)]},
    "times null": {"code": "1", "not_before": None, "deadline": None},
    "times": {
        "code": "1", "not_before": "2099-01-01T00:00:00Z", "deadline": "2099-01-01T00:00:00.1+00:00",
    },
    "not_before in the past": {"code": "1", "not_before": "1999-12-31T23:59:59Z"},
    "require": {"code": "1", "require": {"os": "linux", "arch": "x86_64", "label:a b": "c"}},
}  # fmt: skip

BAD_SPECS: dict[str, tuple[object, str]] = {
    "code over 1 MiB": ({"code": "x" * (MIB + 1)}, "code"),
    "code over 1 MiB in two-byte characters": ({"code": "é" * (MIB // 2) + "x"}, "code"),
    "code empty": ({"code": ""}, "code"),
    "code with NUL": ({"code": "a\0b"}, "code"),
    "code null": ({"code": None}, "code"),
    "code a number": ({"code": 1}, "code"),
    "no code": ({}, "code"),
    "code and command": ({"code": "1", "command": "1"}, "code"),
    "command empty": ({"command": ""}, "command"),
    "command no words": ({"command": []}, "command"),
    "command null": ({"command": None}, "command"),
    "command a number inside": ({"command": ["a", 1]}, "command.1"),
    "command with args": ({"command": "1", "args": []}, "args"),
    "command with language": ({"command": "1", "language": "bash"}, "language"),
    "language unknown": ({"code": "1", "language": "ruby"}, "language"),
    "language in capitals": ({"code": "1", "language": "Python"}, "language"),
    "language null": ({"code": "1", "language": None}, "language"),
    "stdin over 1 MiB": ({"code": "1", "stdin": "x" * (MIB + 1)}, "stdin"),
    "stdin with NUL": ({"code": "1", "stdin": "\0"}, "stdin"),
    "argument over 120 KiB": ({"code": "1", "args": ["x" * (KIB_120 + 1)]}, "args.0"),
    "argument with NUL": ({"code": "1", "args": ["a", "\0"]}, "args.1"),
    "argument a number": ({"code": "1", "args": [1]}, "args.0"),
    "argument a text": ({"code": "1", "args": "a"}, "args"),
    "arguments over 1 MiB together": ({"code": "1", "args": ["x" * 65536] * 16 + ["x"]}, "args"),
    "over 10,000 arguments": ({"code": "1", "args": ["x"] * 10_001}, "args"),
    "words over 1 MiB together": ({"command": ["x" * 65536] * 16 + ["x"]}, "args"),
    "env over 120 KiB": ({"code": "1", "env": {"A": "x" * KIB_120}}, "env.A"),
    "env name over 120 KiB": ({"code": "1", "env": {"A" * (KIB_120 + 1): ""}}, "env.A"),
    "env name of 120 KiB with a value": ({"code": "1", "env": {"A" * KIB_120: "x"}}, "env.A"),
    "env name with a value over 120 KiB": ({"code": "1", "env": {"A" * (KIB_120 - 1): "é"}}, "env.A"),
    "env and args over 1 MiB together": (
        {"code": "1", "args": ["x" * 65536] * 15, "env": {"AAAA": "x" * 65533}}, "args",
    ),
    "env name with a digit first": ({"code": "1", "env": {"1A": "x"}}, "env.1A"),
    "env name with a dash": ({"code": "1", "env": {"A-B": "x"}}, "env.A-B"),
    "env name empty": ({"code": "1", "env": {"": "x"}}, "env"),
    "env name not ASCII": ({"code": "1", "env": {"Ä": "x"}}, "env.Ä"),
    "env name with newline": ({"code": "1", "env": {"A\n": "x"}}, "env.A"),
    "env value with NUL": ({"code": "1", "env": {"A": "\0"}}, "env.A"),
    "env value null": ({"code": "1", "env": {"A": None}}, "env.A"),
    "cpus too few": ({"code": "1", "resources": {"cpus": 0.0099}}, "resources.cpus"),
    "cpus too many": ({"code": "1", "resources": {"cpus": 1024.001}}, "resources.cpus"),
    "cpus zero": ({"code": "1", "resources": {"cpus": 0}}, "resources.cpus"),
    "cpus negative": ({"code": "1", "resources": {"cpus": -1}}, "resources.cpus"),
    "cpus a text": ({"code": "1", "resources": {"cpus": "1"}}, "resources.cpus"),
    "cpus a boolean": ({"code": "1", "resources": {"cpus": True}}, "resources.cpus"),
    "cpus null": ({"code": "1", "resources": {"cpus": None}}, "resources.cpus"),
    "memory too little": ({"code": "1", "resources": {"memory_mb": 15}}, "resources.memory_mb"),
    "memory too much": (
        {"code": "1", "resources": {"memory_mb": 16_777_217}}, "resources.memory_mb",
    ),
    "memory a fraction": ({"code": "1", "resources": {"memory_mb": 256.5}}, "resources.memory_mb"),
    "memory enormous": ({"code": "1", "resources": {"memory_mb": 10**400}}, "resources.memory_mb"),
    "gpus negative": ({"code": "1", "resources": {"gpus": -1}}, "resources.gpus"),
    "gpus too many": ({"code": "1", "resources": {"gpus": 65}}, "resources.gpus"),
    "disk none": ({"code": "1", "resources": {"disk_mb": 0}}, "resources.disk_mb"),
    "disk too much": ({"code": "1", "resources": {"disk_mb": 16_777_217}}, "resources.disk_mb"),
    "resources unknown": ({"code": "1", "resources": {"tpus": 1}}, "resources.tpus"),
    "resources null": ({"code": "1", "resources": None}, "resources"),
    "time too short": ({"code": "1", "limits": {"timeout_s": 0.099}}, "limits.timeout_s"),
    "time over the ceiling": ({"code": "1", "limits": {"timeout_s": 3600.1}}, "limits.timeout_s"),
    "time enormous": ({"code": "1", "limits": {"timeout_s": 1e308}}, "limits.timeout_s"),
    "output none": ({"code": "1", "limits": {"output_bytes": 0}}, "limits.output_bytes"),
    "output over the ceiling": (
        {"code": "1", "limits": {"output_bytes": 1_048_577}}, "limits.output_bytes",
    ),
    "processes none": ({"code": "1", "limits": {"processes": 0}}, "limits.processes"),
    "processes over the ceiling": ({"code": "1", "limits": {"processes": 65}}, "limits.processes"),
    "limits unknown": ({"code": "1", "limits": {"memory": 1}}, "limits.memory"),
    "attempts none": ({"code": "1", "max_attempts": 0}, "max_attempts"),
    "attempts too many": ({"code": "1", "max_attempts": 21}, "max_attempts"),
    "attempts null": ({"code": "1", "max_attempts": None}, "max_attempts"),
    "priority too low": ({"code": "1", "priority": -101}, "priority"),
    "priority too high": ({"code": "1", "priority": 101}, "priority"),
    "priority a fraction": ({"code": "1", "priority": 0.5}, "priority"),
    "priority a boolean": ({"code": "1", "priority": True}, "priority"),
    "retry a number": ({"code": "1", "retry_on_failure": 1}, "retry_on_failure"),
    "retry a text": ({"code": "1", "retry_on_failure": "true"}, "retry_on_failure"),
    "max_cost a number": ({"code": "1", "max_cost": 5}, "max_cost"),
    "max_cost zero": ({"code": "1", "max_cost": "0.000000"}, "max_cost"),
    "max_cost with a sign": ({"code": "1", "max_cost": "+1"}, "max_cost"),
    "max_cost negative": ({"code": "1", "max_cost": "-1"}, "max_cost"),
    "max_cost with an exponent": ({"code": "1", "max_cost": "1e3"}, "max_cost"),
    "max_cost with seven places": ({"code": "1", "max_cost": "1.0000001"}, "max_cost"),
    "max_cost without places": ({"code": "1", "max_cost": "1."}, "max_cost"),
    "max_cost in other digits": ({"code": "1", "max_cost": "\u0661"}, "max_cost"),
    "max_cost with a space": ({"code": "1", "max_cost": " 1"}, "max_cost"),
    "max_cost enormous": ({"code": "1", "max_cost": "9" * 30}, "max_cost"),
    "max_cost below the minimum": ({"code": "1", "max_cost": "0.004999"}, "max_cost"),
    "max_cost for too short": ({"code": "1", "max_cost": "0.005"}, "max_cost"),
    "name over 200": ({"code": "1", "name": "n" * 201}, "name"),
    "name with newline": ({"code": "1", "name": "a\nb"}, "name"),
    "name with escape": ({"code": "1", "name": "\x1b[31m"}, "name"),
    "name with a C1 control": ({"code": "1", "name": "\x9b"}, "name"),
    "name null": ({"code": "1", "name": None}, "name"),
    "tag over 64": ({"code": "1", "tags": ["t" * 65]}, "tags.0"),
    "tag empty": ({"code": "1", "tags": [""]}, "tags.0"),
    "33 tags": ({"code": "1", "tags": [str(i) for i in range(33)]}, "tags"),
    "user_id with a space": ({"code": "1", "user_id": "a b"}, "user_id"),
    "user_id of 65": ({"code": "1", "user_id": "a" * 65}, "user_id"),
    "user_id empty": ({"code": "1", "user_id": ""}, "user_id"),
    "user_id null": ({"code": "1", "user_id": None}, "user_id"),
    "require unknown": ({"code": "1", "require": {"cpu": "fast"}}, "require.cpu"),
    "require an unheard-of sandbox": (
        {"code": "1", "require": {"sandbox": "chroot"}}, "require.sandbox"
    ),
    "require an unheard-of limit": (
        {"code": "1", "require": {"enforces": "memory, patience"}}, "require.enforces"
    ),
    "require a number": ({"code": "1", "require": {"os": 1}}, "require.os"),
    "deadline without a zone": ({"code": "1", "deadline": "2099-01-01T00:00:00"}, "deadline"),
    "deadline a number": ({"code": "1", "deadline": 4_070_908_800}, "deadline"),
    "deadline no time": ({"code": "1", "deadline": "soon"}, "deadline"),
    "deadline empty": ({"code": "1", "deadline": ""}, "deadline"),
    "deadline in the past": ({"code": "1", "deadline": "1999-12-31T23:59:59Z"}, "deadline"),
    "deadline at not_before": (
        {"code": "1", "not_before": "2099-01-01T00:00:00Z", "deadline": "2099-01-01T01:00:00+01:00"},
        "deadline",
    ),
    "not_before no time": ({"code": "1", "not_before": "2099-13-01T00:00:00Z"}, "not_before"),
    "image with a space": ({"code": "1", "image": "python 3"}, "image"),
    "image empty": ({"code": "1", "image": ""}, "image"),
    "image of 256": ({"code": "1", "image": "a" * 256}, "image"),
    "image with a newline": ({"code": "1", "image": "a\n"}, "image"),
    "image that is an option": ({"code": "1", "image": "--privileged"}, "image"),
    "image with a path": ({"code": "1", "image": "../../etc"}, "image"),
    "image in another sandbox": (
        {"code": "1", "image": "python", "require": {"sandbox": "bubblewrap"}}, "require.sandbox",
    ),
    "image a list": ({"code": "1", "image": ["python"]}, "image"),
    "unknown field": ({"code": "1", "colour": "red"}, "colour"),
    "not an object": ([], ""),
    "a text": ("code", ""),
    "a number": (5, ""),
    "null": (None, ""),
}  # fmt: skip
LATER: dict[str, object] = {
    "inputs": {"a": "0" * 64}, "outputs": ["*"], "requirements": ["numpy"],
    "network": True, "after": [],
}  # fmt: skip
for field, value in LATER.items():
    BAD_SPECS[f"{field}, which comes later"] = ({"code": "1", field: value}, field)


@pytest.mark.parametrize("name", GOOD_SPECS)
def test_good_specs_are_taken(shared: Running, name: str) -> None:
    # The dearest of these need more than a new user has.
    answer = shared.admin.post("/jobs", GOOD_SPECS[name])

    assert answer.status_code in {201, 402}, answer.text
    if answer.status_code == 201:
        assert shared.admin.post(f"/jobs/{answer.json()['job_id']}/cancel").status_code == 200


@pytest.fixture(scope="module")
def bob(shared: Running) -> Api:
    return shared.user()


@pytest.mark.parametrize("name", BAD_SPECS)
def test_bad_specs_are_refused_by_name_and_cost_nothing(bob: Api, name: str) -> None:
    spec, field = BAD_SPECS[name]

    answer = bob.call("POST", "/jobs", content=json.dumps(spec).encode())

    assert answer.status_code == 400, answer.text
    named = [detail["field"] for detail in answer.json().get("details", [])]
    assert named[0].startswith(field) if field else not named, named
    assert len(answer.content) < 10_000
    assert bob.get("/jobs").json()["items"] == []
    assert bob.get(f"/credits/{bob.user_id}").json()["available"] == "100.000000"


@pytest.mark.parametrize("name", BAD_SPECS)
def test_a_bad_spec_in_a_batch_is_named_by_its_index(bob: Api, name: str) -> None:
    spec, field = BAD_SPECS[name]

    answer = bob.post("/jobs/batch", {"jobs": [{"code": "1"}, spec]})

    assert answer.status_code == 400, answer.text
    named = answer.json()["details"][0]["field"]
    assert named.startswith(f"jobs.1.{field}" if field else "jobs.1"), named
    assert bob.get("/jobs").json()["items"] == []


GOOD_BODIES: dict[str, tuple[str, Mapping[str, object]]] = {
    "user_id of 64": ("/users", {"user_id": "a" * 62 + "-_", "password": PASSWORD}),
    "user_id of 1": ("/users", {"user_id": "Z", "password": PASSWORD}),
    "password of 8": ("/users", {"user_id": "p8", "password": "x" * 8}),
    "password of 128": ("/users", {"user_id": "p128", "password": "ü" * 128}),
    "amount least": ("/credits/grant", {"to": "admin", "amount": "0.000001"}),
    "amount most": ("/credits/grant", {"to": "admin", "amount": "999999999999.999999"}),
    "memo of 500": ("/credits/grant", {"to": "admin", "amount": "1", "memo": "m" * 500}),
    "invite": ("/invites", {}),
    "invite with everything": ("/invites", {"grant": "5", "expires_at": "2100-01-01T00:00:00Z"}),
    "invite with nulls": ("/invites", {"grant": None, "expires_at": None}),
    "key name of 100": ("/auth/keys", {"name": "k" * 100, "scopes": ["jobs"]}),
    "key with expiry": (
        "/auth/keys", {"name": "k", "scopes": ["jobs"], "expires_at": "2100-01-01T00:00:00+02:00"},
    ),
    "worker name of 200": ("/workers/register", {"name": "w" * 200, "capabilities": {}}),
    "broadcast of 1000": ("/admin/broadcast", {"text": "t" * 1000}),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_BODIES)
def test_good_bodies_are_taken(shared: Running, name: str) -> None:
    path, body = GOOD_BODIES[name]

    assert shared.admin.post(path, body).status_code in {200, 201}


CAPABILITIES = {"resources": {"cpus": 1, "memory_mb": 256}}
BAD_BODIES: dict[str, tuple[str, object, str]] = {
    "user_id of 65": ("/users", {"user_id": "a" * 65, "password": PASSWORD}, "user_id"),
    "user_id empty": ("/users", {"user_id": "", "password": PASSWORD}, "user_id"),
    "user_id with a dot": ("/users", {"user_id": "a.b", "password": PASSWORD}, "user_id"),
    "user_id with newline": ("/users", {"user_id": "a\n", "password": PASSWORD}, "user_id"),
    "user_id a number": ("/users", {"user_id": 1, "password": PASSWORD}, "user_id"),
    "user_id missing": ("/users", {"password": PASSWORD}, "user_id"),
    "password of 7": ("/users", {"user_id": "x", "password": "x" * 7}, "password"),
    "password of 129": ("/users", {"user_id": "x", "password": "x" * 129}, "password"),
    "password null": ("/users", {"user_id": "x", "password": None}, "password"),
    "role": ("/users", {"user_id": "x", "password": PASSWORD, "role": "admin"}, "role"),
    "invite null": ("/users", {"user_id": "x", "password": PASSWORD, "invite": None}, "invite"),
    "log in with role": ("/auth/token", {"user_id": "x", "password": PASSWORD, "a": 1}, "a"),
    "log in without password": ("/auth/token", {"user_id": "x"}, "password"),
    "new password of 7": ("/auth/password", {"old": PASSWORD, "new": "x" * 7}, "new"),
    "amount zero": ("/credits/grant", {"to": "admin", "amount": "0"}, "amount"),
    "amount a number": ("/credits/grant", {"to": "admin", "amount": 1}, "amount"),
    "amount negative": ("/credits/grant", {"to": "admin", "amount": "-1"}, "amount"),
    "amount seven places": ("/credits/grant", {"to": "admin", "amount": "0.0000001"}, "amount"),
    "amount exponent": ("/credits/transfer", {"to": "admin", "amount": "1e2"}, "amount"),
    "amount NaN": ("/credits/transfer", {"to": "admin", "amount": "NaN"}, "amount"),
    "amount over the most": ("/credits/grant", {"to": "admin", "amount": "1" + "0" * 12}, "amount"),
    "invite over the most": ("/invites", {"grant": "1" + "0" * 12}, "grant"),
    "to with a space": ("/credits/transfer", {"to": "a b", "amount": "1"}, "to"),
    "memo over 500": ("/credits/grant", {"to": "admin", "amount": "1", "memo": "m" * 501}, "memo"),
    "memo with newline": ("/credits/grant", {"to": "admin", "amount": "1", "memo": "\n"}, "memo"),
    "from": ("/credits/transfer", {"from": "x", "to": "admin", "amount": "1"}, "from"),
    "grant zero": ("/invites", {"grant": "0"}, "grant"),
    "expiry without zone": ("/invites", {"expires_at": "2100-01-01T00:00:00"}, "expires_at"),
    "expiry nonsense": ("/invites", {"expires_at": "tomorrow"}, "expires_at"),
    "expiry before 1970": ("/invites", {"expires_at": "1969-12-31T23:59:59Z"}, "expires_at"),
    "expiry a number": ("/invites", {"expires_at": 1}, "expires_at"),
    "key without scopes": ("/auth/keys", {"name": "k", "scopes": []}, "scopes"),
    "key with an unknown scope": ("/auth/keys", {"name": "k", "scopes": ["root"]}, "scopes.0"),
    "key without name": ("/auth/keys", {"name": "", "scopes": ["jobs"]}, "name"),
    "key name over 100": ("/auth/keys", {"name": "k" * 101, "scopes": ["jobs"]}, "name"),
    "worker without capabilities": ("/workers/register", {"name": "w"}, "capabilities"),
    "worker name empty": ("/workers/register", {"name": "", "capabilities": {}}, "name"),
    "worker name over 200": ("/workers/register", {"name": "w" * 201, "capabilities": {}}, "name"),
    "worker_id no UUID": (
        "/workers/register", {"name": "w", "capabilities": {}, "worker_id": "x"}, "worker_id",
    ),
    "worker with negative memory": (
        "/workers/register",
        {"name": "w", "capabilities": {"resources": {"memory_mb": -1}}},
        "capabilities.resources.memory_mb",
    ),
    "worker with an unknown offer": (
        "/workers/register", {"name": "w", "capabilities": {"tpus": 1}}, "capabilities.tpus",
    ),
    "broadcast empty": ("/admin/broadcast", {"text": ""}, "text"),
    "broadcast over 1000": ("/admin/broadcast", {"text": "t" * 1001}, "text"),
    "broadcast with escape": ("/admin/broadcast", {"text": "\x1b[2J"}, "text"),
    "batch of nothing": ("/jobs/batch", {"jobs": []}, "jobs"),
    "batch empty": ("/jobs/batch", {}, "jobs"),
    "batch of both": ("/jobs/batch", {"jobs": [{"code": "1"}], "template": {"code": "1"}}, "jobs"),
    "template without args": ("/jobs/batch", {"template": {"code": "1"}}, "args"),
    "args without template": ("/jobs/batch", {"args": [["a"]], "jobs": [{"code": "1"}]}, "args"),
    "args of a number": ("/jobs/batch", {"template": {"code": "1"}, "args": [[1]]}, "args.0.0"),
    "args no lists": ("/jobs/batch", {"template": {"code": "1"}, "args": ["a"]}, "args.0"),
    "template bad": ("/jobs/batch", {"template": {"code": ""}, "args": [["a"]]}, "template.code"),
    "batch unknown field": ("/jobs/batch", {"jobs": [{"code": "1"}], "x": 1}, "x"),
    "batch of 10,001": ("/jobs/batch", {"jobs": [{"code": "1"}] * 10_001}, "jobs"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies_are_refused_by_name_and_change_nothing(shared: Running, name: str) -> None:
    path, body, field = BAD_BODIES[name]
    before = shared.fingerprint()

    answer = shared.admin.post(path, body)

    assert answer.status_code == 400, answer.text
    assert answer.json()["details"][0]["field"] == field
    assert shared.fingerprint() == before


def test_an_amount_that_nobody_has_is_too_much_and_one_too_long_says_how_long(alice: Api) -> None:
    def transfer(amount: str) -> httpx2.Response:
        return alice.post("/credits/transfer", {"to": "admin", "amount": amount})

    for amount in ("1000000000", "999999999999.999999"):
        assert transfer(amount).status_code == 402
    refused = transfer("1000000000000")
    assert refused.status_code == 400
    assert "at most twelve before the point and six after it" in refused.json()["error"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/jobs?limit=0", "limit"), ("/jobs?limit=501", "limit"), ("/jobs?limit=-1", "limit"),
        ("/jobs?limit=1.0", "limit"), ("/jobs?limit=%201", "limit"), ("/jobs?limit=", "limit"),
        ("/jobs?limit=1_0", "limit"), ("/jobs?limit=1&limit=2", "limit"),
        ("/jobs?status=done", "status"), ("/jobs?status=", "status"), ("/jobs?nothing=1", "nothing"),
        ("/jobs?cursor=", "cursor"), ("/jobs?cursor=x", "cursor"), ("/jobs?batch_id=1", "batch_id"),
        ("/jobs?cursor=" + "9" * 101, "cursor"), ("/jobs?name=" + "n" * 201, "name"),
        ("/jobs?tag=" + "t" * 65, "tag"), ("/jobs?name=%00", "name"),
        ("/jobs/{job}/wait?timeout_s=60.1", "timeout_s"),
        ("/jobs/{job}/wait?timeout_s=-1", "timeout_s"),
        ("/jobs/{job}/wait?timeout_s=nan", "timeout_s"),
        ("/jobs/{job}/wait?timeout_s=inf", "timeout_s"),
        ("/jobs/{job}/wait?timeout_s=1e1", "timeout_s"),
        ("/jobs/{job}/logs?stream=both", "stream"), ("/jobs/{job}/logs?raw=1", "raw"),
        ("/jobs/{job}/logs?follow=yes", "follow"), ("/jobs/{job}/logs?raw=true&follow=true", "raw"),
        ("/workers?limit=0", "limit"), ("/users?limit=501", "limit"),
        ("/credits/admin/transactions?cursor=x", "cursor"), ("/health?x=1", "x"),
        ("/auth/keys?cursor=x", "cursor"), ("/workers?cursor=%00", "cursor"),
    ],
)  # fmt: skip
def test_bad_queries_are_refused_by_name(shared: Running, path: str, field: str) -> None:
    url = path.replace("{job}", "9b2f0f5a-8f4f-4a0e-9d38-0a52b0f6f3aa")

    answer = shared.admin.get(url)

    assert answer.status_code == 400, answer.text
    assert answer.json()["details"][0]["field"] == field


@pytest.mark.parametrize("query", ["%ff=1", "&".join(f"a{i}=1" for i in range(50)), "limit=%ff"])
def test_malformed_queries_are_refused(alice: Api, query: str) -> None:
    assert alice.get(f"/jobs?{query}").status_code == 400


def test_the_largest_good_query_is_taken(alice: Api) -> None:
    name = "n" * 200
    for query in (f"limit=500&name={name}", "limit=1", f"tag={'t' * 64}", "status=blocked"):
        assert alice.get(f"/jobs?{query}").status_code == 200


HOSTILE = [
    "'; DROP TABLE jobs; --", "' OR '1'='1", '" OR ""="', "1; DELETE FROM users", "%s%n%x",
    "${jndi:ldap://x}", "{{7*7}}", "<script>alert(1)</script>", "../../etc/passwd", "\\", "%",
    "_", "NULL", "Robert'); DROP TABLE users;--", "\u202etxt.exe", "\ufeff", "\U0001d54f", "a\u0300",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_only_texts(own_forever: Running, text: str) -> None:
    api = own_forever.user()
    spec = {
        "code": text, "args": [text], "env": {"A": text}, "stdin": text, "name": text,
        "tags": [text[:64]], "require": {"os": text[:64], f"label:{text}"[:64]: text[:64]},
    }  # fmt: skip
    job_id = api.submit(**spec)

    job = api.get(f"/jobs/{job_id}").json()
    assert {name: job[name] for name in spec} == spec
    for parameter in ("name", "tag"):
        listed = api.get("/jobs", params={parameter: text[:64] if parameter == "tag" else text})
        assert [item["job_id"] for item in listed.json()["items"]] == [job_id]
    another = 403 if text in {"_", "NULL"} else 400  # those two may be users
    assert api.post("/jobs", {"code": "1", "user_id": text}).status_code == another
    refused = api.get(f"/credits/{quote(text, safe='')}").status_code
    assert refused == (404 if "/" in text else another)
    assert api.get("/jobs", params={"cursor": text}).status_code == 400
    worker = api.post("/workers/register", {"name": text, "capabilities": {"labels": {text: text}}})
    assert worker.status_code == 201, worker.text
    shown = api.get(f"/workers/{worker.json()['worker_id']}").json()
    assert (shown["name"], shown["labels"]) == (text, {text: text})
    key = api.post("/auth/keys", {"name": text, "scopes": ["jobs"]})
    assert key.json()["name"] == text
    body = {"to": "admin", "amount": "0.5", "memo": text}
    assert api.post("/credits/transfer", body, headers={"Idempotency-Key": "k"}).status_code == 201
    assert own_forever.admin.get("/admin/ledger/verify").json()["ok"] is True


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def own_forever(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Running]:
    """One coordinator on each kind of database for all hostile texts."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('hostile') / 'grid.db'}"
    else:
        postgres = request.getfixturevalue("postgres")
        url = postgres.url(postgres.create())
    with running(settings_for(url)) as it:
        yield it
