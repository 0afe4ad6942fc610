"""Bodies that are too large, not JSON, or not quite: refused, and nothing else harmed."""

import json
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
import pytest

from gridx.clock import SystemClock
from gridx.domain.errors import InvalidInput
from gridx.server.bodies import canonical_hash, parse_batch
from tests.server.running import Api, Running

MIB = 1024 * 1024
LIMIT = 4 * MIB

NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "spaces": b"   ",
    "a word": b"nonsense",
    "an open object": b'{"code":"1"',
    "two objects": b'{"code":"1"}{}',
    "a comma too many": b'{"code":"1",}',
    "single quotes": b"{'code':'1'}",
    "a comment": b'{"code":"1"} // x',
    "invalid UTF-8": b'{"code":"\xff\xfe"}',
    "UTF-16": '{"code":"1"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"code":"1"}',
    "an overlong NUL": b'{"code":"\xc0\x80"}',
    "a surrogate as UTF-8": b'{"code":"\xed\xa0\x80"}',
    "a control character": b'{"code":"\x01"}',
    "NaN": b'{"code":"1","resources":{"cpus":NaN}}',
    "Infinity": b'{"code":"1","resources":{"cpus":Infinity}}',
    "minus Infinity": b'{"code":"1","limits":{"timeout_s":-Infinity}}',
    "an infinite number": b'{"code":"1","limits":{"timeout_s":1e999}}',
    "a number of 5000 digits": b'{"code":"1","priority":' + b"9" * 5000 + b"}",
    "a hexadecimal number": b'{"code":"1","priority":0x10}',
    "a lone surrogate": b'{"code":"\\ud800"}',
    "a lone surrogate in a name": b'{"code":"1","env":{"\\udfff":"x"}}',
    "a lone surrogate in an unknown field": b'{"code":"1","\\ud800":1}',
    "a field twice": b'{"code":"1","code":"2"}',
    "a field twice inside": b'{"code":"1","resources":{"cpus":1,"cpus":2}}',
    "a field twice, once escaped": b'{"code":"1","c\\u006fde":"2"}',
    "lists 100,000 deep": b'{"code":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "brackets without end": b"[" * LIMIT,
    "a field of 1 MiB": b'{"' + b"a" * MIB + b'":1}',
    "300,000 fields": b"{" + b",".join(b'"a%d":0' % i for i in range(300_000)) + b"}",
    "300,000 tags": b'{"code":"1","tags":[' + b",".join([b"0"] * 300_000) + b"]}",
    "a form": b"code=1&name=x",
    "MessagePack": b"\x81\xa4code\xa11",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}


@pytest.fixture(scope="module")
def carol(shared: Running) -> Api:
    return shared.user()


@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch"])
@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_not_our_json_is_refused(carol: Api, name: str, path: str) -> None:
    raw = NOT_JSON[name]
    if path == "/jobs/batch":
        raw = b'{"jobs":[' + raw + b"]}"

    answer = carol.call("POST", path, content=raw)

    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == 400
    assert len(answer.content) < 10_000
    assert carol.get("/jobs").json()["items"] == []


FIELDS = {
    "resources.cpus": b'{"code":"1","resources":{"cpus":%s}}',
    "resources.memory_mb": b'{"code":"1","resources":{"memory_mb":%s}}',
    "limits.timeout_s": b'{"code":"1","limits":{"timeout_s":%s}}',
    "priority": b'{"code":"1","priority":%s}',
    "retry_on_failure": b'{"code":"1","retry_on_failure":%s}',
    "max_cost": b'{"code":"1","max_cost":%s}',
    "deadline": b'{"code":"1","deadline":%s}',
    "tags.0": b'{"code":"1","tags":[%s]}',
    "env.A": b'{"code":"1","env":{"A":%s}}',
    "command": b'{"command":%s}',
    "colour": b'{"code":"1","colour":%s}',
}


@pytest.mark.parametrize(
    "number",
    [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 309, b"9" * 5_000, b"-" + b"9" * 401],
)
def test_what_no_number_can_hold_is_refused_by_the_name_of_its_field(
    carol: Api, number: bytes
) -> None:
    def never(constant: str) -> None:
        raise AssertionError(constant)

    for field, spec in FIELDS.items():
        raw = spec % number
        for path, body, name in (
            ("/jobs", raw, field),
            ("/jobs/batch", b'{"jobs":[' + raw + b"]}", f"jobs.0.{field}"),
            ("/jobs/batch", b'{"args":[["a"]],"template":' + raw + b"}", f"template.{field}"),
        ):
            answer = carol.call("POST", path, content=body, headers={"Idempotency-Key": "k"})

            assert answer.status_code == 400, answer.text
            details = json.loads(answer.content, parse_constant=never)["details"]
            assert [detail["field"] for detail in details] == [name]
            assert len(answer.content) < 1_000
    assert carol.get("/jobs").json()["items"] == []


