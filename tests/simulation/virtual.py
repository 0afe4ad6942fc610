"""Virtual time: an event loop that jumps to the next timer, and processes that stand still or die.

Theory of operation. Everything runs in one thread on one loop. When nothing is ready, the loop's time
jumps to the next timer, so that an hour takes as long as what happens in it. A process is a context
variable: every task, timer and callback carries the context it was made in, so the loop knows whose
it is. Halting a process holds back what is its own (SIGSTOP, a machine that stalls); killing it does
so for ever (SIGKILL): no `finally` runs, nothing more is written or sent. What the real programs do
in threads (the database, files) is run here at once, after one delay and before another: a process
killed before the first never did it, one killed before the second never heard of it.
"""

import asyncio
import heapq
import random
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, cast

from gridx.clock import MICROSECONDS, ManualClock

START = 1_800_000_000 * MICROSECONDS
UNWIND_ROUNDS_MAX = 50
T = TypeVar("T")


class Process:
    """One program of the simulated world, from its start to its death."""

    def __init__(self, loop: "VirtualLoop", name: str, lag_s: Callable[[], float]) -> None:
        """`lag_s` draws how long a piece of work off the loop waits, and its answer again."""
        self.name = name
        self.alive = True
        self.still = False
        self.held: list[asyncio.Handle] = []
        self.held_timers: list[asyncio.TimerHandle] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.lag_s = lag_s
        self.answers_at = 0.0
        self._loop = loop
        self._context = copy_context()
        self._context.run(CURRENT.set, self)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` as part of this process."""
        return self._loop.create_task(work, context=self._context)

    def halt(self) -> None:
        """Stand still: nothing of this process runs until `go_on`."""
        if not self.still:
            self.still = True
            self._loop.hold(self)

    def go_on(self) -> None:
        """Run again, with everything that was due in the meantime."""
        if self.alive and self.still:
            self.still = False
            self._loop.release(self)

    def kill(self) -> None:
        """Die at once."""
        self.halt()
        self.alive = False

    async def unwind(self) -> None:
        """Let the coroutines of a dead process come to their ends, without any effect."""
        assert not self.alive
        self.still = False
        self.held_timers.clear()
        self._loop.release(self)
        for _ in range(UNWIND_ROUNDS_MAX):
            left = [task for task in self.tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        # Whoever is left is told nothing; an exception nobody fetched is nobody's news.
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.exception()


CURRENT: ContextVar[Process] = ContextVar("CURRENT")
"""Whose code runs; unset for the world itself."""


class Stuck(Exception):
    """Nothing will ever happen again."""


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop without sockets whose time is what its timers say."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self
        self._time_s = 0.0
        self._offloading: Process | None = None
        self._nothing = asyncio.Handle(lambda: None, (), self)
        self._nothing.cancel()
        self.world = copy_context()
        """What belongs to no process: the network, the faults."""
        self.set_task_factory(_make_task)  # type: ignore[arg-type]
        self.set_exception_handler(lambda loop, context: None)

    def time(self) -> float:
        return self._time_s

    def select(self, timeout: float | None) -> Sequence[Any]:
        """What a selector does, for a loop without sockets: wait."""
        if timeout is None:
            raise Stuck
        self._time_s += timeout
        return ()

    def _process_events(self, event_list: Sequence[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody waits in `select`."""

    # -------------------------------------------------------------- whose is it

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        context = context or copy_context()
        process = context.get(CURRENT)
        if process is not None and process.still:
            handle = asyncio.Handle(callback, args, self, context)
            process.held.append(handle)
            return handle
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        context = context or copy_context()
        process = context.get(CURRENT)
        if process is not None and process.still:
            timer = asyncio.TimerHandle(when, callback, args, self, context)
            process.held_timers.append(timer)
            return timer
        return super().call_at(when, callback, *args, context=context)

    def later(self, delay_s: float, callback: Callable[..., Any], *args: Any) -> None:
        """Have the world do something, whoever asks."""
        super().call_at(self._time_s + delay_s, callback, *args, context=self.world)

    def hold(self, process: Process) -> None:
        """Keep back all that is due for a process, now or later."""
        ready = cast(deque[asyncio.Handle], vars(self)["_ready"])
        for index, handle in enumerate(ready):
            if _owner(handle) is process:
                process.held.append(handle)
                ready[index] = self._nothing  # its length is being counted on
        timers = cast(list[asyncio.TimerHandle], vars(self)["_scheduled"])
        mine = [timer for timer in timers if _owner(timer) is process]
        process.held_timers += mine
        timers[:] = [timer for timer in timers if _owner(timer) is not process]
        heapq.heapify(timers)

    def release(self, process: Process) -> None:
        """Give back what was kept of a process."""
        ready = cast(deque[asyncio.Handle], vars(self)["_ready"])
        ready.extend(process.held)
        process.held.clear()
        timers = cast(list[asyncio.TimerHandle], vars(self)["_scheduled"])
        for timer in process.held_timers:
            timer._scheduled = True  # type: ignore[attr-defined]
            heapq.heappush(timers, timer)
        process.held_timers.clear()

    # -------------------------------------------------------------- what programs do in threads

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        process = CURRENT.get()
        answer: asyncio.Future[T] = self.create_future()
        if process.alive:
            self.call_later(process.lag_s(), self._offload, process, answer, func, args)
        else:
            answer.cancel()
        return answer

    def _offload(
        self,
        process: Process,
        answer: "asyncio.Future[T]",
        func: Callable[..., T],
        args: tuple[Any, ...],
    ) -> None:
        process.answers_at = max(process.answers_at, self._time_s + process.lag_s())
        self._offloading = process
        try:
            result, error = [func(*args)], None
        except Exception as raised:  # noqa: BLE001  (it is the caller's)
            result, error = [], raised
        finally:
            self._offloading = None
        self.call_at(process.answers_at, _answer, answer, result, error)

    def call_soon_threadsafe(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self._offloading is None:
            return self.call_soon(callback, *args, context=context)
        return self.call_at(self._offloading.answers_at, callback, *args, context=context)


def _owner(handle: Any) -> Process | None:
    return handle._context.get(CURRENT)


def _answer(answer: "asyncio.Future[Any]", result: list[Any], error: Exception | None) -> None:
    if answer.done():
        return  # nobody waits any more
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result[0])


def _make_task(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, T],
    context: Context | None = None,
) -> "asyncio.Task[T]":
    context = context or copy_context()
    task = asyncio.Task(work, loop=loop, context=context)
    process = context.get(CURRENT)
    if process is not None:
        if len(process.tasks) > 1_000:
            process.tasks = {t: None for t in process.tasks if not t.done()}
        process.tasks[task] = None
    return task


class VirtualClock(ManualClock):
    """One process's view of the loop's time; its wall clock may `jump`."""

    def __init__(self, loop: VirtualLoop, seed: str) -> None:
        super().__init__(START)
        self._loop = loop
        self._draws = random.Random(seed)

    def now(self) -> int:
        return self._now + round(self._loop.time() * MICROSECONDS)

    def monotonic(self) -> float:
        return self._loop.time()

    def new_id(self) -> str:
        return str(uuid.UUID(int=self._draws.getrandbits(128), version=4))

    def new_secret(self) -> str:
        return f"{self._draws.getrandbits(256):064x}"

    async def sleep(self, seconds: float) -> float:
        until = self._loop.time() + max(0.0, seconds)
        woken: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_at(until, _answer, woken, [None], None)
        try:
            await woken
        finally:
            timer.cancel()
        return self._loop.time() - until
