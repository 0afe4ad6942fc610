"""Start and idle: how soon `gridx up` serves, and what the programs hold while nothing happens."""

import asyncio
import threading
from collections.abc import Sequence

import psutil

from benchmarks.figures import Figure, percentile
from benchmarks.grids import resident_mb, up

TITLE = "Start and idle"
HOW = (
    "`gridx up --slots 2` in a new folder, from the start of the process to the line that says it "
    "is ready with its worker accepted (median of 5), then proportional resident memory after 5 s "
    "of idleness."
)
ROUNDS = 5
SETTLE_S = 5.0


async def measure() -> Sequence[Figure]:
    """Seconds to ready, and memory of coordinator and worker."""
    return await asyncio.to_thread(_measure)


def _measure() -> Sequence[Figure]:
    ready: list[float] = []
    coordinator = worker = 0.0
    for number in range(ROUNDS):
        with up(slots=2) as (process, _port, seconds):
            ready.append(seconds)
            if number == ROUNDS - 1:
                threading.Event().wait(SETTLE_S)
                coordinator = resident_mb(process.pid)
                (agent,) = psutil.Process(process.pid).children()
                wardens = [each for each in agent.children() if each.name() == "gridx-warden"]
                worker = sum(resident_mb(each.pid) for each in (agent, *wardens))
    p50 = percentile(ready, 0.5)
    return [
        Figure("`gridx up` ready", f"{p50:.2f} s", "≤ 2 s", p50 <= 2.0),
        Figure("idle coordinator", f"{coordinator:.0f} MB", "≤ 120 MB", coordinator <= 120),
        Figure("idle worker", f"{worker:.0f} MB", "≤ 70 MB", worker <= 70),
    ]
