"""What a worker says when it is not let in: each case its own clear message, and exit code 1.

Where the case is one of patience (nobody there, nobody answering), the patience is shortened; that
the real one ends in time is a test of its own.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from http import HTTPStatus
from pathlib import Path

import pytest
import trustme

from gridx.protocol.frames import Disconnect, Refused
from gridx.worker.identity import Identity, StateDir
from tests.support.processes import free_port
from tests.worker.conftest import StartWorker, silent_server
from tests.worker.coordinator import Coordinator
from tests.worker.frames import WORKER

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridx.worker.agent.WELCOME_WITHIN_S", 2.5)
    monkeypatch.setattr("gridx.worker.agent.PATIENCE_S", 2.0)
    monkeypatch.setattr("gridx.worker.connection.BACKOFF_UNWELCOMED_S", 0.02)


async def said(start_worker: StartWorker, capture: Capture, *urls: str, **options: object) -> str:
    """The one line that a worker ends with."""
    worker = start_worker(*urls, **({"token": "t"} | options))
    assert await worker.exit_code() == 1
    [line] = capture.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "status", [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST]
)
async def test_refused_at_the_door(
    coordinator: Coordinator, start_worker: StartWorker, capsys: Capture, status: HTTPStatus
) -> None:
    coordinator.door = status
    line = await said(start_worker, capsys, coordinator.url)
    assert all(word in line for word in ("refused", "said at the door")), line
    assert len(coordinator.tokens) == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (HTTPStatus.TOO_MANY_REQUESTS, ["no more tries", "said at the door"]),
        (HTTPStatus.SERVICE_UNAVAILABLE, ["cannot serve now", "said at the door"]),
    ],
)
@pytest.mark.usefixtures("impatient")
async def test_told_at_the_door_to_come_again(
    coordinator: Coordinator,
    start_worker: StartWorker,
    capsys: Capture,
    status: HTTPStatus,
    words: list[str],
) -> None:
    coordinator.door = status
    line = await said(start_worker, capsys, coordinator.url)
    assert all(word in line for word in words), line


@pytest.mark.parametrize("reason", ["The owner is suspended.", "This worker is banned."])
async def test_refused_after_hello(
    coordinator: Coordinator, start_worker: StartWorker, capsys: Capture, reason: str
) -> None:
    coordinator.greet = lambda hello: Refused(reason)
    line = await said(start_worker, capsys, coordinator.url)
    assert line == f"gridx worker: The coordinator refused this worker: {reason}"
    assert len(coordinator.hellos) == 1


@pytest.mark.usefixtures("impatient")
async def test_refused_for_now_is_tried_again_and_then_told(
    coordinator: Coordinator,
    start_worker: StartWorker,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gridx.worker.agent.WELCOME_WITHIN_S", 4.0)
    coordinator.greet = lambda hello: Refused("The grid is full.", retry=True)
    assert "The grid is full." in await said(start_worker, capsys, coordinator.url)
    assert len(coordinator.hellos) > 1


async def test_disconnected_for_good(
    coordinator: Coordinator, start_worker: StartWorker, capsys: Capture
) -> None:
    worker = start_worker(coordinator.url, token="t")
    connection = await coordinator.next()
    await connection.say(Disconnect("The owner is suspended.", retry=False))
    assert await worker.exit_code() == 1
    assert "The owner is suspended." in capsys.readouterr().err


async def test_a_token_revoked_later_ends_the_worker(
    coordinator: Coordinator, start_worker: StartWorker, capsys: Capture
) -> None:
    worker = start_worker(coordinator.url, token="t")
    connection = await coordinator.next()
    coordinator.door = HTTPStatus.UNAUTHORIZED
    await connection.close()
    assert await worker.exit_code() == 1
    assert "refused" in capsys.readouterr().err


async def test_another_version_closes_with_1008(
    coordinator: Coordinator, start_worker: StartWorker, capsys: Capture
) -> None:
    coordinator.closes = (1008, "unknown version")
    assert "unknown version" in await said(start_worker, capsys, coordinator.url)


async def test_a_subprotocol_nobody_speaks(start_worker: StartWorker, capsys: Capture) -> None:
    coordinator = Coordinator()
    coordinator.subprotocols = []
    async with coordinator.serving():
        line = await said(start_worker, capsys, coordinator.url)
    assert "gridx.v1" in line
    assert "version" in line


@pytest.mark.usefixtures("impatient")
async def test_nobody_there(start_worker: StartWorker, capsys: Capture) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    line = await said(start_worker, capsys, url)
    assert f"No coordinator can be reached at {url} (Connection refused)" in line


@pytest.mark.usefixtures("impatient")
async def test_somebody_silent(
    start_worker: StartWorker, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridx.worker.connection.ANSWER_S", 0.4)
    async with silent_server() as port:
        line = await said(start_worker, capsys, f"http://127.0.0.1:{port}")
    assert "does not answer" in line


@pytest.mark.usefixtures("impatient")
async def test_a_coordinator_that_never_welcomes(
    coordinator: Coordinator, start_worker: StartWorker, capsys: Capture
) -> None:
    coordinator.greet = lambda hello: None
    line = await said(start_worker, capsys, coordinator.url)
    assert "did not accept this worker" in line


async def test_something_else_that_listens(start_worker: StartWorker, capsys: Capture) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    line = await said(start_worker, capsys, f"http://127.0.0.1:{port}")
    server.close()
    assert "no coordinator" in line
    assert "404" in line


# --------------------------------------------------------------------- before anything is sent


async def test_nothing_secret_goes_over_plain_http(
    start_worker: StartWorker, capsys: Capture
) -> None:
    for options in ({"token": "t"}, {"token": None, "user_id": "a", "password": "secret-word"}):
        line = await said(start_worker, capsys, "http://192.0.2.1:8081", **options)
        assert "--insecure" in line
        assert "192.0.2.1" in line
        assert "secret-word" not in line


async def test_a_worker_without_credentials_says_what_to_give(
    start_worker: StartWorker, capsys: Capture
) -> None:
    line = await said(start_worker, capsys, "http://127.0.0.1:1", token=None)
    assert "--user" in line
    line = await said(start_worker, capsys, "http://127.0.0.1:1", token=None, password="12345678")
    assert "--user" in line


async def test_the_state_folder_of_another_user(
    start_worker: StartWorker, capsys: Capture, tmp_path: Path
) -> None:
    state = StateDir(tmp_path / "state")
    state.save(Identity(WORKER, "t", "alice"))
    state.close()
    line = await said(start_worker, capsys, "http://127.0.0.1:1", token=None, user_id="bob")
    assert "alice" in line
    assert "--state-dir" in line


async def test_a_state_folder_in_use(
    coordinator: Coordinator, start_worker: StartWorker, capsys: Capture
) -> None:
    start_worker(coordinator.url, token="t")
    await coordinator.next()
    assert "--state-dir" in await said(start_worker, capsys, coordinator.url)


async def test_an_address_that_is_none(start_worker: StartWorker, capsys: Capture) -> None:
    assert "no address" in await said(start_worker, capsys, "ftp://grid")


# ---------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def secure(authority: trustme.CA) -> AsyncGenerator[Coordinator]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    coordinator = Coordinator()
    async with coordinator.serving(ssl=context):
        yield coordinator


async def test_tls_with_the_authority_given(
    secure: Coordinator, authority: trustme.CA, start_worker: StartWorker, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    start_worker(f"https://localhost:{secure.port}", token="t", ca=ca)
    await secure.next()


async def test_a_certificate_of_nobody_known(
    secure: Coordinator, start_worker: StartWorker, capsys: Capture
) -> None:
    line = await said(start_worker, capsys, f"https://localhost:{secure.port}")
    assert "not trusted" in line
    assert "--ca" in line


async def test_a_file_that_is_no_authority(
    start_worker: StartWorker, capsys: Capture, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("hello")
    line = await said(start_worker, capsys, "https://localhost:1", ca=tmp_path / "ca.pem")
    assert "--ca" in line


async def test_a_machine_without_a_sandbox(
    start_worker: StartWorker, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridx.worker.sandbox.boxed.find_bwrap", lambda: None)
    line = await said(start_worker, capsys, "http://127.0.0.1:1")
    assert "No sandbox works on this machine" in line
    assert "apt-get install bubblewrap" in line
