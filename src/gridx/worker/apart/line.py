"""The line between agent and warden: messages behind their length, on a pair of stream sockets."""

import asyncio
import socket
from struct import Struct

from gridx.worker.apart.messages import Message, encode

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
UNREAD_BYTES_MAX = 512 * 1024 * 1024
"""With so much that the other side does not read, it is held for stuck and cut off."""
_HEAD = Struct("<I")


class Line:
    """One end, used by one loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Line":
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, message: Message) -> None:
        """Have it sent; never waits. What cannot be encoded raises `ValueError`."""
        body = encode(message)
        if len(body) > MESSAGE_BYTES_MAX:
            raise ValueError("too large a message for the sandbox's warden")
        self._writer.write(_HEAD.pack(len(body)) + body)
        if self._writer.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self._writer.transport.abort()

    async def receive(self) -> bytes | None:
        """The next message; None once the other side says no more, whatever became of it."""
        try:
            (size,) = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            if size > MESSAGE_BYTES_MAX:
                return None
            return await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            return None

    async def flush(self) -> None:
        """Wait until most of what was sent has left."""
        try:
            await self._writer.drain()
        except OSError:
            return  # the other side is gone, which `receive` says

    def end(self) -> None:
        """Say no more; the other side may go on."""
        if not self._writer.transport.is_closing():
            self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()
