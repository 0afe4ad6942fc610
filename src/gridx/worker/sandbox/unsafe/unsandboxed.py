"""`none`: jobs as plain processes of the worker's own user, which may do whatever that user may.

What holds is the wall time, the output and the end: a keeper (`keeper`) ends every process a job left.
The rest is best effort: each process is told the most it may take of memory and write into one file,
and no set-uid program gains anything. Nothing keeps a job from the machine, the worker's token, its
neighbours, or its own keeper.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from gridx.clock import Clock
from gridx.domain.attempt import Reason
from gridx.domain.sandbox import Backend
from gridx.telemetry import get_logger
from gridx.worker.sandbox.base import (
    GRACE_S,
    NEVER_RAN,
    Emit,
    Enforcement,
    Limits,
    Outcome,
    Program,
    Report,
    broken,
    lacking,
)
from gridx.worker.sandbox.ending import Seen, Stopwatch, outcome
from gridx.worker.sandbox.languages import Interpreter, find_interpreters
from gridx.worker.sandbox.outputs import Outputs, Pipes
from gridx.worker.sandbox.unsafe import keeper

_KILL_TAKES_S = 10.0
_MB = 1 << 20
_FOLDER = "gridx-unsandboxed-"
_log = get_logger(__name__)

_ENFORCES = frozenset({Enforcement.WALL_TIME, Enforcement.OUTPUT})


class Unsandboxed:
    """Runs programs with nothing between them and the machine."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._interpreters = find_interpreters()

    @property
    def name(self) -> str:
        return Backend.NONE.value

    @property
    def lacks(self) -> tuple[Enforcement, ...]:
        return lacking(_ENFORCES)

    async def probe(self) -> Report:
        return Report(self.name, works=True, enforces=_ENFORCES)

    async def open(self) -> None:
        await asyncio.to_thread(_sweep)

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
        interpreter = self._interpreters.get(program.language)
        if interpreter is None:
            return broken(f"this machine has no interpreter for {program.language}")
        folder = ""
        try:
            folder = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-")
            order = _order(interpreter, program, limits, Path(folder))
            seen = await _Run(limits, emit, self._clock).run(order, folder, program.stdin, cancel)
            return outcome(seen, limits)
        except OSError as failure:
            _log.warning("job_not_run", attempt=attempt_id, why=str(failure))
            return broken(failure)
        finally:
            if folder:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def answers(self, attempt_id: str) -> bool:  # noqa: ARG002
        """Nobody watches over a program here but its keeper, whose end ends the run."""
        return True

    async def close(self) -> None:
        """Nothing waits ahead; a run that is cut short ends its job by itself."""


class _Run:
    """One job and its keeper."""

    def __init__(self, limits: Limits, emit: Emit, clock: Clock) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._pipes = Pipes()
        self._outputs = Outputs(self._pipes, limits.output_bytes, emit, self._too_much_output)
        self._timers: list[asyncio.TimerHandle] = []
        self._stopped: Reason | None = None
        self._watch = Stopwatch(clock)
        self._keeper: asyncio.subprocess.Process | None = None

    async def run(self, order: bytes, folder: str, stdin: str, cancel: asyncio.Event) -> Seen:
        """Run it to its end; returns once no process of it is left."""
        self._watch.start()
        report, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                await self._start(order, folder, stdin, theirs)
            finally:
                os.close(theirs)
                self._pipes.handed_over()
            assert self._keeper is not None
            self._after(self._limits.timeout_s, lambda: self._stop_in_order(Reason.TIMEOUT))
            async with asyncio.TaskGroup() as tasks:
                cancelled = tasks.create_task(self._stop_when(cancel))
                await self._keeper.wait()
                cancelled.cancel()
            wall_s = self._watch.stop()
            said = os.read(report, 4096)
        finally:
            os.close(report)
            for each in self._timers:
                each.cancel()
            await self._let_go()
            self._outputs.finish()
        return self._seen(said, wall_s)

    async def _start(self, order: bytes, folder: str, stdin: str, report: int) -> None:
        with _file(order) as told, _file(stdin.encode("utf-8", "surrogatepass")) as text:
            words = (str(os.getpid()), str(told.fileno()), str(report))
            stdout, stderr = self._pipes.writers
            self._keeper = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", keeper.__file__, *words),
                stdin=text.fileno(),
                stdout=stdout,
                stderr=stderr,
                pass_fds=(told.fileno(), report),
                cwd=folder,
                env={},
                start_new_session=True,
            )

    def _seen(self, said: bytes, wall_s: float) -> Seen:
        if not said:
            # Its keeper was killed, and nobody but the job (or its owner) had a reason to.
            return Seen(128 + signal.SIGKILL, self._stopped, wall_s=wall_s)
        exit_code, cpu_s, peak_kb = json.loads(said)
        return Seen(
            int(exit_code),
            self._stopped,
            wall_s=wall_s,
            cpu_s=float(cpu_s),
            peak_memory_bytes=int(peak_kb) * 1024,
        )

    async def _stop_when(self, cancel: asyncio.Event) -> None:
        await cancel.wait()
        self._stop_in_order(Reason.CANCELLED)

    def _stop_in_order(self, reason: Reason) -> None:
        if self._stopped is None:
            self._stopped = reason
            self._watch.stop()
            self._signal(signal.SIGTERM)
            self._after(GRACE_S, self._kill)

    def _too_much_output(self) -> None:
        if self._stopped is None:
            self._stopped = Reason.OUTPUT_LIMIT
            self._kill()

    def _kill(self) -> None:
        self._signal(keeper.KILL_ALL)
        self._after(_KILL_TAKES_S, self._kill_group)

    def _signal(self, number: signal.Signals) -> None:
        if self._keeper is not None and self._keeper.returncode is None:
            self._keeper.send_signal(number)

    async def _let_go(self) -> None:
        """A run that is given up: its keeper ends the job. One that was killed: we end its group."""
        if self._keeper is None:
            return
        if self._keeper.returncode is None:
            self._signal(keeper.KILL_ALL)
            with suppress(TimeoutError):
                async with asyncio.timeout(_KILL_TAKES_S):
                    await self._keeper.wait()
        if self._keeper.returncode != 0:
            self._kill_group()

    def _kill_group(self) -> None:
        if self._keeper is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._keeper.pid, signal.SIGKILL)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._timers.append(self._loop.call_later(seconds, action))


def _order(interpreter: Interpreter, program: Program, limits: Limits, folder: Path) -> bytes:
    """What the keeper is to run; the program's file is written."""
    path = folder / interpreter.file
    path.write_bytes(program.code.encode("utf-8", "surrogatepass"))
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "TMPDIR": str(folder),
        "USER": "job",
    }
    order = {
        "command": [interpreter.host_path, str(path), *program.args],
        "env": environment | dict(program.env),
        "limits": {
            "RLIMIT_CORE": 0,
            "RLIMIT_DATA": limits.memory_mb * _MB,
            "RLIMIT_FSIZE": limits.disk_mb * _MB,
        },
    }
    return json.dumps(order).encode()


def _file(content: bytes) -> BinaryIO:
    """An open file of `content` that lies nowhere, at its start."""
    descriptor = os.memfd_create("job")
    file = os.fdopen(descriptor, "w+b")
    file.write(content)
    file.flush()
    file.seek(0)
    return file


def _sweep() -> None:
    """Remove the work folders of workers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        owner = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)
