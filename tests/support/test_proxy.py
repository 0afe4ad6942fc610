"""The proxy breaks connections in the ways it names, and heals them again."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from tests.support.processes import free_port
from tests.support.proxy import CHUNK_BYTES, Proxy, proxy_to


@asynccontextmanager
async def echo_behind_proxy() -> AsyncGenerator[Proxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, proxy_to(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


@dataclass
class Peer:
    """A client of the echo server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def echo(self, text: bytes) -> bytes:
        self.writer.write(text)
        return await self.reader.readexactly(len(text))


@asynccontextmanager
async def peer_of(proxy: Proxy) -> AsyncGenerator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_forwards_in_order_and_hands_on_the_end() -> None:
    async with echo_behind_proxy() as proxy, peer_of(proxy) as peer:
        megabyte = bytes(range(256)) * 4096
        assert await peer.echo(megabyte) == megabyte
        peer.writer.write_eof()
        assert await peer.reader.read() == b""
        await proxy.wait_for_connections(0)


async def test_delays_without_losing_throughput() -> None:
    async with echo_behind_proxy() as proxy, peer_of(proxy) as peer:
        proxy.delay_s = 0.2
        started = asyncio.get_running_loop().time()
        content = b"x" * 10_000_000
        assert await peer.echo(content) == content
        took_s = asyncio.get_running_loop().time() - started
        pieces = len(content) / CHUNK_BYTES
        assert 0.4 <= took_s < pieces * proxy.delay_s, "not so long for each piece"


async def test_frozen_keeps_the_connection_and_delivers_after_resume() -> None:
    async with echo_behind_proxy() as proxy, peer_of(proxy) as peer:
        assert await peer.echo(b"before") == b"before"
        proxy.freeze()
        peer.writer.write(b"during")
        await expect_silence(peer)
        proxy.resume()
        assert await peer.reader.readexactly(6) == b"during"


async def test_half_open_lets_one_direction_through() -> None:
    async with echo_behind_proxy() as proxy, peer_of(proxy) as peer:
        proxy.freeze(forth=False)
        peer.writer.write(b"only the answer is held")
        await expect_silence(peer)
        proxy.resume()
        assert await peer.reader.readexactly(23) == b"only the answer is held"


async def expect_silence(peer: Peer) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await peer.reader.read(1)


async def test_cut_resets_what_is_open_and_what_comes() -> None:
    async with echo_behind_proxy() as proxy:
        async with peer_of(proxy) as peer:
            assert await peer.echo(b"alive") == b"alive"
            await proxy.cut()
            assert proxy.connections == 0
            await expect_reset(peer)
        async with peer_of(proxy) as late:
            await expect_reset(late)
        proxy.resume()
        async with peer_of(proxy) as healed:
            assert await healed.echo(b"healed") == b"healed"


async def test_drop_welcomes_a_new_connection_at_once() -> None:
    async with echo_behind_proxy() as proxy, peer_of(proxy) as peer:
        assert await peer.echo(b"alive") == b"alive"
        await proxy.drop()
        await expect_reset(peer)
        async with peer_of(proxy) as again:
            assert await again.echo(b"again") == b"again"


async def test_resets_the_client_when_the_target_is_away() -> None:
    async with proxy_to(free_port()) as proxy, peer_of(proxy) as peer:
        await expect_reset(peer)


async def expect_reset(peer: Peer) -> None:
    with pytest.raises(ConnectionResetError):
        await peer.reader.readexactly(1)
