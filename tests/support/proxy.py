"""A TCP proxy that breaks a network on purpose, between two programs that know nothing of it.

It runs in the test's event loop. Faults act on the connections that are open and on those to come:

    forward   bytes pass, `delay_s` later if that is set
    frozen    connections stay open and nothing arrives: a cable pulled, a peer gone half-open.
              What was sent meanwhile arrives after `resume`, as TCP would send it again.
    cut       every connection is reset, and every new one as soon as it is made
"""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

CHUNK_BYTES = 65536
CHUNKS_UNDERWAY_MAX = 64


class Proxy:
    """Forwards one loopback port to another, until told otherwise."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self.delay_s = 0.0
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Condition()
        self._is_cut = False
        # Set while bytes may pass: towards the target, and back from it.
        self._forth = asyncio.Event()
        self._back = asyncio.Event()
        self.resume()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        """Reset every connection and stop listening."""
        assert self._server is not None
        self._server.close()
        await self.drop()

    def freeze(self, *, forth: bool = True, back: bool = True) -> None:
        """Let nothing through towards the target (`forth`), from it (`back`), or both."""
        if forth:
            self._forth.clear()
        if back:
            self._back.clear()

    def strand(self) -> None:
        """Let nothing more through on what is open, for ever; new connections are well."""
        self.freeze()
        self._forth, self._back = asyncio.Event(), asyncio.Event()
        self.resume()

    def resume(self) -> None:
        """Undo `freeze` and `cut`."""
        self._is_cut = False
        self._forth.set()
        self._back.set()

    async def cut(self) -> None:
        """Reset what is open and what comes, until `resume`."""
        self._is_cut = True
        await self.drop()

    async def drop(self) -> None:
        """Reset what is open; a new connection is welcome at once."""
        for writer in self._writers:
            _reset(writer)
        links = tuple(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def wait_for_connections(self, count: int, timeout_s: float = 30) -> None:
        """Wait until exactly `count` connections are open."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: self.connections == count)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            _reset(writer)
            return
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        self._writers.add(writer)
        await self._notify()
        try:
            await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            _reset(writer)  # a program sees its peer's trouble, not an orderly end
        finally:
            writer.close()
            self._writers.discard(writer)
            self._links.discard(link)
            await self._notify()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers.add(far_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, self._forth))
                group.create_task(self._pump(far_reader, writer, self._back))
        except* OSError as failures:
            raise ConnectionError("one side went away") from failures
        finally:
            self._writers.discard(far_writer)
            far_writer.close()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, may_pass: asyncio.Event
    ) -> None:
        """Carry bytes one way until the source ends, and hand its end on."""
        underway = asyncio.Queue[tuple[float, bytes]](CHUNKS_UNDERWAY_MAX)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver(underway, sink, may_pass))
            chunk = b"-"
            while chunk:
                chunk = await source.read(CHUNK_BYTES)
                due = asyncio.get_running_loop().time() + self.delay_s
                await underway.put((due, chunk))

    async def _deliver(
        self,
        underway: asyncio.Queue[tuple[float, bytes]],
        sink: asyncio.StreamWriter,
        may_pass: asyncio.Event,
    ) -> None:
        while True:
            due, chunk = await underway.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            await may_pass.wait()
            if not chunk:
                break
            sink.write(chunk)
            await sink.drain()
        with suppress(OSError):
            sink.write_eof()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def proxy_to(port: int, host: str = "127.0.0.1") -> AsyncGenerator[Proxy]:
    """A proxy in front of `host:port` for the length of an `async with` block."""
    proxy = Proxy(host, port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset instead of an orderly end."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
