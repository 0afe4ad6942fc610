"""The coordinator alone: from submitted to settled, with workers that finish at once."""

import asyncio
import os
import time
from collections.abc import Sequence

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.figures import Figure
from benchmarks.grids import PASSWORD, Grid, coordinator, log_in
from benchmarks.wire import Wire
from gridx.protocol.frames import (
    Ack,
    Assign,
    Codec,
    Finished,
    Heartbeat,
    Hello,
    Started,
    Welcome,
    WireCapabilities,
    WireResources,
    WireUsage,
)

TITLE = "The coordinator alone"
HOW = (
    "Batches of 1,000 jobs are submitted while four simulated workers of another user speak the "
    "real protocol over real WebSockets and report each job started and finished at once; counted "
    "are jobs whose end was committed, charged and acknowledged. The coordinator has one core to "
    "itself, workers and clients the other."
)
JOBS = 16_000
BATCH = 1_000
WORKERS = 4
ROOM = WireResources(cpus=256.0, memory_mb=1_048_576, gpus=0, disk_mb=1_048_576)


async def measure() -> Sequence[Figure]:
    """Jobs a second on SQLite."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        async with coordinator(core=min(before)) as grid:
            rate = await _rate(grid)
    finally:
        os.sched_setaffinity(0, before)
    bar = 2_000
    return [
        Figure("submit to settled on SQLite", f"{rate:,.0f} jobs/s", f"≥ {bar:,}/s", rate >= bar)
    ]


async def _rate(grid: Grid) -> float:
    async with Wire(grid.port) as wire:
        await wire.ask("POST", "/users", {"user_id": "owner", "password": PASSWORD})
    token = await log_in(grid.port, "owner")
    settled = _Count(JOBS)
    async with asyncio.TaskGroup() as group:
        workers = [
            group.create_task(_worker(grid.port, token, number, settled))
            for number in range(WORKERS)
        ]
        began = time.perf_counter()
        async with Wire(grid.port, grid.token) as wire:
            request = wire.prepare("POST", "/jobs/batch", {"jobs": [{"code": "print(1)"}] * BATCH})
            for _ in range(JOBS // BATCH):
                status, body = await wire.send(request)
                assert status == 201, body
        await settled.reached.wait()
        elapsed = time.perf_counter() - began
        for worker in workers:
            worker.cancel()
    async with Wire(grid.port, grid.token) as wire:
        report = await wire.ask("GET", "/admin/ledger/verify")
        assert report["ok"], report
    return JOBS / elapsed


class _Count:
    def __init__(self, goal: int) -> None:
        self._left = goal
        self.reached = asyncio.Event()

    def one(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.reached.set()


async def _worker(port: int, token: str, number: int, settled: _Count) -> None:
    codec = Codec("gridx.v1")
    offer = WireCapabilities(
        resources=ROOM, languages=["python"], sandboxes=["bubblewrap"], os="linux", arch="x86_64"
    )
    async with connect(
        f"ws://127.0.0.1:{port}/ws/worker",
        subprotocols=["gridx.v1"],  # pyright: ignore[reportArgumentType]
        additional_headers={"Authorization": f"Bearer {token}"},
        max_size=None,
        compression=None,
    ) as socket:
        hello = Hello(name=f"bench-{number}", version="bench", capabilities=offer)
        await socket.send(codec.encode(hello))
        welcome = codec.from_coordinator(await socket.recv())
        assert isinstance(welcome, Welcome), welcome
        await socket.send(codec.encode(Heartbeat(free=ROOM)))
        async for message in socket:
            frame = codec.from_coordinator(message)
            if isinstance(frame, Assign):
                await _finish(socket, codec, frame)
            elif isinstance(frame, Ack):
                settled.one()


async def _finish(socket: ClientConnection, codec: Codec, frame: Assign) -> None:
    for a in frame.attempts:
        started = Started(job_id=a.job_id, attempt=a.attempt, lease=a.lease, sandbox="bubblewrap")
        await socket.send(codec.encode(started))
        finished = Finished(
            job_id=a.job_id, attempt=a.attempt, lease=a.lease, exit_code=0,
            usage=WireUsage(wall_s=0.001, cpu_s=0.001, peak_memory_mb=8.0),
        )  # fmt: skip
        await socket.send(codec.encode(finished))
