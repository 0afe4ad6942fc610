"""The worker WebSocket: a door, then a reader and a writer for each connection.

The door checks the token before the upgrade, so that nobody unknown ever gets a socket. Then the
first frame must be `hello`; the coordinator makes a session of it, or the worker is `refused`. From
there on the reader turns frames into reports (and waits when the session has too many), the writer
turns orders into frames, and two watchers end the connection when its token no longer holds or the
server ends. Nonsense closes the connection with 1008 and a reason, is counted, and touches nobody
else's.
"""

import asyncio
from collections.abc import Mapping

from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from gridx.coordinator.sessions import Session
from gridx.domain.errors import Denied, GridError, InvalidInput, Unauthenticated, Unavailable
from gridx.domain.user import Principal, TokenKind
from gridx.protocol import frames
from gridx.protocol.frames import SUBPROTOCOL, SUBPROTOCOL_JSON, Codec, Frame, FromWorker
from gridx.server import answers, worker_frames
from gridx.server.auth import bearer_token
from gridx.server.operation import Parts, limit_tries
from gridx.server.streams import until_revoked
from gridx.telemetry import bound, get_logger

PATH = "/ws/worker"
HELLO_S = 10.0
REASON_CHARACTERS_MAX = 120
CLOSE_NORMAL = 1000
CLOSE_GOING_AWAY = 1001
CLOSE_FAILED = 1011

_log = get_logger(__name__)


