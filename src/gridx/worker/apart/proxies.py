"""The agent's side of the line: the warden's sandboxes, to be used as if they were its own."""

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from gridx.clock import Clock
from gridx.domain.errors import Unavailable
from gridx.domain.sandbox import Backend, Enforcement
from gridx.tasks import Tasks
from gridx.telemetry import get_logger
from gridx.worker.apart.line import Line
from gridx.worker.apart.messages import (
    Answer,
    Ask,
    Cancel,
    Ended,
    FromWarden,
    GiveUp,
    Open,
    Opened,
    Piece,
    Refused,
    Run,
    from_warden,
)
from gridx.worker.sandbox.backends import Choice, Offered
from gridx.worker.sandbox.base import NEVER_RAN, Emit, Limits, Outcome, Program, Report, broken

ENDED_WITHIN_S = 3.0
_LOOK_EVERY_S = 0.01
_GONE = broken("the process that keeps it is gone")
_log = get_logger(__name__)
T = TypeVar("T")


class Warden:
    """The warden process as the agent sees it, from its fork to its end."""

    def __init__(self, end: socket.socket, pid: int, lifeline: int) -> None:
        """`end` is ours of the pair, `lifeline` what the warden must not outlive."""
        self.pid = pid
        self._end = end
        self._lifeline = lifeline

    @asynccontextmanager
    async def open_backends(self, clock: Clock, _choice: Choice) -> AsyncGenerator[Offered]:
        """The sandboxes of the choice that it was forked with, as `backends.open_backends` gives them.

        Raises `Unavailable` also in the middle of the block, once the warden is gone.
        """
        line = await Line.over(self._end)
        tasks = Tasks()
        calls = Calls(line)
        try:
            line.send(Open())
            offered = calls.offered(await line.receive())
            tasks.start("words of the warden", calls.listen())
            with _cancelled_by(calls):
                yield offered
        finally:
            calls.lost = True
            line.end()
            await self._ended(clock)
            await tasks.close()
            line.close()

    async def _ended(self, clock: Clock) -> None:
        """Wait until the warden has given everything back; kill it if that takes too long."""
        until = clock.monotonic() + ENDED_WITHIN_S
        while not self._is_over():
            if clock.monotonic() > until:
                _log.error("warden_killed", why=f"it did not end within {ENDED_WITHIN_S:g} s")
                break
            await clock.sleep(_LOOK_EVERY_S)
        os.close(self._lifeline)

    def _is_over(self) -> bool:
        return os.waitpid(self.pid, os.WNOHANG)[0] != 0


class Calls:
    """What was asked of the warden and is waited for."""

    def __init__(self, line: Line) -> None:
        self.lost = False
        self.when_lost: Callable[[], object] = _nothing
        self._line = line
        self.new_number = itertools.count().__next__
        self._runs: dict[int, tuple[Emit, asyncio.Future[Outcome]]] = {}
        self._asked: dict[int, asyncio.Future[bool]] = {}

    def offered(self, first: bytes | None) -> Offered:
        """What the warden's first word says it offers. Raises `Unavailable` when that is nothing."""
        match None if first is None else from_warden(first):
            case Opened(lacks):
                return {each: _Proxy(each, lacks[each], self) for each in lacks}
            case Refused(message):
                raise Unavailable(message)
            case _:
                raise Unavailable("The process that was to keep this worker's sandboxes has ended.")

    async def listen(self) -> None:
        """Pass on what the warden says, until it is gone."""
        try:
            while (message := await self._line.receive()) is not None:
                self._hear(from_warden(message))
        finally:
            self.lost = True
            self.when_lost()  # first, so that what runs is handed over before it counts as broken
            for _, ended in self._runs.values():
                _settle(ended, _GONE)
            for answer in self._asked.values():
                _settle(answer, False)

    async def run(self, order: Run, emit: Emit, cancel: asyncio.Event) -> Outcome:
        """Have a program run; see `Sandbox.run`."""
        if self.lost:
            return _GONE
        number = order.number
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._runs[number] = (emit, ended)
        try:
            self._line.send(order)
            async with asyncio.TaskGroup() as tasks:
                passing_on = tasks.create_task(self._cancel_when(cancel, number))
                outcome = await ended
                passing_on.cancel()
            return outcome
        finally:
            del self._runs[number]
            if not ended.done() or ended.cancelled():
                self._line.send(GiveUp(number))

    async def answers(self, backend: Backend, attempt_id: str) -> bool:
        """Have an attempt's supervisor asked; see `Sandbox.answers`."""
        if self.lost:
            return False
        number = self.new_number()
        self._asked[number] = answer = asyncio.get_running_loop().create_future()
        try:
            self._line.send(Ask(number, backend, attempt_id))
            return await answer
        finally:
            del self._asked[number]

    async def _cancel_when(self, cancel: asyncio.Event, number: int) -> None:
        await cancel.wait()
        self._line.send(Cancel(number))

    def _hear(self, message: FromWarden) -> None:
        match message:
            case Piece(number, stream, data):
                if number in self._runs:
                    self._runs[number][0](stream, data)
            case Ended(number, outcome):
                if number in self._runs:
                    _settle(self._runs[number][1], outcome)
            case Answer(number, lives):
                if number in self._asked:
                    _settle(self._asked[number], lives)
            case _:
                return  # said once, at the start


class _Proxy:
    """One sandbox of the warden's, which opened it and closes it again."""

    def __init__(
        self, backend: Backend, lacks: tuple[Enforcement, ...] | None, calls: Calls
    ) -> None:
        self.lacks = lacks
        self._backend = backend
        self._calls = calls

    @property
    def name(self) -> str:
        return self._backend.value

    async def probe(self) -> Report:
        """What is offered was tried out by the warden."""
        return Report(self.name, works=not self._calls.lost)

    async def open(self) -> None:
        return

    async def run(
        self,
        attempt_id: str,
        program: Program,
        limits: Limits,
        emit: Emit,
        cancel: asyncio.Event,
    ) -> Outcome:
        if cancel.is_set():
            return NEVER_RAN
        if program.outputs is not None:
            return broken("a worker that root started keeps no files of jobs")
        order = Run(self._calls.new_number(), self._backend, attempt_id, program, limits)
        return await self._calls.run(order, emit, cancel)

    async def answers(self, attempt_id: str) -> bool:
        return await self._calls.answers(self._backend, attempt_id)

    async def close(self) -> None:
        return


@contextmanager
def _cancelled_by(calls: Calls) -> Generator[None]:
    """End the block with `Unavailable` when the warden is lost meanwhile."""
    task = asyncio.current_task()
    assert task is not None
    calls.when_lost = task.cancel
    try:
        yield
    except asyncio.CancelledError:
        if not calls.lost:
            raise
        task.uncancel()
        raise Unavailable(
            "The process that keeps this worker's sandboxes has ended, and the worker with it: start "
            "it again. What was finished is kept, and will be reported then."
        ) from None
    finally:
        calls.when_lost = _nothing


def _settle(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _nothing() -> None:
    return
