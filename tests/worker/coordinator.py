"""A small coordinator for the worker's tests: a real WebSocket server that speaks the real frames.

It does what it is told and keeps what it hears: a test takes the next frame of a kind, or waits for
the next connection.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, TypeVar

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from gridx.protocol.frames import SUBPROTOCOL, Codec, Frame, FromWorker, Hello
from tests.worker.frames import welcome

WAIT_S = 60.0
F = TypeVar("F", bound=Frame)
Greet = Callable[[Hello], Frame | None]


class Connection:
    """One worker's connection: what it said, in order, and a way to answer."""

    def __init__(self, socket: ServerConnection) -> None:
        self.codec = Codec(SUBPROTOCOL)
        self.heard: list[FromWorker] = []
        self._socket = socket
        self._next = 0
        self._changed = asyncio.Condition()
        self._over = False

    async def say(self, frame: Frame) -> None:
        await self._socket.send(self.codec.encode(frame))

    async def say_bytes(self, data: bytes) -> None:
        await self._socket.send(data)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._socket.close(code, reason)

    async def take(self, kind: type[F]) -> F:
        """The next frame of this kind; those before it are passed over."""
        async with asyncio.timeout(WAIT_S), self._changed:
            while True:
                while self._next < len(self.heard):
                    frame = self.heard[self._next]
                    self._next += 1
                    if isinstance(frame, kind):
                        return frame
                assert not self._over, f"the worker went away before it sent {kind.__name__}"
                await self._changed.wait()

    async def ended(self) -> None:
        """Wait until the worker has gone."""
        async with asyncio.timeout(WAIT_S):
            await self._socket.wait_closed()

    async def listen(self, hear: Callable[[FromWorker], None]) -> None:
        try:
            async for data in self._socket:
                frame = self.codec.from_worker(data)
                hear(frame)
                async with self._changed:
                    self.heard.append(frame)
                    self._changed.notify_all()
        except ConnectionClosed:
            pass
        async with self._changed:
            self._over = True
            self._changed.notify_all()


class Coordinator:
    """Accepts workers as `greet` says (None: says nothing) and hands their connections out.

    With `door` it refuses before the upgrade, with `closes` it closes after the hello.
    """

    def __init__(self) -> None:
        self.greet: Greet = lambda hello: welcome(worker_token="worker-token")
        self.door: HTTPStatus | None = None
        self.closes: tuple[int, str] | None = None
        self.before_greeting: Callable[[Hello], Awaitable[None]] | None = None
        self.subprotocols: list[str] = [SUBPROTOCOL]
        self.tokens: list[str] = []
        self.hellos: list[Hello] = []
        self.hear: Callable[[Connection, FromWorker], None] = lambda connection, frame: None
        self._connections: asyncio.Queue[Connection] = asyncio.Queue()
        self._server: Server | None = None

    async def next(self) -> Connection:
        """The next connection that was greeted."""
        async with asyncio.timeout(WAIT_S):
            return await self._connections.get()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = next(iter(self._server.sockets)).getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self, **more: Any) -> AsyncGenerator["Coordinator"]:
        offered = [Subprotocol(name) for name in self.subprotocols]
        async with serve(
            self._accept,
            "127.0.0.1",
            0,
            subprotocols=offered or None,
            process_request=self._at_the_door,
            select_subprotocol=None if offered else lambda socket, names: None,
            compression=None,
            ping_interval=None,
            close_timeout=0.5,
            **more,
        ) as server:
            self._server = server
            yield self

    def _at_the_door(self, socket: ServerConnection, request: Request) -> Response | None:
        self.tokens.append(request.headers["Authorization"].removeprefix("Bearer "))
        if self.door is None:
            return None
        response = socket.respond(self.door, '{"error": "said at the door", "code": 0}')
        response.headers["Retry-After"] = "1"
        return response

    async def _accept(self, socket: ServerConnection) -> None:
        connection = Connection(socket)
        try:
            hello = connection.codec.from_worker(await socket.recv())
        except ConnectionClosed:
            return
        assert isinstance(hello, Hello)
        self.hellos.append(hello)
        if self.closes is not None:
            await connection.close(*self.closes)
            return
        if self.before_greeting is not None:
            await self.before_greeting(hello)
        answer = self.greet(hello)
        if answer is not None:
            await connection.say(answer)
            self._connections.put_nowait(connection)
        await connection.listen(lambda frame: self.hear(connection, frame))
