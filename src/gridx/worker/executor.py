"""Runs one attempt in a sandbox: its program in, its output in pieces, its `finished` out.

Output is gathered into pieces of at most a log frame's size and passed on after 50 ms at the
latest, in the order of its arrival; never more than the attempt may keep. Whatever goes wrong in
one attempt becomes that attempt's `sandbox_error` and touches no other.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from gridx.domain.attempt import Reason
from gridx.protocol.frames import (
    LOG_DATA_BYTES_MAX,
    Assignment,
    Finished,
    ReasonName,
    WireSpec,
    WireUsage,
)
from gridx.telemetry import get_logger
from gridx.worker.events import LeaseKey, StreamName
from gridx.worker.sandbox.base import Limits, Outcome, Program, Sandbox, Stream

GATHER_S = 0.05
PIECES_MAX = 64
OVERDUE_S = 30.0
"""A sandbox that has not ended an attempt so long past its time limit is given up on."""

Pass = Callable[[StreamName, bytes], None]
_log = get_logger(__name__)


async def execute(
    sandbox: Sandbox, assignment: Assignment, pass_on: Pass, cancel: asyncio.Event
) -> Finished:
    """Run an attempt to its end; `pass_on` gets its output before this returns. Never raises."""
    spec = assignment.spec
    gather = Gather(pass_on, spec.output_bytes)
    try:
        async with asyncio.timeout(spec.timeout_s + OVERDUE_S):
            outcome = await sandbox.run(
                assignment.lease, _program(spec), _limits(spec), gather.take, cancel
            )
    except TimeoutError:
        _log.error("attempt_stuck", limit_s=spec.timeout_s)
        outcome = Outcome(None, Reason.SANDBOX_ERROR, detail="The sandbox did not end in time.")
    except Exception as error:  # noqa: BLE001  (a bug in one attempt is not the others')
        _log.error("attempt_failed", exc_info=error)
        outcome = Outcome(None, Reason.SANDBOX_ERROR, detail="The worker failed; see its log.")
    gather.close()
    return finished(LeaseKey.of(assignment), outcome)


def finished(key: LeaseKey, outcome: Outcome) -> Finished:
    """An outcome as the wire says it."""
    usage = outcome.usage
    reason = None if outcome.reason is None else cast(ReasonName, outcome.reason.value)
    return Finished(
        *key,
        exit_code=outcome.exit_code,
        reason=reason,
        usage=WireUsage(
            max(0.0, usage.wall_s), max(0.0, usage.cpu_s), max(0.0, usage.peak_memory_mb)
        ),
        detail=outcome.detail[:1000] or None,
    )


class Gather:
    """Gathers output into pieces; `bytes_max` is how much of each stream is passed on at all."""

    def __init__(self, pass_on: Pass, bytes_max: int) -> None:
        self._pass_on = pass_on
        self._left = {Stream.STDOUT: bytes_max, Stream.STDERR: bytes_max}
        self._pieces: list[tuple[Stream, bytearray]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, stream: Stream, data: bytes) -> None:
        """Take a piece of output as it arrives."""
        data = data[: self._left[stream]]
        if not data or self._closed:
            return
        self._left[stream] -= len(data)
        piece = self._piece(stream)
        piece += data
        if len(piece) >= LOG_DATA_BYTES_MAX:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._flush)

    def close(self) -> None:
        """Pass on what is left; nothing is taken any more."""
        self._closed = True
        self._flush()

    def _piece(self, stream: Stream) -> bytearray:
        """Where the next bytes of `stream` go.

        A program that changes streams all the time would make a frame of each byte; from the
        64th change within 50 ms on, only the order within each stream is kept.
        """
        if not self._pieces or self._pieces[-1][0] is not stream:
            if len(self._pieces) >= PIECES_MAX:
                return self._pieces[-2][1]  # neighbours differ, so this one is of `stream`
            self._pieces.append((stream, bytearray()))
        return self._pieces[-1][1]

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pieces, self._pieces = self._pieces, []
        for stream, data in pieces:
            for start in range(0, len(data), LOG_DATA_BYTES_MAX):
                self._pass_on(stream.value, bytes(data[start : start + LOG_DATA_BYTES_MAX]))


def _program(spec: WireSpec) -> Program:
    return Program(
        spec.language, spec.code, tuple(spec.args), spec.env, spec.stdin, image=spec.image
    )


def _limits(spec: WireSpec) -> Limits:
    return Limits(
        spec.timeout_s, spec.output_bytes, spec.processes, spec.memory_mb, spec.cpus, spec.disk_mb
    )
