"""A worker spoken by hand: maps over a WebSocket, as MessagePack or as JSON, no sandbox behind it."""

import base64
import json
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.e2e.people import Json

HEARTBEAT_S = 0.4
WITHIN_S = 30.0
MSGPACK = "gridx.v1"
JSON = "gridx.v1+json"
OFFER: Json = {
    "resources": {"cpus": 4.0, "memory_mb": 8192, "gpus": 0, "disk_mb": 8192},
    "languages": ["python", "javascript", "bash"],
    "sandboxes": ["bubblewrap"],
    "gpus": [],
    "labels": {},
    "os": "linux",
    "arch": "x86_64",
}


class HandWorker:
    """One connection of a worker."""

    def __init__(self, socket: ClientConnection, text: bool) -> None:
        self.socket = socket
        self.text = text
        self.worker_id = ""
        self.token: str | None = None
        self._held: dict[str, Json] = {}

    def send(self, type: str, **fields: Any) -> None:  # noqa: A002  (the field's own name)
        frame = {"type": type, **fields}
        if self.text:
            self.socket.send(json.dumps(frame))
        else:
            self.socket.send(msgspec.msgpack.encode(frame))

    def receive(self, timeout_s: float = WITHIN_S) -> Json:
        """The next frame; the worker gives signs of life while it waits."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            try:
                data = self.socket.recv(timeout=max(0.0, min(HEARTBEAT_S, left_s)))
                break
            except TimeoutError:
                if left_s <= HEARTBEAT_S:
                    raise
            if self.worker_id:
                self.heartbeat()
        if self.text:
            assert isinstance(data, str)
            return json.loads(data)
        assert isinstance(data, bytes)
        return msgspec.msgpack.decode(data)

    def expect(self, type_: str, timeout_s: float = WITHIN_S) -> Json:
        """The next frame, which must be of this type."""
        frame = self.receive(timeout_s)
        assert frame["type"] == type_, frame
        return frame

    def hello(self, *, label: str | None = None, **more: Any) -> Json:
        """Say hello and be welcome."""
        labels = {"site": label} if label else {}
        hello = {"name": "by hand", "version": "2.0", "capabilities": OFFER | {"labels": labels}}
        self.send("hello", **(hello | more))
        welcome = self.expect("welcome")
        self.worker_id = welcome["worker_id"]
        self.token = welcome.get("worker_token")
        return welcome

    def assigned(self, timeout_s: float = WITHIN_S) -> Json:
        """The lease of the only attempt of the next `assign`, with its spec."""
        frame = self.expect("assign", timeout_s)
        (attempt,) = frame["attempts"]
        self._held[attempt["lease"]] = attempt
        return attempt

    def start(self, attempt: Json) -> None:
        self.send("started", **lease_of(attempt))

    def log(self, attempt: Json, data: bytes, number: int = 0, stream: str = "stdout") -> None:
        carried = base64.b64encode(data).decode() if self.text else data
        self.send("log", **lease_of(attempt), number=number, stream=stream, data=carried)

    def finish(self, attempt: Json, exit_code: int | None = 0, **more: Any) -> None:
        usage = {"wall_s": 0.5, "cpu_s": 0.25, "peak_memory_mb": 12.0}
        self._held.pop(attempt["lease"], None)
        self.send(
            "finished", **({**lease_of(attempt), "exit_code": exit_code, "usage": usage} | more)
        )

    def heartbeat(self) -> None:
        """Say that it lives, and what it runs."""
        free = {"cpus": 4.0, "memory_mb": 8192, "gpus": 0, "disk_mb": 8192}
        running = [lease_of(each) for each in self._held.values()]
        self.send("heartbeat", free=free, load=0.1, running=running)

    def closing(self) -> tuple[int, str]:
        """The close code and reason, after reading whatever came before."""
        with suppress(ConnectionClosed):
            while True:
                self.socket.recv(timeout=WITHIN_S)
        assert self.socket.close_code is not None
        return self.socket.close_code, self.socket.close_reason or ""


def lease_of(attempt: Json) -> Json:
    return {name: attempt[name] for name in ("job_id", "attempt", "lease")}


@contextmanager
def by_hand(
    url: str, token: str, *, subprotocol: str = MSGPACK, label: str | None = None, **hello: Any
) -> Generator[HandWorker]:
    """A connection that has said hello; `label` becomes its `site`."""
    with knock(url, token, subprotocol) as worker:
        worker.hello(label=label, **hello)
        yield worker


@contextmanager
def knock(url: str, token: str, subprotocol: str = MSGPACK) -> Generator[HandWorker]:
    """A connection that has said nothing yet."""
    with connect(
        url.replace("http", "ws", 1) + "/ws/worker",
        subprotocols=[Subprotocol(subprotocol)],
        additional_headers={"Authorization": f"Bearer {token}"},
        compression=None,
        max_size=None,
        proxy=None,
        open_timeout=WITHIN_S,
    ) as socket:
        yield HandWorker(socket, subprotocol == JSON)
