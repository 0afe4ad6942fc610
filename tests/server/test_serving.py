"""Starting, listening, losing the store, and stopping, as a whole."""

import logging
import socket
import ssl
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import trustme

from gridx.clock import SystemClock
from gridx.domain.errors import Conflict, InvalidInput, Unavailable
from gridx.server.app import serving
from gridx.server.auth import Addresses
from tests.server.running import PASSWORD, Running, running, settings_for
from tests.support.postgres import PostgresServer
from tests.support.proxy import Proxy, proxy_to


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = {"server.port": port}
        settings = settings_for(f"sqlite:///{tmp_path / 'g.db'}", flags)
        with pytest.raises(Unavailable, match=f"127.0.0.1 port {port}"), running(settings):
            pass


def test_only_one_coordinator_serves_a_store_on_sqlite(tmp_path: Path) -> None:
    settings = settings_for(f"sqlite:///{tmp_path / 'g.db'}")
    with running(settings) as first:
        with pytest.raises(Conflict, match=f"Another coordinator serves {tmp_path / 'g.db'}"):
            running(settings).__enter__()
        assert (tmp_path / "g.db-lock").stat().st_mode & 0o777 == 0o600
        assert first.admin.get("/status").status_code == 200
    with running(settings) as again:
        assert again.admin.get("/status").status_code == 200


def test_several_coordinators_share_a_store_on_postgresql(postgres_url: str) -> None:
    settings = settings_for(postgres_url)
    with running(settings) as first, running(settings) as second:
        user_id = first.user().user_id
        assert second.admin.get(f"/credits/{user_id}").status_code == 200


def test_a_folder_that_takes_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = settings_for(f"sqlite:///{tmp_path / 'file' / 'g.db'}")
    with pytest.raises(InvalidInput, match=r"the folder of .* cannot be used"), running(settings):
        pass


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    flags = {"server.tls_cert": nonsense, "server.tls_key": nonsense}
    settings = settings_for(f"sqlite:///{tmp_path / 'g.db'}", flags)
    with pytest.raises(InvalidInput, match="certificate or key"), running(settings):
        pass


def test_a_proxy_that_is_no_address_is_named() -> None:
    with pytest.raises(InvalidInput, match="trusted_proxies"):
        Addresses(["proxy.example"])


async def test_tls_is_served_and_verified(tmp_path: Path) -> None:
    authority = trustme.CA()
    identity = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    identity.cert_chain_pems[0].write_to_path(cert)
    identity.private_key_pem.write_to_path(key)
    trusting = ssl.create_default_context()
    trusting.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
    flags = {"server.tls_cert": cert, "server.tls_key": key}

    async with serving(settings_for(f"sqlite:///{tmp_path / 'g.db'}", flags), SystemClock()) as it:
        assert it.url.startswith("https://127.0.0.1:")
        async with httpx2.AsyncClient(base_url=it.url, verify=trusting) as client:
            assert (await client.get("/health")).status_code == 200
        async with httpx2.AsyncClient(base_url=it.url) as client:
            with pytest.raises(httpx2.ConnectError):
                await client.get("/health")


@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False)])
async def test_listening_beyond_this_machine_without_tls_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str, warns: bool
) -> None:
    flags = {"server.host": host}

    async with serving(settings_for(f"sqlite:///{tmp_path / 'g.db'}", flags), SystemClock()) as it:
        assert it.url.startswith("http://127.0.0.1:")

    said = capsys.readouterr()
    assert ("no_tls" in said.out + said.err) is warns


@dataclass
class Fragile:
    """A coordinator whose store is behind a proxy that breaks, and a client of it."""

    proxy: Proxy
    client: httpx2.AsyncClient
    headers: dict[str, str]

    async def call(self, method: str, path: str, body: object = None) -> httpx2.Response:
        return await self.client.request(method, path, json=body, headers=self.headers)


ALICE = {"user_id": "alice", "password": PASSWORD}
IN_TIME_S = 6.0
"""Two seconds are promised; a machine that is held up for as long again breaks no promise."""


