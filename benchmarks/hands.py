"""Workers without a sandbox: they speak the real protocol over a real WebSocket."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gridx.protocol.frames import (
    Ack,
    Assign,
    Assignment,
    Codec,
    Drop,
    Finished,
    Frame,
    Heartbeat,
    Hello,
    LeaseRef,
    Started,
    TakeBack,
    Welcome,
    WireCapabilities,
    WireResources,
    WireUsage,
)

HEARTBEAT_S = 5.0


class Hand:
    """One connection that was welcomed; `assigned` are the attempts it holds, by lease."""

    def __init__(self, socket: ClientConnection, codec: Codec, offer: WireCapabilities) -> None:
        self.assigned: dict[str, Assignment] = {}
        self._socket = socket
        self._codec = codec
        self._offer = offer

    async def frames(self) -> AsyncIterator[Frame]:
        """What comes from the coordinator, until it is gone."""
        with suppress(ConnectionClosed):
            async for message in self._socket:
                frame = self._codec.from_coordinator(message)
                match frame:
                    case Assign(attempts):
                        self.assigned |= {each.lease: each for each in attempts}
                    case Ack() | Drop() | TakeBack():
                        self.assigned.pop(frame.lease, None)
                    case _:
                        pass
                yield frame

    async def send(self, frame: Frame) -> None:
        await self._socket.send(self._codec.encode(frame))

    async def start(self, a: Assignment) -> None:
        await self.send(Started(a.job_id, a.attempt, a.lease, "bubblewrap"))

    async def finish(self, a: Assignment) -> None:
        usage = WireUsage(wall_s=0.001, cpu_s=0.001, peak_memory_mb=8.0)
        await self.send(Finished(a.job_id, a.attempt, a.lease, exit_code=0, usage=usage))

    async def beat(self) -> None:
        """Give signs of life until cancelled."""
        while True:
            running = [LeaseRef(a.job_id, a.attempt, a.lease) for a in self.assigned.values()]
            await self.send(Heartbeat(free=self._offer.resources, running=running))
            await asyncio.sleep(HEARTBEAT_S)

    def vanish(self) -> None:
        """Go without a word, as a killed process does."""
        self._socket.transport.abort()


@asynccontextmanager
async def hand(port: int, token: str, name: str, room: WireResources) -> AsyncGenerator[Hand]:
    """A worker for the length of the block, welcome when it begins."""
    codec = Codec("gridx.v1")
    offer = WireCapabilities(
        resources=room, languages=["python"], sandboxes=["bubblewrap"], os="linux", arch="x86_64"
    )
    async with connect(
        f"ws://127.0.0.1:{port}/ws/worker",
        subprotocols=["gridx.v1"],  # pyright: ignore[reportArgumentType]
        additional_headers={"Authorization": f"Bearer {token}"},
        max_size=None,
        compression=None,
        proxy=None,
    ) as socket:
        await socket.send(codec.encode(Hello(name=name, version="bench", capabilities=offer)))
        welcome = codec.from_coordinator(await socket.recv())
        assert isinstance(welcome, Welcome), welcome
        worker = Hand(socket, codec, offer)
        await worker.send(Heartbeat(free=room))
        yield worker
