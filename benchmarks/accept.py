"""Accepting jobs: durable submissions a second, one by one from 32 clients and by batch."""

import asyncio
import time
from collections.abc import Sequence

from benchmarks.figures import Figure
from benchmarks.grids import Grid, coordinator, durable_postgres
from benchmarks.wire import Wire

TITLE = "Accepting jobs"
HOW = (
    "32 clients on keep-alive connections submit `print(1)`, each waiting for its 201 before the "
    "next; then one client submits batches of 1,000. Every answer comes after the commit was "
    "flushed to disk. The load generator shares the machine's two cores with the server."
)
CLIENTS = 32
SINGLE = 8_000
BATCH = 1_000
BATCHES = 20
SPEC = {"code": "print(1)"}


async def measure() -> Sequence[Figure]:
    """Figures on SQLite, then on PostgreSQL."""
    async with coordinator() as grid:
        single, batch = await _single(grid), await _batch(grid)
    with durable_postgres() as url:
        async with coordinator(url) as grid:
            pg_single, pg_batch = await _single(grid), await _batch(grid)
    return [
        _figure("single submissions on SQLite", single, 1_000),
        _figure("jobs by batch on SQLite", batch, 8_000),
        _figure("single submissions on PostgreSQL", pg_single, 500),
        _figure("jobs by batch on PostgreSQL", pg_batch, 4_000),
    ]


def _figure(what: str, rate: float, bar: int) -> Figure:
    return Figure(what, f"{rate:,.0f}/s", f"≥ {bar:,}/s", rate >= bar)


async def _single(grid: Grid) -> float:
    async def client() -> None:
        async with Wire(grid.port, grid.token) as wire:
            request = wire.prepare("POST", "/jobs", SPEC)
            for _ in range(SINGLE // CLIENTS):
                status, body = await wire.send(request)
                assert status == 201, body

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return SINGLE / (time.perf_counter() - began)


async def _batch(grid: Grid) -> float:
    async with Wire(grid.port, grid.token) as wire:
        request = wire.prepare("POST", "/jobs/batch", {"jobs": [SPEC] * BATCH})
        began = time.perf_counter()
        for _ in range(BATCHES):
            status, body = await wire.send(request)
            assert status == 201, body
    return BATCH * BATCHES / (time.perf_counter() - began)
