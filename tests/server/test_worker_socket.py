"""The worker socket: who gets in, what passes, and that nonsense harms nobody else."""

import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from gridx.protocol import frames
from gridx.protocol.frames import SUBPROTOCOL, SUBPROTOCOL_JSON
from tests.server.running import Api, Running, running, settings_for
from tests.server.socket_worker import SocketWorker, address, hello, worker

ID = "9b2f0f5a-8f4f-4a0e-9d38-0a52b0f6f3aa"


@pytest.mark.parametrize("subprotocol", [SUBPROTOCOL, SUBPROTOCOL_JSON])
def test_a_job_goes_to_a_worker_and_comes_back_paid(own: Running, subprotocol: str) -> None:
    alice, bob = own.user(), own.user()
    with worker(own, bob.token, subprotocol=subprotocol) as it:
        assert it.token is not None
        job_id = alice.submit(code="print('hi')", args=["a"], limits={"timeout_s": 5})
        attempt = it.assigned()
        assert (attempt.job_id, attempt.attempt) == (job_id, 1)
        assert (attempt.spec.code, attempt.spec.args) == ("print('hi')", ["a"])
        assert attempt.spec.timeout_s == 5
        it.start(attempt)
        it.log(attempt, 0, b"hi\n", "stdout")
        it.log(attempt, 1, b"\xff\n", "stderr")
        it.finish(attempt)

    job = alice.get(f"/jobs/{job_id}/wait").json()
    assert (job["status"], job["exit_code"], job["reason"]) == ("succeeded", 0, None)
    assert (job["stdout"], job["stderr"]) == ("hi\n", "\ufffd\n")
    attempts = job["attempts"]
    assert [(a["number"], a["worker_id"], a["status"]) for a in attempts] == [
        (1, it.worker_id, "succeeded")
    ]
    assert attempts[0]["usage"] == {"wall_s": 0.5, "cpu_s": 0.25, "peak_memory_mb": 12.0}
    receipt = job["receipt"]
    assert job["cost"] == receipt["cost"]
    assert (receipt["fault"], receipt["price_per_second"]) == ("none", "0.010625")
    reward = own.client.get(
        f"/credits/{bob.user_id}", headers={"Authorization": f"Bearer {bob.token}"}
    ).json()["available"]
    assert float(reward) == pytest.approx(100 + float(receipt["reward"]))
    logs = f"/jobs/{job_id}/logs"
    assert alice.get(logs).text == "hi\n\ufffd\n"
    assert alice.get(logs).headers["content-type"] == "text/plain; charset=utf-8"
    assert alice.get(f"{logs}?raw=true").content == b"hi\n\xff\n"
    assert alice.get(f"{logs}?stream=stderr&raw=true").content == b"\xff\n"
    assert own.admin.get("/admin/ledger/verify").json()["ok"] is True


def test_the_words_of_a_command_reach_the_worker_as_they_are(shared: Running) -> None:
    alice = shared.user()
    with worker(shared, alice.token) as it:
        for command, code, args in (
            (["echo", "a b", "$HOME"], 'exec "$@"\n', ["echo", "a b", "$HOME"]),
            ("echo $HOME | wc", "echo $HOME | wc", []),
        ):
            job_id = alice.post("/jobs", {"command": command}).json()["job_id"]
            attempt = it.assigned()
            assert (attempt.spec.language, attempt.spec.code) == ("bash", code)
            assert attempt.spec.args == args
            it.start(attempt)
            it.finish(attempt)
            assert alice.get(f"/jobs/{job_id}/wait").json()["status"] == "succeeded"


def denied(running: Running, path: str = "/ws/worker", **kwargs: Any) -> Response:
    """The answer to an upgrade that is refused."""
    kwargs.setdefault("subprotocols", [Subprotocol(SUBPROTOCOL)])
    with pytest.raises(InvalidStatus) as refusal:
        connect(address(running).replace("/ws/worker", path), proxy=None, **kwargs)
    return refusal.value.response