class _Over(Exception):
    """The connection ends; unless its peer is gone already, with `last` and this close code."""

    def __init__(self, code: int, reason: str, last: Frame | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.last = last


class _Gone(_Over):
    """The peer is gone."""


class _Nonsense(_Over):
    """What came is no frame, or none that may come now."""

    def __init__(self, reason: str) -> None:
        super().__init__(frames.CLOSE_POLICY, reason)


class WorkerSocket:
    """The ASGI application behind `/ws/worker`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        parts = self._parts
        try:
            if parts.closing.begun:
                raise Unavailable("The coordinator is shutting down: try again in a moment")
            with parts.sockets.take():
                token = bearer_token(headers)
                who = await self._authenticate(scope, token)
                subprotocol = _spoken(scope)
                if b"origin" in headers:
                    raise Denied("This socket is for workers: a browser may not open it")
                socket = WebSocket(scope, receive, send)
                await socket.accept(subprotocol)
                await _Connection(parts, socket, Codec(subprotocol), who, token).run()
        except GridError as refusal:
            parts.grid.metrics.count_refused(refusal.code)
            await answers.of_refusal(refusal, parts.clock.now())(scope, receive, send)

    async def _authenticate(self, scope: Scope, token: str) -> Principal:
        try:
            return await self._parts.grid.users.authenticate(token)
        except Unauthenticated:
            # Only failures count: a hall of workers behind one address may all come back at once.
            address = self._parts.addresses.client(scope)
            await limit_tries(self._parts, "socket", address, None)
            raise


def _spoken(scope: Scope) -> str:
    for offered in scope.get("subprotocols", ()):
        if offered in (SUBPROTOCOL, SUBPROTOCOL_JSON):
            return offered
    raise InvalidInput(
        f"Ask for the subprotocol {SUBPROTOCOL} or {SUBPROTOCOL_JSON}: "
        "this coordinator speaks no other version"
    )


class _Connection:
    """One accepted socket."""

    def __init__(
        self, parts: Parts, socket: WebSocket, codec: Codec, who: Principal, token: str
    ) -> None:
        self._parts = parts
        self._socket = socket
        self._codec = codec
        self._who = who
        self._token = token

    async def run(self) -> None:
        """Serve the connection to its end, and end it in order."""
        try:
            await self._serve()
        except Exception:  # noqa: BLE001  (a bug must end this connection only)
            _log.exception("socket_failed")
            await self._end(_Over(CLOSE_FAILED, "The coordinator failed: see its log"))

    async def _end(self, over: _Over) -> None:
        if over.code == frames.CLOSE_POLICY:
            self._parts.grid.metrics.count_protocol_error()
            _log.warning("socket_nonsense", reason=over.reason, user=self._who.user_id)
        if isinstance(over, _Gone):
            return
        try:
            if over.last is not None:
                await self._send(over.last)
            await self._socket.close(over.code, over.reason[:REASON_CHARACTERS_MAX])
        except (_Gone, WebSocketDisconnect, RuntimeError):
            pass  # the worker closed first, as it does when it is told to go

    async def _serve(self) -> None:
        try:
            hello = await self._hello()
            session = await self._greet(hello)
        except _Over as over:
            await self._end(over)
            return
        over = _Over(CLOSE_NORMAL, "")
        with bound(worker=session.worker_id):
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._write(session))
                    group.create_task(self._read(session))
                    group.create_task(self._until_closing())
                    group.create_task(self._until_revoked())
            except* _Over as several:
                over = _first(several)
            finally:
                # The worker hears of the end before the session's own is written down.
                await self._end(over)
                await session.close()

    async def _hello(self) -> frames.Hello:
        try:
            async with asyncio.timeout(HELLO_S):
                frame = await self._next()
        except TimeoutError:
            raise _Nonsense(f"no hello within {HELLO_S:g} s") from None
        if not isinstance(frame, frames.Hello):
            raise _Nonsense("the first frame must be hello")
        return frame

    async def _greet(self, hello: frames.Hello) -> Session:
        try:
            session = await self._parts.grid.sessions.connect(
                self._who, worker_frames.greeting(hello)
            )
        except GridError as refusal:
            self._parts.grid.metrics.count_refused(refusal.code)
            refused = frames.Refused(refusal.message, refusal.retryable)
            raise _Over(CLOSE_NORMAL, "refused", refused) from None
        welcome = frames.Welcome(
            session.worker_id,
            self._parts.heartbeat_s,
            self._parts.lease_s,
            [
                frames.Kept(kept.key.job_id, kept.key.attempt, kept.key.lease, kept.log_frames)
                for kept in session.keep
            ],
            [worker_frames.lease_ref(key) for key in session.drop],
            session.worker_token,
            paused=session.paused,
            draining=session.draining,
        )
        try:
            await self._send(welcome)
        except _Over:
            await session.close()
            raise
        return session

    async def _read(self, session: Session) -> None:
        while True:
            frame = await self._next()
            try:
                report = worker_frames.report(frame)
            except ValueError as error:
                raise _Nonsense(str(error)) from None
            await session.report(report)

    async def _write(self, session: Session) -> None:
        while orders := await session.outgoing():
            for frame in worker_frames.ordered(orders):
                await self._send(frame)
                if isinstance(frame, frames.Disconnect):
                    raise _Over(CLOSE_NORMAL, frame.reason)
        raise _Over(CLOSE_NORMAL, "the session is over")

    async def _until_closing(self) -> None:
        await self._parts.closing.wait()
        last = frames.Disconnect("The coordinator is shutting down", retry=True)
        raise _Over(CLOSE_GOING_AWAY, "shutting down", last)

    async def _until_revoked(self) -> None:
        await until_revoked(self._parts, self._token)
        # Who came with a user's token has a worker's token by now and may come back with it.
        retry = self._who.kind is not TokenKind.WORKER
        last = frames.Disconnect("The token of this connection no longer holds", retry)
        raise _Over(CLOSE_NORMAL, "token", last)

    async def _next(self) -> FromWorker:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise _Gone(message.get("code") or CLOSE_NORMAL, message.get("reason") or "")
        text: str | None = message.get("text")
        try:
            frame = self._codec.from_worker(message["bytes"] if text is None else text)
        except ValueError as error:
            raise _Nonsense(str(error)) from None
        self._parts.grid.metrics.count_frame("in", _type(frame))
        return frame

    async def _send(self, frame: Frame) -> None:
        data = self._codec.encode(frame)
        try:
            if self._codec.text:
                await self._socket.send_text(data.decode())
            else:
                await self._socket.send_bytes(data)
        except (WebSocketDisconnect, RuntimeError):
            # Starlette's RuntimeError: the peer's close was read by the other task already.
            raise _Gone(CLOSE_NORMAL, "") from None
        self._parts.grid.metrics.count_frame("out", _type(frame))


def _type(frame: Frame) -> str:
    return str(frame.__struct_config__.tag)


def _first(several: ExceptionGroup[_Over]) -> _Over:
    """Why it ended: nonsense and orders say more than a peer that is gone."""
    found = [one if isinstance(one, _Over) else _first(one) for one in several.exceptions]
    return min(found, key=lambda over: isinstance(over, _Gone))