def test_json_needs_no_header_that_says_so(carol: Api) -> None:
    for media in ("application/json", "text/plain", "application/x-www-form-urlencoded", ""):
        answer = carol.call(
            "POST", "/jobs", content=b'{"code":"1"}', headers={"Content-Type": media}
        )
        assert answer.status_code == 201
        carol.post(f"/jobs/{answer.json()['job_id']}/cancel")


def test_a_body_of_the_limit_is_read_and_a_byte_more_is_not(alice: Api) -> None:
    padded = b'{"code":"1"' + b" " * (LIMIT - 12) + b"}"
    assert len(padded) == LIMIT

    assert alice.call("POST", "/jobs", content=padded).status_code == 201
    assert alice.call("POST", "/jobs", content=padded + b" ").status_code == 413


def test_a_chunked_body_is_bounded_as_well(alice: Api) -> None:
    def chunks(count: int) -> Iterator[bytes]:
        yield b'{"code":"1"'
        yield from (b" " * 65536 for _ in range(count))
        yield b"}"

    assert alice.call("POST", "/jobs", content=chunks(63)).status_code == 201
    assert alice.call("POST", "/jobs", content=chunks(64)).status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "/users", "/auth/token", "/auth/password", "/invites", "/auth/keys", "/jobs",
        "/workers/register", "/admin/broadcast", "/credits/transfer", "/credits/grant",
        "/jobs/nonsense/retry", "/jobs/nonsense/cancel", "/users/nobody/suspend",
    ],
)  # fmt: skip
def test_every_body_is_bounded(shared: Running, path: str) -> None:
    answer = shared.admin.call("POST", path, content=b" " * (LIMIT + 1))

    assert answer.status_code == 413, answer.text
    assert answer.json()["code"] == 413


NO_BODY: list[tuple[str, str, int]] = [
    ("POST", "/jobs/{job}/cancel", 200), ("POST", "/jobs/{job}/retry", 409),
    ("GET", "/jobs/{job}", 200), ("GET", "/jobs", 200), ("GET", "/health", 200),
    ("GET", "/jobs/{job}/wait?timeout_s=0", 200), ("GET", "/jobs/{job}/logs", 200),
    ("GET", "/jobs/{job}/logs?follow=true", 200), ("DELETE", "/auth/token", 204),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "good"), NO_BODY)
def test_an_operation_that_takes_no_body_takes_an_empty_object_at_most(
    shared: Running, alice: Api, method: str, path: str, good: int
) -> None:
    def send(content: bytes | None) -> httpx2.Response:
        job_id = alice.submit()
        if "follow" in path:
            shared.admin.post(f"/jobs/{job_id}/cancel")
        asking = shared.log_in(alice.user_id) if method == "DELETE" else alice
        return asking.call(method, path.replace("{job}", job_id), content=content)

    for content in (None, b"", b"{}", b" \r\n\t{ \n} "):
        assert send(content).status_code == good, content
    for content, fields in (
        (b'{"limits":{"timeout_s":1}}', ["limits"]), (b'{"x":1,"y":2}', ["x", "y"]),
        (b"nonsense", []), (b" ", []), (b"{} {}", []), (b'{"x":1,"x":1}', ["x"]),
    ):  # fmt: skip
        answer = send(content)
        assert answer.status_code == 400, content
        assert [detail["field"] for detail in answer.json().get("details", [])] == fields
    assert send(b"{" + b" " * LIMIT + b"}").status_code == 413


def test_what_is_not_done_for_a_body_too_many_is_not_done_at_all(alice: Api) -> None:
    job_id = alice.submit()

    assert alice.post(f"/jobs/{job_id}/cancel", {"x": 1}).status_code == 400
    assert alice.get(f"/jobs/{job_id}").json()["status"] == "queued"


def test_an_empty_object_takes_no_room_while_a_wait_lasts(shared: Running, alice: Api) -> None:
    job_id = alice.submit()
    padded = b"{" + b" " * (LIMIT - 2) + b"}"
    bodies = shared.serving.parts.bodies
    shared.quiet()

    with httpx2.Client(base_url=shared.url, timeout=60) as client:
        asking = Api(client, alice.user_id, alice.token)
        waiting = threading.Thread(
            target=lambda: asking.call("GET", f"/jobs/{job_id}/wait", content=padded)
        )
        waiting.start()
        while not shared.serving.parts.streams.taken:
            alice.get("/health")
        taken = bodies.taken_bytes
        alice.post(f"/jobs/{job_id}/cancel")
        waiting.join(30)

    assert taken == 0


def exchange(url: str, data: bytes) -> bytes:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(data)
        return connection.recv(65536)


def test_a_length_that_lies_is_believed_only_to_refuse(shared: Running, alice: Api) -> None:
    head = (
        "POST /jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n"
    )
    too_much = exchange(shared.url, (head % (alice.token, 10**12)).encode() + b"{}")
    assert too_much.startswith(b"HTTP/1.1 413 ")
    # Shorter than it says: the rest is another request, and none of ours.
    short = exchange(shared.url, (head % (alice.token, 2)).encode() + b'{}"code":"1"}')
    assert short.startswith(b"HTTP/1.1 400 ")
    assert alice.get("/jobs").json()["items"] == []