def refused(running: Running, **kwargs: Any) -> tuple[int, dict[str, object]]:
    """Status and body of that answer."""
    response = denied(running, **kwargs)
    return response.status_code, json.loads(response.body or b"{}")


@pytest.mark.parametrize(
    "authorization", [None, "Bearer nonsense", "Basic YTpi", "Bearer", "Bearer " + "x" * 1000]
)
def test_without_a_good_token_there_is_no_upgrade(
    shared: Running, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}

    status, body = refused(shared, additional_headers=headers)

    assert status == 401
    assert body["code"] == 401


def test_a_cookie_opens_nothing(shared: Running, alice: Api) -> None:
    status, _ = refused(shared, additional_headers={"Cookie": f"token={alice.token}"})

    assert status == 401


def test_a_browser_is_refused(shared: Running, alice: Api) -> None:
    headers = {"Authorization": f"Bearer {alice.token}"}

    status, _ = refused(shared, additional_headers=headers, origin=Origin("https://evil.example"))

    assert status == 403


@pytest.mark.parametrize("authorization", [None, "Bearer nonsense"])
@pytest.mark.parametrize(
    "kwargs", [{"subprotocols": None}, {"origin": Origin("https://evil.example")}]
)
def test_who_asks_comes_before_what_is_asked_for(
    shared: Running, authorization: str | None, kwargs: dict[str, Any]
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}

    assert refused(shared, additional_headers=headers, **kwargs)[0] == 401


