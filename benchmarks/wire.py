"""A load generator's HTTP client: requests as prepared bytes on connections that stay open.

It parses no more of an answer than it must, so that one core of client drives one core of server.
"""

import asyncio
import json
from typing import Any


class Wire:
    """One connection that sends a request and reads its answer, again and again."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self._port = port
        self._token = token
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> "Wire":
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._port, limit=64 * 1024 * 1024
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._writer is not None
        self._writer.close()
        await self._writer.wait_closed()

    def prepare(self, method: str, path: str, body: Any = None) -> bytes:
        """The bytes of a request."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
        if self._token is not None:
            head += f"Authorization: Bearer {self._token}\r\n"
        return f"{head}Content-Type: application/json\r\n\r\n".encode() + data

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        assert self._reader is not None and self._writer is not None
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        at = head.lower().find(b"content-length:")
        assert at >= 0, f"an answer of unknown length: {head!r}"
        length = int(head[at + 15 : head.index(b"\r\n", at)])
        return status, await self._reader.readexactly(length)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The parsed answer of a request that succeeds."""
        status, answer = await self.send(self.prepare(method, path, body))
        assert status < 300, f"{method} {path}: {status} {answer[:500]!r}"
        return json.loads(answer)
