"""What jobs do, and the sandbox that does it.

A job's code says how long each of its attempts runs, what it writes and how it ends, so that what
must come out is known without asking the grid.
"""

import asyncio
import random
from typing import Literal

import msgspec

from gridx.clock import Clock
from gridx.domain.attempt import Reason, Usage
from gridx.worker.sandbox.base import Emit, Limits, Outcome, Program, Report, Stream
from tests.simulation.witness import Ran, Witness

End = Literal["succeeds", "fails", "out_of_memory", "sandbox_error", "hangs", "ignores_cancel"]
GRACE_S = 5.0


class Script(msgspec.Struct, frozen=True):
    """What one job does: it runs `run_s`, writes `pieces` times `word`, and ends so.

    `unlucky` is the share of its attempts whose sandbox fails, whatever the job would have done.
    """

    word: str
    run_s: float
    pieces: int
    end: End
    unlucky: float = 0.0

    @property
    def code(self) -> str:
        return msgspec.json.encode(self).decode()

    @property
    def output(self) -> bytes:
        """All that a successful attempt writes."""
        return b"".join(self.piece(number) for number in range(self.pieces))

    def piece(self, number: int) -> bytes:
        return f"{self.word}:{number}\n".encode()


class ScriptedSandbox:
    """Runs scripts by the clock instead of programs; otherwise a sandbox as any."""

    name = "bubblewrap"
    lacks = ()

    def __init__(self, clock: Clock, draws: random.Random, witness: Witness) -> None:
        self._clock = clock
        self._draws = draws
        self._witness = witness

    async def probe(self) -> Report:
        return Report(self.name, works=True)

    async def open(self) -> None:
        """Nothing is to be made ready."""

    async def answers(self, attempt_id: str) -> bool:
        """Whoever plays a script is there until it ends."""
        return True

    async def close(self) -> None:
        """Nothing outlives its attempt."""

    async def run(
        self,
        attempt_id: str,
        program: Program,
        limits: Limits,
        emit: Emit,
        cancel: asyncio.Event,
    ) -> Outcome:
        began = self._clock.monotonic()
        script = msgspec.json.decode(program.code, type=Script)
        reason, exit_code = await self._play(script, limits, emit, cancel)
        wall_s = self._clock.monotonic() - began
        self._witness.ran(attempt_id, Ran(wall_s, reason, exit_code))
        return Outcome(exit_code, reason, Usage(wall_s, wall_s / 2, 10.0))

    async def _play(
        self, script: Script, limits: Limits, emit: Emit, cancel: asyncio.Event
    ) -> tuple[Reason | None, int | None]:
        if self._draws.random() < script.unlucky:
            return Reason.SANDBOX_ERROR, None
        run_s = 10 * limits.timeout_s if script.end == "hangs" else script.run_s
        part_s = min(run_s, limits.timeout_s) / (script.pieces + 1)
        for number in range(script.pieces + 1):
            if await self._cancelled_within(part_s, cancel):
                return await self._stop(script)
            if number < script.pieces:
                emit(Stream.STDOUT, script.piece(number))
        if run_s > limits.timeout_s:
            return Reason.TIMEOUT, None
        match script.end:
            case "fails":
                return Reason.EXIT_CODE, 3
            case "out_of_memory":
                return Reason.OUT_OF_MEMORY, None
            case "sandbox_error":
                return Reason.SANDBOX_ERROR, None
            case _:
                return None, 0

    async def _cancelled_within(self, seconds: float, cancel: asyncio.Event) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await cancel.wait()
        except TimeoutError:
            return False
        return True

    async def _stop(self, script: Script) -> tuple[Reason | None, int | None]:
        """Told to end, most programs do; one takes its time and says that all is well."""
        if script.end == "ignores_cancel":
            await self._clock.sleep(GRACE_S)
            return None, 0
        return Reason.CANCELLED, None
