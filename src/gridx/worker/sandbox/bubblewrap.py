"""The `bubblewrap` backend: one box for the worker, one cell in it for each attempt.

Theory of operation. `box` starts `bwrap` once, with a template interpreter in it; `cell` has the
template fork a fresh world (namespaces, mounts, system call filter, uid) for one attempt and sends
it the program; `cgroup` bounds and counts it; `outputs` reads what it writes; `running` ends it when
it must be ended; `ending` decides from what was seen how it ended. The order of a run: group, cell,
limits, program, end; then the cell is closed and the group removed, and nothing is left.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from gridx.clock import Clock, SystemClock
from gridx.domain.attempt import Reason
from gridx.domain.errors import Unavailable
from gridx.telemetry import get_logger
from gridx.worker.sandbox import cgroup_v1, cgroup_v2, rootfs
from gridx.worker.sandbox.base import Emit, Enforcement, Limits, Outcome, Program, Report, Stream
from gridx.worker.sandbox.box import Box, find_bwrap, start_box
from gridx.worker.sandbox.cell import Cell
from gridx.worker.sandbox.cgroup import Allowance, Group, Groups
from gridx.worker.sandbox.ending import outcome
from gridx.worker.sandbox.inside import filter as calls
from gridx.worker.sandbox.inside import wire
from gridx.worker.sandbox.languages import Interpreter, find_interpreters
from gridx.worker.sandbox.running import Running, World

NAME = "bubblewrap"
_MB = 1 << 20
_PAGE_BYTES = 4096
_FILES_PER_MB = 128
_FILES_MIN = 4096
_CELL_TIMEOUT_S = 10.0
_ALWAYS = frozenset(
    {
        Enforcement.DISK,
        Enforcement.FILES,
        Enforcement.NETWORK,
        Enforcement.OUTPUT,
        Enforcement.PROCESSES,
        Enforcement.SYSCALLS,
        Enforcement.WALL_TIME,
    }
)
_log = get_logger(__name__)


class Bubblewrap:
    """Runs programs in namespaces of their own on Linux."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._interpreters = find_interpreters()
        self._groups: Groups | None = None
        self._box: Box | None = None
        self._box_starts = asyncio.Lock()
        self._opened = False
        self._slots: set[int] = set()
        self._made = 0

    @property
    def name(self) -> str:
        return NAME

    async def probe(self) -> Report:
        """Start a box of its own, run one program in it, and say what this host enforces."""
        trial = Bubblewrap(self._clock)
        try:
            await trial.open()
            program, limits = Program("bash", "exit 0"), Limits(timeout_s=5.0)
            end = await trial.run("probe", program, limits, _ignore, asyncio.Event())
        except Unavailable as failure:
            return Report(NAME, works=False, why_not=failure.message, advice=_advice())
        finally:
            await trial.close()
        if end.reason is not None:
            return Report(NAME, works=False, why_not=end.detail, advice=_advice())
        counted = trial._groups.enforces if trial._groups is not None else frozenset[Enforcement]()
        enforces = _ALWAYS | counted
        advice = () if Enforcement.MEMORY in enforces else (_DELEGATE,)
        return Report(NAME, works=True, enforces=enforces, advice=advice)

    async def open(self) -> None:
        machine = os.uname().machine
        if not calls.supported(machine):
            raise Unavailable(f"the {NAME} sandbox knows no system call filter for {machine}")
        if find_bwrap() is None:
            raise Unavailable(
                "bwrap is missing: install the Debian package bubblewrap, or "
                "gridx-compute[worker], which carries it"
            )
        self._opened = True
        try:
            groups = cgroup_v2.find() or cgroup_v1.find()
            if groups is not None:
                groups.open()
            self._groups = groups
        except OSError as failure:
            _log.warning("no_control_groups", why=str(failure))
        await self._running_box()

    async def run(
        self,
        attempt_id: str,
        program: Program,
        limits: Limits,
        emit: Emit,
        cancel: asyncio.Event,
    ) -> Outcome:
        if cancel.is_set():
            return Outcome(None, Reason.CANCELLED, detail="The job was cancelled before it ran.")
        interpreter = self._interpreters.get(program.language)
        if interpreter is None:
            return _broken(f"this machine has no interpreter for {program.language}")
        try:
            async with self._world(limits) as world:
                start = _start(interpreter, program, limits)
                running = Running(world, limits, emit, self._clock)
                seen = await running.run(start, self._completed(program), cancel)
        except (OSError, Unavailable) as failure:
            _log.warning("sandbox_failed", attempt=attempt_id, why=str(failure))
            return _broken(str(failure))
        return outcome(seen, limits)

    async def close(self) -> None:
        self._opened = False
        if self._box is not None:
            await self._box.close()
            self._box = None
        if self._groups is not None:
            self._groups.close()
            self._groups = None

    @asynccontextmanager
    async def _world(self, limits: Limits) -> AsyncGenerator[World]:
        """A fresh world with its bounds set, taken down at the end."""
        box = await self._running_box()
        slot = next(each for each in range(len(self._slots) + 1) if each not in self._slots)
        self._slots.add(slot)
        group: Group | None = None
        cell: Cell | None = None
        try:
            if self._groups is not None:
                self._made += 1
                group = self._groups.make(f"attempt-{self._made}")
                group.limit(_allowance(limits))
            cell = Cell(box, slot, group.joins if group is not None else ())
            async with asyncio.timeout(_CELL_TIMEOUT_S):
                if failure := await cell.ready:
                    raise Unavailable(f"a cell could not be made: {failure}")
            yield World(cell, group)
        finally:
            if cell is not None:
                cell.close()
            if group is not None:
                group.close()
            self._slots.discard(slot)

    async def _running_box(self) -> Box:
        async with self._box_starts:
            if not self._opened:
                raise Unavailable("the sandbox is closed")
            if self._box is None or not self._box.alive:
                if self._box is not None:
                    _log.warning("box_ended", said=self._box.complaint())
                    await self._box.close()
                    self._box = None
                bwrap = find_bwrap()
                if bwrap is None:
                    raise Unavailable("bwrap is gone from this machine")
                python = self._interpreters["python"].path
                self._box = await start_box(bwrap, self._interpreters.values(), python)
            return self._box

    def _completed(self, program: Program) -> Program:
        """The program with the few variables that every job has, its own going first."""
        environment = {
            "PATH": rootfs.search_path(self._interpreters.values()),
            "HOME": wire.WORK,
            "LANG": "C.UTF-8",
            "TMPDIR": wire.TMP,
            "USER": "job",
        }
        return replace(program, env=environment | dict(program.env))


