"""A coordinator that serves in a thread of its own, and clients who speak to it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import uvloop

from gridx.clock import SystemClock
from gridx.config import Settings, load_settings
from gridx.coordinator.grid import initialise
from gridx.server.app import Serving, serving
from gridx.server.policy import policy_of

PASSWORD = "correct horse"
GENEROUS = {
    "server.port": 0,
    "server.logins_per_minute": 100_000,
    "server.logins_per_minute_loopback": 100_000,
}


def settings_for(database_url: str, flags: Mapping[str, object] | None = None) -> Settings:
    """Settings of a test's coordinator: any port, and limits that tests do not run into."""
    return load_settings({**GENEROUS, "storage.url": database_url, **(flags or {})}, environ={})


@dataclass
class Api:
    """One user's view of the API: a client that sends their token."""

    client: httpx2.Client
    user_id: str
    token: str

    def call(self, method: str, path: str, body: object = None, **kwargs: Any) -> httpx2.Response:
        """Send a request; `body` as JSON if there is one."""
        headers = {"Authorization": f"Bearer {self.token}", **kwargs.pop("headers", {})}
        if body is not None:
            kwargs["json"] = body
        return self.client.request(method, path, headers=headers, **kwargs)

    def get(self, path: str, **kwargs: Any) -> httpx2.Response:
        return self.call("GET", path, **kwargs)

    def post(self, path: str, body: object = None, **kwargs: Any) -> httpx2.Response:
        return self.call("POST", path, body, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> httpx2.Response:
        return self.call("DELETE", path, **kwargs)

    def submit(self, **spec: object) -> str:
        """A job of this user; its id."""
        answer = self.post("/jobs", {"code": "print(1)", **spec})
        assert answer.status_code == 201, answer.text
        return answer.json()["job_id"]


class Running:
    """A coordinator that serves until it is told to stop."""

    def __init__(
        self,
        it: Serving,
        client: httpx2.Client,
        loop: asyncio.AbstractEventLoop,
        stop: Callable[[], object],
    ) -> None:
        self.stop = stop
        self._loop = loop
        self.url = it.url
        self.serving = it
        self.client = client
        self.admin = self.log_in("admin")
        self._users = 0

    def log_in(self, user_id: str, password: str = PASSWORD) -> Api:
        """A new token for a user."""
        answer = self.client.post("/auth/token", json={"user_id": user_id, "password": password})
        assert answer.status_code == 200, answer.text
        return Api(self.client, user_id, answer.json()["token"])

    def user(self, user_id: str | None = None) -> Api:
        """A new user, logged in, with the initial grant."""
        self._users += 1
        name = user_id or f"user-{self._users}"
        answer = self.client.post("/users", json={"user_id": name, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        return self.log_in(name)

    def quiet(self) -> None:
        """Wait until it has noticed that no client is at a stream or a wait any more."""
        gone = self.serving.parts.streams.none_taken()
        asyncio.run_coroutine_threadsafe(gone, self._loop).result(20)

    def fingerprint(self) -> tuple[object, ...]:
        """What must not change when nothing may have changed."""
        users = self.admin.get("/users?limit=500").json()["items"]
        ledger = self.admin.get("/admin/ledger/verify").json()
        return (
            [(user["user_id"], user["balance"], user["suspended"]) for user in users],
            ledger["ok"],
            ledger["transfers"],
            ledger["holds"],
            [worker["worker_id"] for worker in self.admin.get("/workers").json()["items"]],
        )


@contextlib.contextmanager
def running(settings: Settings) -> Generator[Running]:
    """Serve in a thread while inside; the first user is `admin`."""
    started = threading.Event()
    found: list[Serving] = []
    failed: list[BaseException] = []
    handle: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def work() -> None:
        await initialise(policy_of(settings), SystemClock(), "admin", PASSWORD)
        stop = asyncio.Event()
        handle.append((asyncio.get_running_loop(), stop))

        async with serving(settings, SystemClock()) as it:
            found.append(it)
            started.set()
            await stop.wait()

    def run() -> None:
        try:
            uvloop.run(work())
        except BaseException as error:  # noqa: BLE001  (raised again where it is looked for)
            failed.append(error)
        finally:
            started.set()

    def tell() -> None:
        loop, stop = handle[0]
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            loop.call_soon_threadsafe(stop.set)

    thread = threading.Thread(target=run, name="coordinator")
    thread.start()
    started.wait(30)
    try:
        if failed:
            raise failed[0]
        with httpx2.Client(base_url=found[0].url, timeout=60) as client:
            yield Running(found[0], client, handle[0][0], tell)
    finally:
        if not failed and thread.is_alive():
            tell()
        thread.join(30)
        assert not thread.is_alive(), "the coordinator did not stop"
        if failed:
            raise failed[0]