@pytest.fixture
async def fragile(postgres: PostgresServer) -> AsyncGenerator[Fragile]:
    async with proxy_to(postgres.port) as proxy:
        url = postgres.url(postgres.create(), port=proxy.port)
        async with (
            serving(settings_for(url), SystemClock()) as it,
            httpx2.AsyncClient(base_url=it.url, timeout=20) as client,
        ):
            assert (await client.post("/users", json=ALICE)).status_code == 201
            token = (await client.post("/auth/token", json=ALICE)).json()["token"]
            yield Fragile(proxy, client, {"Authorization": f"Bearer {token}"})
            proxy.resume()


async def test_without_its_store_it_says_503_and_recovers(fragile: Fragile) -> None:
    clock = SystemClock()
    await fragile.proxy.cut()
    started = clock.monotonic()
    health = await fragile.call("GET", "/health")
    assert clock.monotonic() - started < IN_TIME_S
    assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
    for method, path, sent in (
        ("GET", "/jobs", None),
        ("POST", "/jobs", {"code": "1"}),
        ("POST", "/auth/token", ALICE),
        ("GET", "/workers", None),
    ):
        answer = await fragile.call(method, path, sent)
        assert answer.status_code == 503, (path, answer.text)
        assert answer.json()["code"] == 503

    fragile.proxy.resume()

    deadline = clock.monotonic() + 20
    while (await fragile.call("GET", "/health")).status_code != 200:
        assert clock.monotonic() < deadline
    answer = await fragile.call("POST", "/jobs", {"code": "1"})
    assert answer.status_code == 201, answer.text


async def test_a_frozen_store_is_unhealthy_within_two_seconds(fragile: Fragile) -> None:
    clock = SystemClock()
    fragile.proxy.freeze()

    started = clock.monotonic()
    health = await fragile.call("GET", "/health")

    assert health.status_code == 503
    assert clock.monotonic() - started < IN_TIME_S


def test_log_ins_are_limited_by_address_and_by_user(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'g.db'}"
    flags = {"server.logins_per_minute_loopback": 6}
    with running(settings_for(url, flags)) as it:
        body = {"user_id": "nobody", "password": PASSWORD}
        answers = [it.client.post("/auth/token", json=body) for _ in range(8)]
        assert {answer.status_code for answer in answers} == {401, 429}
        limited = answers[-1]
        assert limited.status_code == 429
        assert int(limited.headers["retry-after"]) > 0
        assert limited.json()["code"] == 429
        # Another user from the same address is limited too; what needs a token is not.
        body["user_id"] = "somebody"
        assert it.client.post("/auth/token", json=body).status_code == 429
        assert it.admin.get("/jobs").status_code == 200


def test_behind_a_trusted_proxy_the_client_is_whom_it_names(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'g.db'}"
    flags = {
        "server.logins_per_minute": 3,
        "server.logins_per_minute_loopback": 50,
        "server.trusted_proxies": ("127.0.0.1",),
    }
    with running(settings_for(url, flags)) as it:

        def tries(forwarded: str, count: int) -> list[int]:
            return [
                it.client.post(
                    "/auth/token",
                    json={"user_id": f"u{forwarded[-1]}{i}", "password": PASSWORD},
                    headers={"X-Forwarded-For": forwarded},
                ).status_code
                for i in range(count)
            ]

        assert tries("203.0.113.7", 5)[-1] == 429
        assert tries("203.0.113.8", 1) == [401]
        # What a client claims in front of the proxy's own word counts for nothing.
        assert tries("198.51.100.1, 203.0.113.7", 1) == [429]
        assert tries("2001:db8::1", 5)[-1] == 429
        assert tries("2001:db8::2", 1) == [429]


def test_without_a_trusted_proxy_nobody_is_believed(tmp_path: Path) -> None:
    flags = {"server.logins_per_minute_loopback": 4}
    with running(settings_for(f"sqlite:///{tmp_path / 'g.db'}", flags)) as it:
        statuses = [
            it.client.post(
                "/auth/token",
                json={"user_id": f"u{i}", "password": PASSWORD},
                headers={"X-Forwarded-For": f"203.0.113.{i}"},
            ).status_code
            for i in range(8)
        ]
        assert statuses[-1] == 429