def test_an_unknown_protocol_comes_before_who_may(shared: Running, alice: Api) -> None:
    headers = {"Authorization": f"Bearer {alice.token}"}
    origin = Origin("https://evil.example")

    status, _ = refused(shared, additional_headers=headers, origin=origin, subprotocols=None)

    assert status == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [("/ws/worker", 401), ("/ws/worker/", 404), ("/ws/other", 404), ("/jobs", 404), ("/", 404)],
)
def test_a_refused_upgrade_is_answered_like_any_request_and_is_no_error_of_ours(
    shared: Running, caplog: pytest.LogCaptureFixture, path: str, status: int
) -> None:
    answer = denied(shared, path)

    body = json.loads(answer.body)
    assert (answer.status_code, body["code"]) == (status, status)
    assert set(body) == {"error", "code", "timestamp"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert len(answer.headers["x-request-id"]) == 27
    assert ("www-authenticate" in answer.headers) is (status == 401)
    shared.client.get("/health")  # what the socket left behind has been looked after by now
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("offered", [[], ["gridx.v2"], ["chat"]])
def test_another_protocol_is_refused(shared: Running, alice: Api, offered: list[str]) -> None:
    headers = {"Authorization": f"Bearer {alice.token}"}
    subprotocols = [Subprotocol(name) for name in offered] or None

    status, body = refused(shared, additional_headers=headers, subprotocols=subprotocols)

    assert status == 400
    assert "gridx.v1" in str(body["error"])


def test_a_suspended_user_and_a_banned_worker_do_not_get_in(shared: Running, alice: Api) -> None:
    with worker(shared, alice.token) as it:
        worker_id, token = it.worker_id, it.token
        assert token is not None
        assert shared.admin.post(f"/workers/{worker_id}/ban").json()["status"] == "banned"
        assert it.closing()[0] == 1000

    with worker(shared, alice.token, greet=False) as it:
        it.send(hello(worker_id=worker_id))
        answer = it.expect(frames.Refused)
        assert answer.retry is False
        assert "banned" in answer.reason

    shared.admin.post(f"/users/{alice.user_id}/suspend")
    for gone in (alice.token, token):
        status, _ = refused(shared, additional_headers={"Authorization": f"Bearer {gone}"})
        assert status == 401


def test_a_workers_token_opens_this_socket_and_nothing_else(shared: Running, alice: Api) -> None:
    with worker(shared, alice.token) as it:
        token, worker_id = it.token, it.worker_id
    assert token is not None

    with worker(shared, token) as again:
        assert again.worker_id == worker_id
        assert again.token is None
    own = Api(shared.client, alice.user_id, token)
    for method, path in (("GET", "/jobs"), ("POST", "/workers/register"), ("GET", "/workers"),
                         ("GET", f"/credits/{alice.user_id}"), ("GET", "/metrics"),
                         ("GET", "/auth/me"), ("GET", "/auth/keys"), ("GET", "/events"),
                         ("DELETE", "/auth/token"), ("POST", f"/workers/{worker_id}/pause"),
                         ("POST", f"/jobs/{ID}/retry"), ("GET", "/users")):  # fmt: skip
        register = {"name": "w", "capabilities": {"os": "x"}}
        body = register if path == "/workers/register" else None
        assert own.call(method, path, body).status_code == 403, path
    with worker(shared, token) as again:
        assert again.worker_id == worker_id


NONSENSE: dict[str, bytes | str] = {
    "a word": b"nonsense",
    "nothing": b"",
    "a text frame": "hello",
    "a number": msgspec.msgpack.encode(5),
    "a list": msgspec.msgpack.encode(["hello"]),
    "no type": msgspec.msgpack.encode({"name": "x"}),
    "an unknown type": msgspec.msgpack.encode({"type": "reboot"}),
    "the coordinator's type": msgspec.msgpack.encode({"type": "drain"}),
    "a field too many": msgspec.msgpack.encode({"type": "state", "paused": True, "x": 1}),
    "a field too few": msgspec.msgpack.encode({"type": "state"}),
    "a wrong kind": msgspec.msgpack.encode({"type": "state", "paused": "yes"}),
    "a lease that is no UUID": msgspec.msgpack.encode(
        {"type": "started", "job_id": "x", "attempt": 1, "lease": ID}
    ),
    "an attempt of 0": msgspec.msgpack.encode(
        {"type": "started", "job_id": ID, "attempt": 0, "lease": ID}
    ),
    "a log of 65 KiB": msgspec.msgpack.encode(
        {
            "type": "log", "job_id": ID, "attempt": 1, "lease": ID, "number": 0,
            "stream": "stdout", "data": b"x" * 65537,
        }
    ),
    "a reason of the coordinator's": msgspec.msgpack.encode(
        {"type": "finished", "job_id": ID, "attempt": 1, "lease": ID, "reason": "lost"}
    ),
    "an exit code of 256": msgspec.msgpack.encode(
        {"type": "finished", "job_id": ID, "attempt": 1, "lease": ID, "exit_code": 256}
    ),
    "lists 100,000 deep": b"\x91" * 100_000,
    "a map that is cut": b"\x81",
    "a second hello": msgspec.msgpack.encode(hello()),
    "a frame of 8 MiB and a byte": b"x" * (8 * 1024 * 1024 + 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def bystander(shared: Running) -> Generator[tuple[Api, SocketWorker]]:
    """Another worker, which nothing of this may touch."""
    owner = shared.user()
    with worker(shared, owner.token) as it:
        yield owner, it


def errors(running: Running) -> float:
    text = running.admin.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("gridx_protocol_errors_total")]
    return float(lines[0].split()[-1])


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_closes_with_1008_and_a_reason(
    shared: Running, alice: Api, bystander: tuple[Api, SocketWorker], name: str
) -> None:
    before = errors(shared)
    with worker(shared, alice.token) as it:
        with contextlib.suppress(ConnectionClosed):  # before all of a large frame was taken
            it.socket.send(NONSENSE[name])
        code, reason = it.closing()

    assert (code, bool(reason)) == (1008, True)
    assert errors(shared) == before + 1
    owner, other = bystander
    job_id = owner.submit()
    attempt = other.assigned()
    other.start(attempt)
    other.finish(attempt)
    assert owner.get(f"/jobs/{job_id}/wait").json()["status"] == "succeeded"


def test_a_frame_of_100_mb_closes_with_1008(shared: Running, alice: Api) -> None:
    before = errors(shared)
    with worker(shared, alice.token) as it:
        with contextlib.suppress(ConnectionClosed):
            it.socket.send(b"x" * 100_000_000)
        code, reason = it.closing()
    assert (code, bool(reason)) == (1008, True)
    assert errors(shared) == before + 1


def test_a_large_message_in_small_fragments_is_large_too(shared: Running, alice: Api) -> None:
    with worker(shared, alice.token) as it:
        with contextlib.suppress(ConnectionClosed):
            it.socket.send(b"x" * 1_000_000 for _ in range(100))
        assert it.closing()[0] == 1008


def test_text_that_is_not_utf8_closes_with_1008(shared: Running, alice: Api) -> None:
    with worker(shared, alice.token, subprotocol=SUBPROTOCOL_JSON) as it:
        it.socket.send(b"\xff\xfe{}", text=True)
        assert it.closing()[0] == 1008


def test_the_first_frame_must_be_hello(shared: Running, alice: Api) -> None:
    with worker(shared, alice.token, greet=False) as it:
        it.send(frames.State(paused=True))
        code, reason = it.closing()

    assert (code, reason) == (1008, "the first frame must be hello")


@pytest.mark.parametrize("field", ["name", "os", "label", "language"])
def test_hello_bounds_its_texts(shared: Running, alice: Api, field: str) -> None:
    capabilities: dict[str, object] = {"resources": {}}
    body: dict[str, object] = {"type": "hello", "name": "w", "version": "1"}
    body["capabilities"] = capabilities
    match field:
        case "name":
            body["name"] = "a\nb"
        case "os":
            capabilities["os"] = "x" * 201
        case "label":
            capabilities["labels"] = {str(i): "x" for i in range(65)}
        case _:
            capabilities["languages"] = ["x"] * 33
    with worker(shared, alice.token, greet=False) as it:
        it.socket.send(msgspec.msgpack.encode(body))
        assert it.closing()[0] == 1008


def test_anothers_lease_is_dropped_and_changes_nothing(shared: Running) -> None:
    alice, mallory = shared.user(), shared.user()
    # A submitter's own worker is tried first.
    with worker(shared, alice.token) as holder, worker(shared, mallory.token) as other:
        job_id = alice.submit()
        attempt = holder.assigned()
        holder.start(attempt)

        other.start(attempt)
        assert other.expect(frames.Drop).lease == attempt.lease
        other.log(attempt, 0, b"forged", "stdout")
        assert other.expect(frames.Drop).lease == attempt.lease
        other.send(frames.Finished(attempt.job_id, attempt.attempt, attempt.lease, exit_code=1))
        assert other.expect(frames.Drop).lease == attempt.lease

        assert alice.get(f"/jobs/{job_id}").json()["status"] == "running"
        holder.finish(attempt)
    job = alice.get(f"/jobs/{job_id}/wait").json()
    assert (job["status"], job["stdout"]) == ("succeeded", "")


def test_of_an_attempt_that_is_over_only_its_end_is_known_again(shared: Running) -> None:
    alice = shared.user()
    with worker(shared, alice.token) as it:

        def is_over(attempt: frames.Assignment) -> None:
            it.start(attempt)
            assert it.expect(frames.Drop).lease == attempt.lease
            it.log(attempt, 1, b"late", "stdout")
            assert it.expect(frames.Drop).lease == attempt.lease
            it.end(attempt, 0)
            assert it.expect(frames.Drop).lease == attempt.lease
            it.end(attempt, 1)
            assert it.expect(frames.Ack).lease == attempt.lease

        job_id = alice.submit(retry_on_failure=True, max_attempts=2)
        first = it.assigned()
        it.start(first)
        it.finish(first, 1)
        second = it.assigned()
        is_over(first)
        it.start(second)
        it.finish(second, 1)
        is_over(first)
        is_over(second)
    job = alice.get(f"/jobs/{job_id}/wait").json()
    assert (job["status"], job["exit_code"], job["stdout"]) == ("failed", 1, "")
    assert [a["exit_code"] for a in job["attempts"]] == [1, 1]


def test_more_output_than_a_job_may_keep_is_not_kept(shared: Running) -> None:
    alice = shared.user()
    with worker(shared, alice.token) as it:
        job_id = alice.submit(limits={"output_bytes": 3})
        attempt = it.assigned()
        it.start(attempt)
        it.log(attempt, 0, b"123456", "stdout")
        it.log(attempt, 1, b"ab", "stderr")
        it.log(attempt, 2, b"cdef", "stderr")
        it.finish(attempt)
    job = alice.get(f"/jobs/{job_id}/wait").json()
    assert (job["stdout"], job["stderr"]) == ("123", "abc")


def test_a_second_connection_replaces_the_first(shared: Running, alice: Api) -> None:
    with worker(shared, alice.token) as first:
        assert first.token is not None
        with worker(shared, first.token) as second:
            last = first.expect(frames.Disconnect)
            assert (last.reason, last.retry) == ("replaced", False)
            assert first.closing()[0] == 1000
            job_id = alice.submit()
            attempt = second.assigned()
            second.start(attempt)
            second.finish(attempt)
    assert alice.get(f"/jobs/{job_id}/wait").json()["status"] == "succeeded"


def test_control_reaches_the_worker(shared: Running, alice: Api) -> None:
    with worker(shared, alice.token) as it:
        path = f"/workers/{it.worker_id}"
        assert alice.post(f"{path}/pause").json()["status"] == "paused"
        it.expect(frames.Pause)
        assert alice.post(f"{path}/resume").json()["status"] == "online"
        it.expect(frames.Resume)
        assert shared.admin.post("/admin/broadcast", {"text": "hello"}).json()["sent"] >= 1
        assert it.expect(frames.Broadcast).text == "hello"
        assert alice.post(f"{path}/drain").json()["status"] == "draining"
        it.expect(frames.Drain)
        assert shared.user().post(f"{path}/resume").status_code == 403
        assert alice.post(f"{path}/ban").status_code == 403
        assert shared.admin.post(f"{path}/disconnect").status_code == 200
        assert it.expect(frames.Disconnect).retry is True
        assert it.closing()[0] == 1000
    assert alice.get(path).json()["status"] == "offline"


def test_a_token_that_ends_ends_its_socket(shared: Running, alice: Api) -> None:
    with worker(shared, alice.token) as it:
        alice.delete("/auth/token")
        last = it.expect(frames.Disconnect)
        # Enrolled by now: the worker's own token lets it come back.
        assert last.retry is True
        assert it.closing()[0] == 1000
    assert it.token is not None
    with worker(shared, it.token) as again:
        shared.admin.post(f"/users/{alice.user_id}/suspend")
        last = again.expect(frames.Disconnect)
        assert last.retry is False


def test_assignments_are_split_below_8_mib(own: Running) -> None:
    alice = own.user()
    big = {"code": "x" * 1_048_576, "stdin": "y" * 1_048_576, "resources": {"cpus": 0.1}}
    batch = alice.post("/jobs/batch", {"jobs": [big] * 10}).json()
    got: list[str] = []
    with worker(own, alice.token) as it:
        while len(got) < 10:
            data = it.socket.recv(timeout=20)
            assert len(data) <= frames.FRAME_BYTES_MAX
            frame = it.codec.from_coordinator(data)
            for attempt in frame.attempts if isinstance(frame, frames.Assign) else ():
                got.append(attempt.job_id)
                it.start(attempt)
                it.end(attempt)
    assert sorted(got) == sorted(batch["job_ids"])


def test_failed_authentication_of_sockets_is_limited(tmp_path: Path) -> None:
    flags = {"server.logins_per_minute_loopback": 5}
    with running(settings_for(f"sqlite:///{tmp_path / 'g.db'}", flags)) as it:
        headers = {"Authorization": "Bearer nonsense"}
        statuses = [refused(it, additional_headers=headers)[0] for _ in range(7)]
        # A good token is let in from the same address.
        with worker(it, it.admin.token):
            pass
    assert statuses[0] == 401
    assert statuses[-1] == 429