def test_a_batch_may_be_larger_but_each_spec_not(alice: Api) -> None:
    big = {"code": "1", "stdin": "x" * MIB, "args": ["y" * 65536] * 16}
    answer = alice.post("/jobs/batch", {"jobs": [big] * 10})
    assert answer.status_code == 201, answer.text

    padded = '{"code":"1"' + " " * (LIMIT - 12) + "}"
    good = alice.call("POST", "/jobs/batch", content=f'{{"jobs":[{padded},{padded}]}}'.encode())
    over = alice.call("POST", "/jobs/batch", content=f'{{"jobs":[{padded}, {padded[:-1]} }}]}}')
    wide = alice.call(
        "POST", "/jobs/batch", content=b'{"jobs":[{"code":"' + "é".encode() * (LIMIT // 2) + b'"}]}'
    )

    assert good.status_code == 201, good.text
    for answer, field in ((over, "jobs.1"), (wide, "jobs.0")):
        assert answer.status_code == 400, answer.text
        assert answer.json()["details"][0]["field"] == field
        assert "4 MiB" in answer.json()["error"]


def test_a_batch_over_64_mib_is_too_large(alice: Api) -> None:
    assert alice.call("POST", "/jobs/batch", content=b" " * (64 * MIB + 1)).status_code == 413


def test_a_batch_of_10_000_is_taken(shared: Running) -> None:
    spec = {"code": "1", "resources": {"cpus": 0.01, "memory_mb": 16}, "limits": {"timeout_s": 1}}
    rich = shared.user()
    shared.admin.post("/credits/grant", {"to": rich.user_id, "amount": "1000"})

    answer = rich.post("/jobs/batch", {"jobs": [spec] * 10_000})

    assert answer.status_code == 201, answer.text
    assert len(set(answer.json()["job_ids"])) == 10_000
    cancelled = rich.post(f"/batches/{answer.json()['batch_id']}/cancel").json()
    assert cancelled == {"cancelled": 10_000}


def test_a_spec_of_a_million_values_is_refused_before_it_is_built(alice: Api) -> None:
    raw = b'{"jobs":[{"code":"1","tags":[' + b"[]," * MIB + b"[]]}]}"

    answer = alice.call("POST", "/jobs/batch", content=raw)

    assert answer.status_code == 400
    assert answer.json()["details"][0]["field"] == "jobs.0"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"a":1,"b":2}', b' { "b" : 2.0, "a" : 1 } ', True),
        (b'{"a":"\xc3\xa9"}', b'{"a":"\\u00e9"}', True),
        (b'{"a":1}', b'{"a":2}', False),
        (b'{"a":1}', b'{"a":"1"}', False),
        (b'{"a":[1,2]}', b'{"a":[2,1]}', False),
        (b'{"a":null}', b"{}", False),
        (b"", b" {} ", True),
    ],
)
def test_bodies_are_compared_as_parsed_json(one: bytes, other: bytes, same: bool) -> None:
    assert (canonical_hash(one) == canonical_hash(other)) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"jobs": [{"code": "1"}]}, {"jobs": [{"code": "1"}]}, True),
        ({"jobs": [{"code": "1"}]}, {"jobs": [{"code": "2"}]}, False),
        ({"jobs": [{"code": "1"}] * 2}, {"jobs": [{"code": "1"}] * 3}, False),
        (
            {"template": {"code": "1"}, "args": [["a"]]},
            {"args": [["a"]], "template": {"code": "1"}},
            True,
        ),
        (
            {"template": {"code": "1"}, "args": [["a"]]},
            {"template": {"code": "1"}, "args": [["a"], ["a"]]},
            False,
        ),
    ],
)
async def test_batches_are_compared_as_parsed_json(
    one: dict[str, object], other: dict[str, object], same: bool
) -> None:
    _, first = await parse_batch(json.dumps(one).encode(), SystemClock(), hashing=True)
    _, second = await parse_batch(json.dumps(other, indent=2).encode(), SystemClock(), hashing=True)

    assert (first == second) is same


@pytest.mark.parametrize(
    "raw",
    [
        b"[]", b"1", b"{", b"{}", b'{"jobs"', b'{"jobs":', b'{"jobs":[', b'{"jobs":[{"code":"1"}',
        b'{"jobs":[{"code":"1"}]', b'{"jobs":[{"code":"1"},]}', b'{"jobs":[,]}', b'{"jobs":{}}',
        b'{"jobs":[{"code":"1"} {"code":"1"}]}', b'{"jobs":[{"code":"1"}],}', b'{1:[]}',
        b'{"jobs":[{"code":"1"}],"jobs":[{"code":"1"}]}', b'{"jobs":[{"code":"1"}]} x',
        b'{"jobs":[{"code":"1"}] "x":1}', b'{"template":{"code":"1"},"args":[["a"]]', b'{"jobs":null}',
    ],
)  # fmt: skip
async def test_a_batch_that_is_not_well_formed_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        await parse_batch(raw, SystemClock(), hashing=True)
