"""The warden: the process that keeps root, and runs programs in sandboxes for the agent.

It knows no token and no coordinator, reads no file that the agent names and takes no word of it for
more than what `messages` says: what is offered was the owner's choice, made before the two parted.
It ends in order when the agent says no more, and is killed by the kernel when the agent is gone.
"""

import asyncio
import fcntl
import os
import signal
import socket
from collections.abc import Awaitable
from pathlib import Path

import msgspec

from gridx.clock import Clock, SystemClock
from gridx.domain.attempt import Reason
from gridx.domain.errors import GridError
from gridx.tasks import Tasks
from gridx.telemetry import get_logger
from gridx.worker.apart.line import Line
from gridx.worker.apart.messages import (
    Answer,
    Ask,
    Cancel,
    Ended,
    FromAgent,
    GiveUp,
    Open,
    Opened,
    Piece,
    Refused,
    Run,
    from_agent,
)
from gridx.worker.sandbox.backends import Choice, Offered, OpenBackends, open_backends
from gridx.worker.sandbox.base import Outcome, Stream

NAME = "gridx-warden"
_F_SETSIG = 10
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_log = get_logger(__name__)


def main(end: socket.socket, agent_lives: int, choice: Choice) -> int:
    """Be the warden to the end; `agent_lives` is a pipe whose other end only the agent holds."""
    _end_with(agent_lives)
    _leave_terminal()
    Path("/proc/self/comm").write_text(NAME)
    return asyncio.run(serve(end, choice, open_backends, SystemClock()))


async def serve(end: socket.socket, choice: Choice, opens: OpenBackends, clock: Clock) -> int:
    """Answer the agent until it says no more; gives an exit code."""
    line = await Line.over(end)
    try:
        if (first := await line.receive()) is None or not isinstance(from_agent(first), Open):
            return 0
        async with opens(clock, choice) as offered:
            line.send(Opened({each: offered[each].lacks for each in offered}))
            await _Serving(line, offered).until_over()
    except GridError as refusal:
        line.send(Refused(refusal.message))
        await line.flush()
    except (msgspec.MsgspecError, LookupError) as error:
        _log.error("agent_not_understood", why=str(error))
        return 1
    finally:
        line.close()
    return 0


class _Serving:
    """Everything that runs for one agent."""

    def __init__(self, line: Line, offered: Offered) -> None:
        self._line = line
        self._offered = offered
        self._tasks = Tasks()
        self._cancels: dict[int, asyncio.Event] = {}
        self._runs: dict[int, asyncio.Task[None]] = {}

    async def until_over(self) -> None:
        """Do what the agent says until it says no more, then end what is left."""
        try:
            while (message := await self._line.receive()) is not None:
                self._heed(from_agent(message))
        finally:
            await self._tasks.close()

    def _heed(self, message: FromAgent) -> None:
        """Raises `LookupError` for what no agent of ours says."""
        match message:
            case Run(number):
                if number in self._runs:
                    raise LookupError(f"program {number} runs already")
                sandbox = self._offered[message.backend]
                self._cancels[number] = cancel = asyncio.Event()

                def emit(stream: Stream, data: bytes) -> None:
                    self._line.send(Piece(number, stream, data))

                running = sandbox.run(
                    message.attempt_id, message.program, message.limits, emit, cancel
                )
                self._runs[number] = self._tasks.start("program", self._run(number, running))
            case Cancel(number):
                if number in self._cancels:
                    self._cancels[number].set()
            case GiveUp(number):
                if number in self._runs:
                    self._runs[number].cancel()
            case Ask(number):
                asking = self._offered[message.backend].answers(message.attempt_id)
                self._tasks.start("question", self._answer(number, asking))
            case Open():
                raise LookupError("the sandboxes are open already")

    async def _run(self, number: int, running: Awaitable[Outcome]) -> None:
        try:
            outcome = await running
        except Exception as error:  # noqa: BLE001  (a bug in one attempt is not the others')
            _log.error("program_failed", exc_info=error)
            detail = "The worker failed; see its log."
            outcome = Outcome(None, Reason.SANDBOX_ERROR, detail=detail)
        finally:
            del self._runs[number], self._cancels[number]
        self._line.send(Ended(number, outcome))

    async def _answer(self, number: int, asking: Awaitable[bool]) -> None:
        self._line.send(Answer(number, await asking))


def _end_with(agent_lives: int) -> None:
    """Have the kernel kill this process, busy or not, once the pipe's other end is closed.

    The usual way (`PR_SET_PDEATHSIG`) does nothing here: a parent's death signals no process that the
    parent itself could not.
    """
    fcntl.fcntl(agent_lives, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(agent_lives, _F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(agent_lives, fcntl.F_GETFL)
    fcntl.fcntl(agent_lives, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    try:
        gone = os.read(agent_lives, 1) == b""  # before it was asked for, too
    except BlockingIOError:
        return
    if gone:
        os._exit(1)


def _leave_terminal() -> None:
    """Neither read the worker's input nor heed what ends it: the agent does, and says so here.

    Signals are caught and not ignored, because ignoring would be inherited by the jobs.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for each in (0, 1):
        os.dup2(nothing, each)
    os.close(nothing)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _unheeded)


def _unheeded(_number: int, _frame: object) -> None:
    return
