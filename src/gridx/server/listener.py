"""The listening socket: uvicorn, set up for us, and ended in order.

On the end of the program we first tell streams and sockets, so that they end by themselves; uvicorn
then waits for the rest. Its protocols are bent in four places: what is not HTTP or no handshake is
answered in our error shape, the head of a request has a limit, a WebSocket that is not let in is no
error of ours, and a WebSocket peer that breaks the protocol is closed with 1008 and gets to read it,
however much it is still sending.
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Response
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from gridx.clock import SystemClock, to_rfc3339
from gridx.domain.errors import InvalidInput, Unavailable
from gridx.protocol.frames import CLOSE_POLICY, FRAME_BYTES_MAX
from gridx.protocol.problem import to_body

HEAD_BYTES_MAX = 64 * 1024
PING_EVERY_S = 20.0
PONG_WITHIN_S = 40.0
KEEP_ALIVE_S = 75
LINGER_S = 2.0
BACKLOG = 2048

_BAD_DATA = frozenset({1002, 1003, 1007, 1009})


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a certificate with its chain, and of its key."""

    cert: Path
    key: Path


def _config(
    app: ASGIApp, host: str, port: int, tls: Tls | None, *, shutdown_s: float
) -> uvicorn.Config:
    # Its own log lines of connections say nothing that ours do not.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_Http,
        ws=_WebSocket,
        ws_max_size=FRAME_BYTES_MAX,
        ws_ping_interval=PING_EVERY_S,
        ws_ping_timeout=PONG_WITHIN_S,
        ws_per_message_deflate=False,
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(shutdown_s),
        ssl_certfile=tls.cert if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )


class Listener(uvicorn.Server):
    """Uvicorn on a socket that is open from the start, without its signal handlers."""

    def __init__(
        self, app: ASGIApp, host: str, port: int, tls: Tls | None, *, shutdown_s: float
    ) -> None:
        """Raises `InvalidInput` for a certificate that cannot be used, `Unavailable` for a port.

        `shutdown_s` is how long requests may go on once `should_exit` is set.
        """
        super().__init__(_config(app, host, port, tls, shutdown_s=shutdown_s))
        try:
            self.config.load()
        except (OSError, ValueError) as error:
            raise InvalidInput(f"The TLS certificate or key cannot be used: {error}") from None
        self._socket = _listening(host, port)
        self._serves = asyncio.Event()

    @property
    def url(self) -> str:
        """Where it listens, as somebody on this machine may reach it."""
        name = {"::": "::1"}.get(self.config.host, self.config.host)
        if name in {"", "0.0.0.0"}:  # noqa: S104  (that is everywhere: name one way to get there)
            name = "127.0.0.1"
        port = self._socket.getsockname()[1]
        scheme = "https" if self.config.is_ssl else "http"
        return f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"

    async def run_until_told(self) -> None:
        """Serve until `should_exit` is set, then end in order."""
        await self.serve([self._socket])

    async def serves(self) -> None:
        """Return once requests are answered."""
        await self._serves.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._serves.set()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only where it is, and without that
    # every answer waits 40 ms for the client's delayed acknowledgement.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind((host, port))
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        raise Unavailable(f"Cannot listen on {host} port {port}: {error.strerror}") from None
    return found


def _error(status: int, message: str) -> str:
    return json.dumps(to_body(status, message, to_rfc3339(SystemClock().now())))


class _HeadTooLarge(Exception):
    """The request's line and headers are over their limit."""


class _Http(HttpToolsProtocol):
    """Uvicorn's HTTP, with a limit on the head and our shape for what is not HTTP."""

    _head_bytes = 0

    def _should_upgrade(self) -> bool:
        # Only GET opens a WebSocket. Anything else that asks for one is a request of its own; the
        # WebSocket's protocol would never answer it.
        return self.scope["method"] == "GET" and super()._should_upgrade()

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head_bytes += size + 4
        if self._head_bytes > HEAD_BYTES_MAX:
            raise _HeadTooLarge

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > HEAD_BYTES_MAX:
            msg = f"The line and headers of the request are over {HEAD_BYTES_MAX:,} bytes"
        body = _error(400, msg).encode()
        head = (
            b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            % len(body)
        )
        self.transport.write(STATUS_LINE[400] + head + body)
        self.transport.close()


class _StrictProtocol(ServerProtocol):
    """Closes with 1008 whatever rule of the protocol the peer broke, as our contract says.

    What is no handshake is answered in our error shape.
    """

    def reject(self, status: StatusLike, text: str) -> Response:
        response = super().reject(status, _error(int(status), text.strip()))
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "application/json"
        return response

    def fail(self, code: int, reason: str = "") -> None:
        if code in _BAD_DATA:
            code, reason = CLOSE_POLICY, (reason or "not this protocol")[:120]
        super().fail(code, reason)

    def send_close(self, code: int | None = None, reason: str = "") -> None:
        if code in _BAD_DATA:
            code, reason = CLOSE_POLICY, "the frame is not UTF-8"
        super().send_close(code, reason)


class _WebSocket(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket, that stays a moment after closing so that the peer reads why."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _StrictProtocol(
            max_size=self.config.ws_max_size, logger=logging.getLogger("uvicorn.error")
        )

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            # An answer instead of an upgrade completes the handshake too, which uvicorn forgets: it
            # would log an error for each.
            self.handshake_complete = True

    def data_received(self, data: bytes) -> None:
        if self.conn.parser_exc is None:
            super().data_received(data)

    def handle_parser_exception(self) -> None:
        close = self.conn.close_sent
        self.queue.put_nowait(
            {
                "type": "websocket.disconnect",
                "code": close.code if close else 1006,
                "reason": close.reason if close else "",
            }
        )
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER_S, self.transport.close)