def _start(interpreter: Interpreter, program: Program, limits: Limits) -> wire.Start:
    code_bytes = len(program.code.encode("utf-8", "surrogatepass"))
    code_pages = -(-code_bytes // _PAGE_BYTES)
    return wire.Start(
        argv=[interpreter.path],
        file=interpreter.file,
        disk_bytes=limits.disk_mb * _MB + code_pages * _PAGE_BYTES,
        disk_files=max(_FILES_MIN, limits.disk_mb * _FILES_PER_MB),
        shm_bytes=limits.memory_mb * _MB,
        processes=limits.processes,
    )


def _allowance(limits: Limits) -> Allowance:
    memory, disk = limits.memory_mb * _MB, limits.disk_mb * _MB
    return Allowance(memory, disk, limits.processes, limits.cpus)


def _broken(why: str) -> Outcome:
    return Outcome(None, Reason.SANDBOX_ERROR, detail=f"The sandbox failed: {why}.")


def _ignore(_stream: Stream, _piece: bytes) -> None:
    return


_DELEGATE = "systemd-run --user --scope -p Delegate=yes gridx worker ..."


def _advice() -> tuple[str, ...]:
    """Commands that open what is most often closed, for those that are closed here."""
    advice: list[str] = []
    if find_bwrap() is None:
        advice.append("sudo apt-get install bubblewrap")
    for setting, value in _SETTINGS.items():
        path = Path("/proc/sys") / setting.replace(".", "/")
        if path.exists() and path.read_text().strip() == value[0]:
            advice.append(f"sudo sysctl -w {setting}={value[1]}")
    return tuple(advice)


_SETTINGS = {
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
    "user.max_user_namespaces": ("0", "15000"),
}
"""What closes user namespaces to ordinary users -> the value that closes and the one that opens."""
