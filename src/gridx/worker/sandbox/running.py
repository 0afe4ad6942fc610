"""One attempt while it runs: starts the program in its cell, ends it when it must be ended.

Everything happens on the event loop: pipes and counters wake it, timers stop it. Whoever stops the
attempt first gives its reason; TERM comes first where the job may end in order, KILL follows.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gridx.clock import Clock
from gridx.domain.attempt import Reason
from gridx.worker.sandbox.base import GRACE_S, Emit, Limits, Program
from gridx.worker.sandbox.cell import Cell
from gridx.worker.sandbox.cgroups.groups import Counters, Group
from gridx.worker.sandbox.ending import Seen, Stopwatch
from gridx.worker.sandbox.inside import wire
from gridx.worker.sandbox.outputs import Outputs

_KILL_TAKES_S = 10.0
_LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class World:
    """What an attempt runs in; `group` is None on hosts without control groups.

    No two worlds have the same `slot` at the same time.
    """

    slot: int
    cell: Cell
    group: Group | None


class Running:
    """One program in one world."""

    def __init__(self, world: World, limits: Limits, emit: Emit, clock: Clock) -> None:
        self._loop = asyncio.get_running_loop()
        self._cell = world.cell
        self._group = world.group
        self._limits = limits
        self._outputs = Outputs(world.cell.pipes, limits.output_bytes, emit, self._too_much_output)
        self._timers: list[asyncio.TimerHandle] = []
        self._stopped: Reason | None = None
        self._watch = Stopwatch(clock)
        self._disk_was_full = False

    async def run(self, start: wire.Start, program: Program, cancel: asyncio.Event) -> Seen:
        """Run `program` to its end; returns once no process of it is left."""
        try:
            self._watch.start()
            self._cell.start(start, program)
            self._after(self._limits.timeout_s, self._out_of_time)
            self._after(_LOOK_S, self._look)
            async with asyncio.TaskGroup() as tasks:
                cancelled = tasks.create_task(self._stop_when(cancel))
                ended = await self._cell.ended
                cancelled.cancel()
            if ended.memory_exceeded and self._stopped is None:
                self._stopped = Reason.OUT_OF_MEMORY
            wall_s = self._watch.stop()
            self._outputs.finish()
            self._disk_was_full = self._disk_was_full or self._cell.disk_full()
            return Seen(
                exit_code=ended.exit_code,
                stopped=self._stopped,
                failure=ended.failure,
                disk_was_full=self._disk_was_full,
                counters=self._group.counters() if self._group is not None else Counters(),
                wall_s=wall_s,
                cpu_s=ended.cpu_s,
                peak_memory_bytes=ended.peak_memory_bytes,
            )
        finally:
            for each in self._timers:
                each.cancel()
            self._outputs.close()

    async def _stop_when(self, cancel: asyncio.Event) -> None:
        await cancel.wait()
        self._stop_in_order(Reason.CANCELLED)

    def _out_of_time(self) -> None:
        self._stop_in_order(Reason.TIMEOUT)

    def _too_much_output(self) -> None:
        self._stop_at_once(Reason.OUTPUT_LIMIT)

    def _stop_in_order(self, reason: Reason) -> None:
        if self._stopped is None and not self._cell.ended.done():
            self._stopped = reason
            self._watch.stop()
            self._cell.terminate()
            self._after(GRACE_S, self._kill)

    def _stop_at_once(self, reason: Reason) -> None:
        if self._stopped is None:
            self._stopped = reason
            self._kill()

    def _kill(self) -> None:
        self._cell.kill()
        self._after(_KILL_TAKES_S, self._cell.give_up)

    def _look(self) -> None:
        """Look at what leaves no counter (a disk that was full) or wakes nobody (memory)."""
        self._disk_was_full = self._disk_was_full or self._cell.disk_full()
        if self._group is not None and self._group.memory_exceeded(self._cell.disk_used):
            self._stop_at_once(Reason.OUT_OF_MEMORY)
        self._after(_LOOK_S, self._look)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._timers = [each for each in self._timers if each.when() > self._loop.time()]
        self._timers.append(self._loop.call_later(seconds, action))
