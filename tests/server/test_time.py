"""What the clock does to open streams and sockets, with a clock that moves when it is told to."""

import asyncio
import gc
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from gridx.clock import Clock, ManualClock, SystemClock
from gridx.coordinator.grid import initialise, issue_local_token
from gridx.domain.errors import Unavailable
from gridx.protocol import frames
from gridx.protocol.frames import SUBPROTOCOL, Codec
from gridx.server.app import Serving, serving
from gridx.server.lifetime import Room
from gridx.server.policy import policy_of
from gridx.server.streams import KEEP_ALIVE_S, TOKEN_CHECK_S
from tests.server.running import PASSWORD, settings_for
from tests.server.socket_worker import hello

CODEC = Codec(SUBPROTOCOL)
WORKERS = 10


@dataclass
class Served:
    """A coordinator in this test's own loop, and its administrator's client."""

    it: Serving
    client: httpx2.AsyncClient
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[AsyncIterator[str]]:
        """The lines of the stream of all events."""
        async with self.client.stream("GET", "/events", headers=self.headers) as answer:
            assert answer.status_code == 200
            lines = answer.aiter_lines()
            assert await anext(lines) == "retry: 2000"
            assert await anext(lines) == ""
            yield lines

    @asynccontextmanager
    async def socket(
        self, token: str | None = None
    ) -> AsyncGenerator[tuple[ClientConnection, frames.Welcome]]:
        """A worker's connection that has been welcomed."""
        async with connect(
            self.it.url.replace("http", "ws") + "/ws/worker",
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers={"Authorization": f"Bearer {token or self.token}"},
            proxy=None,
        ) as socket:
            await socket.send(CODEC.encode(hello()))
            welcome = CODEC.from_coordinator(await socket.recv())
            assert isinstance(welcome, frames.Welcome)
            yield socket, welcome


@asynccontextmanager
async def served(folder: Path, clock: Clock) -> AsyncGenerator[Served]:
    # One reader, because each opens its files only when it is first needed.
    flags = {"leases.lease_s": 10**9, "storage.readers": 1}
    settings = settings_for(f"sqlite:///{folder / 'grid.db'}", flags)
    await initialise(policy_of(settings), clock, "admin", PASSWORD)
    async with (
        serving(settings, clock) as it,
        httpx2.AsyncClient(base_url=it.url, timeout=20) as client,
    ):
        yield Served(it, client, await issue_local_token(it.grid, "admin"))


async def test_a_quiet_stream_says_now_and_then_that_it_lives(tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path, clock) as it, it.events() as lines:
        for _ in range(3):
            line = asyncio.Task(next_of(lines))
            while not line.done():
                clock.advance(KEEP_ALIVE_S)
                await asyncio.wait({line}, timeout=0.05)
            assert await line == ": keep-alive"
            assert await anext(lines) == ""


async def test_streams_and_sockets_end_soon_after_their_token_expires(tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path, clock) as it, it.events() as lines, it.socket() as (socket, _):
        clock.advance(31 * 86_400)
        moved = TOKEN_CHECK_S
        rest = asyncio.Task(read_all(lines))
        while not rest.done() and moved < 10:
            moved += 0.5
            clock.advance(0.5)
            await asyncio.wait({rest}, timeout=0.05)
        async with asyncio.timeout(20):  # from here on the clock stands still
            await rest
        last = CODEC.from_coordinator(await socket.recv())
        assert isinstance(last, frames.Disconnect)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        answer = await it.client.get("/jobs", headers=it.headers)
        assert answer.status_code == 401


async def test_the_stream_of_all_events_misses_nothing_behind_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the store is slow: what it begins behind is known before its answer begins."""
    monkeypatch.setattr("gridx.server.streams.FIRST_ITEM_S", 0)
    async with served(tmp_path, ManualClock()) as it, AsyncExitStack() as stack:
        await submit(it)  # the token is known from here on
        slow, goes_on = threading.Event(), threading.Event()

        def hold_up(_: object) -> None:
            slow.set()
            assert goes_on.wait(20)

        reading = asyncio.ensure_future(it.it.grid._database.read(hold_up))
        await asyncio.to_thread(slow.wait, 20)
        opening = asyncio.Task(stack.enter_async_context(it.events()))
        for _ in range(20):
            await it.client.get("/nothing")
        begun = opening.done()
        early = await submit(it)
        goes_on.set()
        await reading
        lines = await opening
        late = await submit(it)
        async with asyncio.timeout(20):
            while not (line := await anext(lines)).startswith("data: "):
                pass
        assert json.loads(line.removeprefix("data: "))["job_id"] == (early if begun else late)


async def submit(it: Served) -> str:
    answer = await it.client.post("/jobs", json={"code": "1"}, headers=it.headers)
    assert answer.status_code == 201, answer.text
    return answer.json()["job_id"]


async def next_of(lines: AsyncIterator[str]) -> str:
    return await anext(lines)


async def read_all(lines: AsyncIterator[str]) -> list[str]:
    return [line async for line in lines]


async def test_a_socket_that_says_nothing_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridx.server.worker_socket.HELLO_S", 0.05)
    async with (
        served(tmp_path, SystemClock()) as it,
        connect(
            it.it.url.replace("http", "ws") + "/ws/worker",
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=it.headers,
            proxy=None,
        ) as socket,
    ):
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "no hello within 0.05 s")


async def test_a_thousand_reconnects_and_many_streams_leave_nothing_behind(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, SystemClock()) as it:
        tokens = [await enrol(it) for _ in range(WORKERS)]
        await all_come_and_go(it, tokens, 5)
        before = await settled(it)
        await all_come_and_go(it, tokens, 1_000 // WORKERS)
        assert await settled(it) == before


async def enrol(it: Served) -> str:
    async with it.socket() as (_, welcome):
        assert welcome.worker_token is not None
        return welcome.worker_token


async def all_come_and_go(it: Served, tokens: list[str], times: int) -> None:
    async with asyncio.TaskGroup() as group:
        for token in tokens:
            group.create_task(come_and_go(it, token, times))


async def come_and_go(it: Served, token: str, times: int) -> None:
    for number in range(times):
        async with it.socket(token) as (socket, _):
            if number % 3 == 0:
                await socket.send(b"nonsense")
            if number % 5 == 0:
                async with it.events():
                    pass


async def settled(it: Served) -> tuple[int, int]:
    """Tasks and open files, once every connection is gone."""
    await it.it.parts.sockets.none_taken()
    await it.it.parts.streams.none_taken()
    process = psutil.Process()
    seen: list[tuple[int, int]] = []
    # Sockets are closed a few turns of the loop after their last byte.
    async with asyncio.timeout(20):
        while len(seen) < 5 or len(set(seen[-5:])) > 1:
            gc.collect()
            await it.client.get("/health")
            seen.append((len(asyncio.all_tasks()), process.num_fds()))
    return seen[-1]


def test_bodies_share_a_room() -> None:
    room = Room(100)
    with room.share() as one:
        one(60)
        with room.share() as other:
            other(40)
            with pytest.raises(Unavailable):
                other(1)
        assert room.taken_bytes == 60
        one(40)
    assert room.taken_bytes == 0


async def test_the_collector_is_as_it_was_after_serving(tmp_path: Path) -> None:
    thresholds = gc.get_threshold()
    async with served(tmp_path, SystemClock()):
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == thresholds
