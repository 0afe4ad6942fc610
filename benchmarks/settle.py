"""The coordinator alone: from submitted to settled, with workers that finish at once."""

import asyncio
import os
import time
from collections.abc import Sequence

from benchmarks.figures import Figure
from benchmarks.grids import PASSWORD, Grid, coordinator, log_in
from benchmarks.hands import hand
from benchmarks.wire import Wire
from gridx.protocol.frames import Ack, Assign, WireResources

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
    async with hand(port, token, f"bench-{number}", ROOM) as worker:
        async for frame in worker.frames():
            if isinstance(frame, Assign):
                for attempt in frame.attempts:
                    await worker.start(attempt)
                    await worker.finish(attempt)
            elif isinstance(frame, Ack):
                settled.one()
