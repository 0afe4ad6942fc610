"""The network: connections that keep their order, and all that can happen to one.

A connection is two pipes. What is sent arrives later, in order; a stall delays all behind it; a cut
loses what is under way from some message on and is seen by the two ends at different times; a
half-open connection swallows everything until each end's pings tell it so; a process that is killed
leaves what it had sent under way, and its peer hears of its end behind that.
"""

import asyncio
import random
from collections import deque
from dataclasses import dataclass

from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import Close

from tests.simulation.virtual import Process, VirtualLoop

PING_S = 20.0
"""Either end gives up on a silent peer after at most two of these."""
TICK_S = 1e-6


@dataclass(slots=True)
class Weather:
    """How the network is at the moment, in seconds."""

    latency_s: float = 0.002
    jitter_s: float = 0.01


class Network:
    """All connections that are open, and the weather."""

    def __init__(self, loop: VirtualLoop, draws: random.Random) -> None:
        self.loop = loop
        self.draws = draws
        self.weather = Weather()
        self.connections: dict[Connection, None] = {}

    def latency_s(self) -> float:
        return self.weather.latency_s + self.draws.random() * self.weather.jitter_s

    def connect(self, here: Process, there: Process) -> "Connection":
        """A new connection between two processes."""
        connection = Connection(self, here, there)
        self.connections[connection] = None
        return connection

    def died(self, process: Process) -> None:
        """The kernel of a killed process ends its connections."""
        for connection in list(self.connections):
            for end in connection.ends:
                if end.process is process:
                    end.hang_up()


class Connection:
    """Two ends, each with the pipe that leads to it."""

    def __init__(self, network: Network, here: Process, there: Process) -> None:
        self.network = network
        self.here = End(self, here)
        self.there = End(self, there)
        self.ends = (self.here, self.there)
        self.here.peer, self.there.peer = self.there, self.here
        self.hole = False

    def stall(self, seconds: float) -> None:
        """Nothing arrives for a while, then all of it."""
        for end in self.ends:
            end.arrives_at = max(end.arrives_at, self.network.loop.time() + seconds)

    def cut(self) -> None:
        """The connection breaks: what arrives from now on is lost, and both ends learn of it."""
        draws = self.network.draws
        for end in self.ends:
            end.lose_after(self.network.loop.time() + draws.random() * 0.02)
            self.network.loop.later(draws.uniform(0.0, 5.0), end.closed, None)

    def go_dark(self) -> None:
        """Half-open: nothing arrives any more, and neither end is told before its pings fail."""
        self.hole = True
        draws = self.network.draws
        for end in self.ends:
            end.lose_after(self.network.loop.time())
            self.network.loop.later(draws.uniform(1.0, 2 * PING_S), end.closed, None)


class End:
    """One end of a connection, as a socket: also what the worker's engine is given as its own."""

    peer: "End"

    def __init__(self, connection: Connection, process: Process) -> None:
        self.process = process
        self.arrives_at = 0.0
        self._connection = connection
        self._network = connection.network
        self._inbox: deque[bytes] = deque()
        self._lost_from = float("inf")
        self._over: ConnectionClosed | None = None
        self._came = asyncio.Event()
        self._hung_up = False

    @property
    def open(self) -> bool:
        return self._over is None

    async def send(self, data: bytes) -> None:
        """Send one message. Raises `ConnectionClosed`."""
        if self._over is not None:
            raise self._over
        self.peer.travel(data)
        if self._network.draws.random() < 0.02:
            await self._full_buffer()

    async def _full_buffer(self) -> None:
        done: asyncio.Future[None] = self._network.loop.create_future()
        self._network.loop.later(self._network.latency_s(), _done, done)
        await done

    async def recv(self) -> bytes:
        """The next message. Raises `ConnectionClosed` when there is none any more."""
        while not self._inbox:
            if self._over is not None:
                raise self._over
            self._came.clear()
            await self._came.wait()
        return self._inbox.popleft()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close this end; the other hears of it behind all that was sent."""
        self.hang_up(Close(code, reason))

    def hang_up(self, why: Close | None = None) -> None:
        """The socket is closed, by its program or by the kernel after the program's death."""
        if self._over is None:
            self._over = ConnectionClosedError(None, why)
            self._came.set()
        if not self._hung_up:
            self._hung_up = True
            self.peer.travel(why or Close(1006, ""))

    # -------------------------------------------------------------- what the network does

    def travel(self, what: bytes | Close) -> None:
        """Something is under way to this end."""
        now = self._network.loop.time()
        # A little later than the one before: the loop does not order what is due at one time.
        self.arrives_at = max(self.arrives_at + TICK_S, now + self._network.latency_s())
        if self.arrives_at <= self._lost_from and not self._connection.hole:
            delay_s = self.arrives_at - now
            self._network.loop.later(delay_s, self._arrive, what, self.arrives_at)

    def lose_after(self, at: float) -> None:
        """What arrives later than that does not."""
        self._lost_from = min(self._lost_from, at)

    def _arrive(self, what: bytes | Close, at: float) -> None:
        if at > self._lost_from or self._over is not None:
            return
        if isinstance(what, Close):
            self.closed(what)
        else:
            self._inbox.append(what)
            self._came.set()

    def closed(self, why: Close | None) -> None:
        """The other end is gone, as far as anybody can tell."""
        if self._over is None:
            self._over = ConnectionClosedError(why, None)
            self._came.set()
        if not self._hung_up:
            self._hung_up = True
            self.peer.travel(Close(1006, ""))
        if not self.peer.open:
            self._network.connections.pop(self._connection, None)


def _done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