@pytest.mark.parametrize(("scope", "expected"), [
    ({"client": ("10.0.0.1", 1), "headers": []}, "10.0.0.1"),
    ({"client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", b"9.9.9.9")]}, "9.9.9.9"),
    ({"client": ("8.8.8.8", 1), "headers": [(b"x-forwarded-for", b"9.9.9.9")]}, "8.8.8.8"),
    (
        {"client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", b"1.1.1.1, 9.9.9.9, 10.2.3.4")]},
        "9.9.9.9",
    ),
    (
        {"client": ("10.0.0.1", 1), "headers": [
            (b"x-forwarded-for", b"1.1.1.1"), (b"x-forwarded-for", b"9.9.9.9"),
        ]},
        "9.9.9.9",
    ),
    ({"client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", b"nonsense")]}, "10.0.0.1"),
    ({"client": ("::ffff:10.0.0.1", 1), "headers": [(b"x-forwarded-for", b"::1")]}, "::1"),
    ({"client": None, "headers": []}, "unknown"),
])  # fmt: skip
def test_the_address_of_a_client(scope: dict[str, object], expected: str) -> None:
    assert Addresses(["10.0.0.0/8"]).client(scope) == expected


def test_registration_by_invitation(tmp_path: Path) -> None:
    flags = {"server.registration": "invite", "pricing.initial_grant": "0"}
    with running(settings_for(f"sqlite:///{tmp_path / 'g.db'}", flags)) as it:
        body = {"user_id": "alice", "password": PASSWORD}
        assert it.client.post("/users", json=body).status_code == 403
        invite = it.admin.post("/invites", {"grant": "7.5"}).json()["invite"]
        assert it.client.post("/users", json={**body, "invite": "nonsense"}).status_code == 403
        answer = it.client.post("/users", json={**body, "invite": invite})
        assert (answer.status_code, answer.json()["balance"]) == (201, "7.500000")
        body["user_id"] = "bob"
        assert it.client.post("/users", json={**body, "invite": invite}).status_code == 403


def test_closed_registration_and_open_metrics(tmp_path: Path) -> None:
    flags = {"server.registration": "closed", "server.metrics_open": True}
    with running(settings_for(f"sqlite:///{tmp_path / 'g.db'}", flags)) as it:
        body = {"user_id": "alice", "password": PASSWORD}
        assert it.client.post("/users", json=body).status_code == 403
        answer = it.client.get("/metrics")
        assert answer.status_code == 200
        assert "gridx_" in answer.text
        assert not it.client.get("/openapi.json").json()["paths"]["/metrics"]["get"].get("security")


def test_half_sent_requests_do_not_hold_up_the_end(tmp_path: Path) -> None:
    with running(settings_for(f"sqlite:///{tmp_path / 'g.db'}", {"server.shutdown_s": 1})) as it:
        address = urlsplit(it.url)
        opened = [socket.create_connection((address.hostname, address.port)) for _ in range(20)]
        for number, connection in enumerate(opened):
            connection.sendall(b"POST /auth/token HTTP/1.1\r\nHost: x\r\n"[: 10 + number])
        opened[0].sendall(b"Content-Length: 100\r\n\r\n{")
        assert it.client.get("/health").status_code == 200
    # `running` has seen the end of its thread.
    for connection in opened:
        connection.close()


def test_a_flood_of_log_ins_is_answered(own_sqlite: Running) -> None:
    statuses: list[int] = []

    def work() -> None:
        with httpx2.Client(base_url=own_sqlite.url, timeout=60) as client:
            for _ in range(10):
                body = {"user_id": "nobody", "password": PASSWORD}
                statuses.append(client.post("/auth/token", json=body).status_code)

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    assert own_sqlite.client.get("/health").status_code == 200
    for thread in threads:
        thread.join()
    assert set(statuses) <= {401, 429, 503}
    assert len(statuses) == 100


def test_nothing_of_a_request_is_logged(
    own_sqlite: Running, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    alice = own_sqlite.user()
    alice.submit(code="SECRET_CODE_1", env={"A": "SECRET_ENV_2"}, stdin="SECRET_STDIN_3")
    alice.post("/jobs", {"code": "SECRET_CODE_1", "unknown": "SECRET_FIELD_4"})
    captured = capfd.readouterr()

    said = caplog.text + captured.out + captured.err
    for secret in ("SECRET_", alice.token, PASSWORD):
        assert secret not in said
