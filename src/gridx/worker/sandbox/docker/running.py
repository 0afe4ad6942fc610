"""One attempt while it runs in its container: starts the program, ends it when it must be ended.

Whoever stops the attempt first gives its reason; TERM comes first where the job may end in order,
KILL follows. The end comes from the engine's events, what the kernel counted is read before the
container goes.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import aiohttp

from gridx.clock import Clock
from gridx.domain.attempt import Reason
from gridx.domain.errors import Unavailable
from gridx.worker.sandbox.base import GRACE_S, Emit, Limits, Program, Stream
from gridx.worker.sandbox.cgroups.groups import Counters
from gridx.worker.sandbox.docker import recipe
from gridx.worker.sandbox.docker.container import Container, Started
from gridx.worker.sandbox.ending import Seen, Stopwatch
from gridx.worker.sandbox.outputs import Bound

_LOOK_S = 0.01
_LAST_OUTPUT_S = 10.0
_LATE_END_S = 2.0
_IN_ORDER = (Reason.CANCELLED, Reason.TIMEOUT)
_KILLED = 137
_BY_ENGINES = {_KILLED, 143}
"""As programs end that get the signals of an engine that stops."""
_STDIN_FILE = "/tmp/.stdin"
_STREAMS = {1: Stream.STDOUT, 2: Stream.STDERR}


class Running:
    """One program in one container."""

    def __init__(self, container: Container, limits: Limits, emit: Emit, clock: Clock) -> None:
        self._loop = asyncio.get_running_loop()
        self._container = container
        self._account = container.account
        self._limits = limits
        self._clock = clock
        self._bound = Bound(limits.output_bytes, emit, lambda: self._stop(Reason.OUTPUT_LIMIT))
        self._stopped: asyncio.Future[Reason] = self._loop.create_future()
        self._watch = Stopwatch(clock)
        self._given_up: asyncio.Future[str] = self._loop.create_future()
        self._timers: list[asyncio.TimerHandle] = []
        self._disk_was_full = False

    async def run(self, program: Program, cancel: asyncio.Event) -> Seen:
        """Run `program` to its end; returns once no process of it is left."""
        started = await self._start(program)
        try:
            self._account.begin(recipe.allowance(self._container.shape))
            self._watch.start()
            await started.stream.write_in(b"\n")
            self._after(self._limits.timeout_s, lambda: self._stop(Reason.TIMEOUT))
            self._look()
            async with asyncio.TaskGroup() as tasks:
                output = tasks.create_task(self._read(started))
                endings = [
                    tasks.create_task(self._stop_when(cancel)),
                    tasks.create_task(self._end_when_stopped()),
                ]
                failure, exit_code = await self._end_of(started)
                wall_s = self._watch.stop()
                for each in endings:
                    each.cancel()
                counters = await self._counters()
                self._look_at_disk()
                with suppress(Unavailable):
                    await self._container.kill()
                await asyncio.wait({output}, timeout=_LAST_OUTPUT_S)
                output.cancel()
        finally:
            for each in self._timers:
                each.cancel()
        return Seen(
            exit_code=exit_code,
            stopped=self._stopped.result() if self._stopped.done() else None,
            failure=failure,
            disk_was_full=self._disk_was_full,
            counters=counters,
            wall_s=wall_s,
        )

    async def _start(self, program: Program) -> Started:
        container, stdin_file = self._container, "/dev/null"
        code = program.code.encode("utf-8", "surrogatepass")
        await container.put(recipe.code_file(program.language), code)
        if program.stdin:
            stdin_file = _STDIN_FILE
            await container.put(stdin_file, program.stdin.encode("utf-8", "surrogatepass"))
        env = recipe.environment(container.shape.image, dict(program.env))
        return await container.start(
            recipe.command(program.language, program.args, env, stdin_file)
        )

    async def _end_of(self, started: Started) -> tuple[str, int]:
        """What of the sandbox failed, if it did, and the program's exit code."""
        lost = self._container.engine.lost
        ends = {started.ended, self._container.died, lost, self._given_up}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not started.ended.done() and self._container.died.done():
            # The keeper is gone, and the program with it: that was the job's doing, or ours.
            await asyncio.wait({started.ended, lost}, timeout=_LATE_END_S)
        elif started.ended.done() and not self._stopped.done():
            if started.ended.result() in _BY_ENGINES:
                # An engine that stops tells the end of a program before that of its container.
                await asyncio.wait({self._container.died, lost}, timeout=_LATE_END_S)
                if lost.done():
                    return lost.result(), 0
        if self._container.abandoned:
            return "it was closed", 0
        if self._container.was_ended_by_others:
            return "somebody else ended its container, as an engine does when it stops", 0
        if started.ended.done():
            return "", started.ended.result()
        for failure in (self._given_up, lost):
            if failure.done():
                return failure.result(), 0
        return "", _KILLED

    async def _read(self, started: Started) -> None:
        with suppress(OSError, AssertionError, aiohttp.ClientError):
            while (message := await started.stream.read_out()) is not None:
                if message.stream in _STREAMS:
                    self._bound.take(_STREAMS[message.stream], message.data)

    async def _stop_when(self, cancel: asyncio.Event) -> None:
        await cancel.wait()
        self._stop(Reason.CANCELLED)

    async def _end_when_stopped(self) -> None:
        """TERM and some grace where the job may end in order, then KILL."""
        if await asyncio.shield(self._stopped) in _IN_ORDER:
            with suppress(Unavailable):
                await self._container.terminate()
                await self._clock.sleep(GRACE_S)
        try:
            await self._container.kill()
        except Unavailable as failure:
            self._given_up.set_result(str(failure))

    async def _counters(self) -> Counters:
        if self._account.counts_memory:
            return self._account.counters()
        with suppress(Unavailable):
            identity = self._container.identity
            return Counters(oom_kills=int(await self._container.engine.ran_out_of_memory(identity)))
        return Counters()

    def _stop(self, reason: Reason) -> None:
        if not self._stopped.done():
            self._stopped.set_result(reason)
            if reason in _IN_ORDER:
                self._watch.stop()

    def _look(self) -> None:
        """Look at what leaves no counter (a disk that was full) or wakes nobody (memory)."""
        self._look_at_disk()
        if self._account.memory_exceeded():
            self._stop(Reason.OUT_OF_MEMORY)
        self._after(_LOOK_S, self._look)

    def _look_at_disk(self) -> None:
        self._disk_was_full = self._disk_was_full or self._account.disk_full()

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._timers = [each for each in self._timers if each.when() > self._loop.time()]
        self._timers.append(self._loop.call_later(seconds, action))
