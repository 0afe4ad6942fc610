"""What a death costs: how soon others go on with the jobs of a worker, and a coordinator with all."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from benchmarks.figures import Figure, percentile
from benchmarks.grids import PASSWORD, Grid, coordinator, killed_and_started, log_in
from benchmarks.hands import Hand, hand
from benchmarks.wire import Wire
from gridx.protocol.frames import Assign, Leaving, WireResources

TITLE = "Deaths"
HOW = (
    "Workers over real WebSockets, a coordinator on SQLite with a heartbeat of 10 s and a lease of "
    "30 s. Twenty workers with ten running attempts each vanish without a word while twenty others "
    "have room: seconds from then until each attempt's successor is on another worker. The same "
    "with workers that say they leave. Last, with 100,000 jobs queued the coordinator is killed "
    "with -9 and started again: seconds from its start until a worker that knocks all the time "
    "holds a job."
)
PAIRS = 20
EACH = 10
LEASE_S = 30.0
QUEUED = 100_000
BATCH = 5_000
ROOM = WireResources(cpus=float(EACH), memory_mb=65_536, gpus=0, disk_mb=65_536)


async def measure() -> Sequence[Figure]:
    """Seconds of takeover after a death, after a leaving, and after the coordinator's own."""
    async with coordinator() as grid:
        died = await _takeover(grid, announced=False)
        left = await _takeover(grid, announced=True)
    back = await _back_to_work()
    bar = LEASE_S + 2
    died_p99, left_p99 = percentile(died, 0.99), percentile(left, 0.99)
    count = f"{len(died)} attempts"
    return [
        Figure(f"takeover after a death, p99 of {count}", f"{died_p99:.1f} s", f"≤ {bar:g} s",
               died_p99 <= bar),
        Figure(f"takeover after a leaving, p99 of {count}", f"{left_p99:.2f} s", "≤ 1 s",
               left_p99 <= 1.0),
        Figure(f"dispatching again with {QUEUED:,} jobs queued", f"{back:.2f} s", "≤ 5 s",
               back <= 5.0),
    ]  # fmt: skip


async def _takeover(grid: Grid, *, announced: bool) -> list[float]:
    """For each attempt, seconds from its worker's end to its job's arrival elsewhere."""
    owner = "leaver" if announced else "dier"
    async with Wire(grid.port) as wire:
        await wire.ask("POST", "/users", {"user_id": owner, "password": PASSWORD})
    token = await log_in(grid.port, owner)
    arrived: dict[str, float] = {}
    everything = asyncio.Event()
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        going = [
            await stack.enter_async_context(hand(grid.port, token, f"going-{n}", ROOM))
            for n in range(PAIRS)
        ]
        held = asyncio.Event()
        tasks = [group.create_task(_hold(each, going, held)) for each in going]
        async with Wire(grid.port, grid.token) as wire:
            await wire.ask("POST", "/jobs/batch", {"jobs": [{"code": "1"}] * (PAIRS * EACH)})
        await held.wait()
        staying = [
            await stack.enter_async_context(hand(grid.port, token, f"staying-{n}", ROOM))
            for n in range(PAIRS)
        ]
        tasks += [group.create_task(_note(each, arrived, everything)) for each in staying]
        tasks += [group.create_task(each.beat()) for each in staying]
        began = time.monotonic()
        for each in going:
            if announced:
                await each.send(Leaving())
            else:
                each.vanish()
        await everything.wait()
        for task in tasks:
            task.cancel()
    return [at - began for at in arrived.values()]


async def _hold(worker: Hand, all_: Sequence[Hand], held: asyncio.Event) -> None:
    """Start whatever comes; `held` once all workers together hold all attempts."""
    async for frame in worker.frames():
        if isinstance(frame, Assign):
            for attempt in frame.attempts:
                await worker.start(attempt)
            if sum(len(each.assigned) for each in all_) == PAIRS * EACH:
                held.set()


async def _note(worker: Hand, arrived: dict[str, float], everything: asyncio.Event) -> None:
    """Note when jobs come, and finish them."""
    async for frame in worker.frames():
        for attempt in frame.attempts if isinstance(frame, Assign) else ():
            arrived[attempt.job_id] = time.monotonic()
            await worker.start(attempt)
            await worker.finish(attempt)
        if len(arrived) == PAIRS * EACH:
            everything.set()


async def _back_to_work() -> float:
    """Seconds from the start of a coordinator that was killed until a worker holds a job."""
    async with coordinator() as grid:
        async with Wire(grid.port, grid.token) as wire:
            for _ in range(QUEUED // BATCH):
                await wire.ask("POST", "/jobs/batch", {"jobs": [{"code": "1"}] * BATCH})
        async with killed_and_started(grid) as began:
            while not await _given_work(grid):
                continue
            return time.monotonic() - began


async def _given_work(grid: Grid) -> bool:
    """Whether a worker that comes now is let in, and then is given a job."""
    try:
        async with hand(grid.port, grid.token, "knocking", ROOM) as worker:
            async for frame in worker.frames():
                if isinstance(frame, Assign):
                    return True
    except OSError:
        await asyncio.sleep(0.02)
    return False
