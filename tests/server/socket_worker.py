"""A worker as the server sees one: frames over a real WebSocket, and no sandbox behind them."""

import contextlib
from collections.abc import Generator
from typing import TypeVar

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from gridx.protocol import frames
from gridx.protocol.frames import SUBPROTOCOL, Codec, Frame
from tests.server.running import Running

F = TypeVar("F", bound=Frame)
OFFER = frames.WireCapabilities(
    resources=frames.WireResources(cpus=4.0, memory_mb=8192, gpus=0, disk_mb=8192),
    languages=["python", "javascript", "bash"],
    sandboxes=["bubblewrap"],
)


def hello(name: str = "w", worker_id: str | None = None, **fields: object) -> frames.Hello:
    """The first frame of a worker."""
    return frames.Hello(
        name=name,
        version="2.0",
        capabilities=OFFER,
        worker_id=worker_id,
        **fields,  # pyright: ignore[reportArgumentType]
    )


class SocketWorker:
    """One connection."""

    def __init__(self, socket: ClientConnection, codec: Codec) -> None:
        self.socket = socket
        self.codec = codec
        self.worker_id = ""
        self.token: str | None = None

    def send(self, frame: Frame) -> None:
        data = self.codec.encode(frame)
        self.socket.send(data.decode() if self.codec.text else data)

    def receive(self, timeout_s: float = 20) -> Frame:
        """The next frame; raises `ConnectionClosed` at the end."""
        return self.codec.from_coordinator(self.socket.recv(timeout=timeout_s))

    def expect(self, kind: type[F]) -> F:
        """The next frame, which must be of this kind."""
        frame = self.receive()
        assert isinstance(frame, kind), frame
        return frame

    def greet(self, first: frames.Hello | None = None) -> frames.Welcome:
        """Say hello and be welcome."""
        self.send(first or hello())
        welcome = self.expect(frames.Welcome)
        self.worker_id = welcome.worker_id
        self.token = welcome.worker_token
        return welcome

    def assigned(self) -> frames.Assignment:
        """The only attempt of the next `assign`."""
        frame = self.expect(frames.Assign)
        assert len(frame.attempts) == 1
        return frame.attempts[0]

    def start(self, attempt: frames.Assignment) -> None:
        self.send(frames.Started(attempt.job_id, attempt.attempt, attempt.lease, "bubblewrap"))

    def log(self, attempt: frames.Assignment, number: int, data: bytes, stream: str) -> None:
        self.send(
            frames.Log(attempt.job_id, attempt.attempt, attempt.lease, number, stream, data)  # pyright: ignore[reportArgumentType]
        )

    def finish(self, attempt: frames.Assignment, exit_code: int = 0) -> None:
        """Report the end and wait until it is committed."""
        self.end(attempt, exit_code)
        assert self.expect(frames.Ack).job_id == attempt.job_id

    def end(self, attempt: frames.Assignment, exit_code: int = 0) -> None:
        """Report the end."""
        usage = frames.WireUsage(0.5, 0.25, 12.0)
        self.send(
            frames.Finished(
                attempt.job_id, attempt.attempt, attempt.lease, exit_code=exit_code, usage=usage
            )
        )

    def closing(self) -> tuple[int, str]:
        """The close code and reason, after reading whatever came before."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.socket.recv(timeout=20)
        assert self.socket.close_code is not None
        return self.socket.close_code, self.socket.close_reason or ""


def address(running: Running) -> str:
    return running.url.replace("http", "ws", 1) + "/ws/worker"


@contextlib.contextmanager
def worker(
    running: Running, token: str, *, subprotocol: str = SUBPROTOCOL, greet: bool = True
) -> Generator[SocketWorker]:
    """A connected worker that has said hello."""
    with connect(
        address(running),
        subprotocols=[Subprotocol(subprotocol)],
        additional_headers={"Authorization": f"Bearer {token}"},
        compression=None,
        max_size=None,
        proxy=None,
    ) as socket:
        it = SocketWorker(socket, Codec(subprotocol))
        if greet:
            it.greet()
        yield it
