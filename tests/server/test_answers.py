"""The shape of every answer: errors, headers, methods, paths that do not exist."""

import json
import socket
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest

from gridx.clock import ManualClock
from gridx.server.front import Envelope
from tests.server.running import Api, Running

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE")


def test_every_method_that_a_path_does_not_know_is_405_with_allow(shared: Running) -> None:
    paths = shared.client.get("/openapi.json").json()["paths"]
    assert len(paths) > 35
    for path, item in paths.items():
        known = {method.upper() for method in item}
        url = path.replace("{user_id}", "admin").replace(
            "{" + path.partition("{")[2].partition("}")[0] + "}",
            "9b2f0f5a-8f4f-4a0e-9d38-0a52b0f6f3aa",
        )
        for method in METHODS:
            if method in known or (method == "GET" and path.startswith("/credits/")):
                continue  # the balance of a user called transfer
            answer = shared.client.request(method, url)
            assert answer.status_code == 405, (method, url)
            assert set(answer.headers["allow"].split(", ")) == known, (method, url)
            if method != "HEAD":
                assert answer.json()["code"] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/nothing", "/jobs/", "/jobs//", "/Jobs", "/jobs/x/y/z", "/docs/", "/users/a/b",
        "/jobs/9b2f0f5a-8f4f-4a0e-9d38-0a52b0f6f3aa/nothing", "/.git/config", "/%2e%2e/etc/passwd",
        "/batches", "/auth", "/admin", "/ws/worker", "/static/../app.py", "/jobs%2Fbatch%2Fx",
    ],
)  # fmt: skip
def test_unknown_paths_are_404_in_our_shape(shared: Running, path: str) -> None:
    answer = shared.client.get(path)

    assert answer.status_code == 404
    assert set(answer.json()) == {"error", "code", "timestamp"}


def test_an_error_has_the_one_shape(alice: Api) -> None:
    answer = alice.post("/jobs", {"code": "1", "priority": "high"})

    body = answer.json()
    assert set(body) == {"error", "code", "timestamp", "details"}
    assert body["code"] == answer.status_code == 400
    assert body["details"] == [{"field": "priority", "message": "Input should be a valid integer"}]
    moment = datetime.fromisoformat(body["timestamp"])
    assert moment.tzinfo == UTC
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60


def test_answers_carry_security_headers_and_a_request_id(shared: Running, alice: Api) -> None:
    for answer in (
        alice.get("/jobs"), alice.get("/nothing"), shared.client.get("/jobs"),
        shared.client.put("/jobs"), shared.client.get("/docs"), shared.client.get("/health"),
    ):  # fmt: skip
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert len(answer.headers["x-request-id"]) == 27
        assert "server" not in answer.headers
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_each_request_has_an_id_of_its_own(shared: Running) -> None:
    ids = {shared.client.get("/health").headers["x-request-id"] for _ in range(20)}

    assert len(ids) == 20


def test_a_request_id_is_taken_over_only_if_it_is_well_formed(shared: Running) -> None:
    for given, taken in (
        ("abc-1.2_3", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("é", False),
    ):  # fmt: skip
        answer = shared.client.get("/health", headers=[(b"X-Request-ID", given.encode())])
        assert (answer.headers["x-request-id"] == given) is taken, given


async def test_a_bug_is_a_500_in_our_shape_without_its_story() -> None:
    sent: list[dict[str, object]] = []

    async def broken(*_: object) -> None:
        raise LookupError("secret detail")

    async def send(message: object) -> None:
        sent.append(message)  # pyright: ignore[reportArgumentType]

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    scope: dict[str, object] = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await Envelope(broken, ManualClock())(scope, receive, send)  # pyright: ignore[reportArgumentType]

    assert sent[0]["status"] == 500
    body = json.loads(sent[1]["body"])  # pyright: ignore[reportArgumentType]
    assert body["code"] == 500
    assert "secret" not in str(sent)


def raw_request(url: str, data: bytes) -> bytes:
    """What a server answers to bytes that no client library would send."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
    return found


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nbroken header\r\n\r\n",
        b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_400_in_our_shape(shared: Running, data: bytes) -> None:
    head, _, body = raw_request(shared.url, data).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["code"] == 400
    assert shared.client.get("/health").status_code == 200


UPGRADE = b"Host: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
HANDSHAKE = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: "


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /ws/worker HTTP/1.1\r\n" + UPGRADE + b"\r\n", 400),
        (b"GET /nothing HTTP/1.1\r\n" + UPGRADE + HANDSHAKE + b"12\r\n\r\n", 400),
        (b"POST /jobs HTTP/1.1\r\n" + UPGRADE + b"Content-Length: 2\r\n\r\n{}", 401),
        (b"POST /ws/worker HTTP/1.1\r\n" + UPGRADE + HANDSHAKE + b"13\r\n\r\n", 404),
    ],
)
def test_what_is_no_handshake_is_answered_in_our_shape(
    shared: Running, data: bytes, status: int
) -> None:
    head, _, body = raw_request(shared.url, data).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert head.lower().count(b"content-type: application/json") == 1
    assert json.loads(body)["code"] == status


def test_health_and_status_have_their_shapes(shared: Running) -> None:
    health = shared.client.get("/health").json()
    status = shared.client.get("/status").json()

    assert (health.pop("status"), health.pop("service")) == ("healthy", "grid-x-coordinator")
    assert set(health) == {"timestamp"}
    assert status["service"] == "Grid-X Coordinator"
    assert set(status) == {
        "service", "version", "uptime_s", "workers", "queue_size", "running", "coordinators",
    }  # fmt: skip
    assert set(status["workers"]) == {"total", "active"}


def test_metrics_count_what_was_refused(shared: Running, alice: Api) -> None:
    alice.post("/jobs", {"nonsense": 1})

    answer = shared.admin.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'code="invalid"' in answer.text


def test_the_page_of_the_documents_names_every_path_and_no_other_host(shared: Running) -> None:
    page = shared.client.get("/docs")

    assert page.headers["content-type"].startswith("text/html")
    for path in shared.client.get("/openapi.json").json()["paths"]:
        assert path in page.text
    assert "<script" not in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_the_root_leads_to_the_documents(shared: Running) -> None:
    answer = shared.client.get("/")

    assert answer.status_code == 307
    assert answer.headers["location"] == "/docs"
