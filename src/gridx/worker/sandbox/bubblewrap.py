"""The `bubblewrap` backend: one box for the worker, one cell in it for each attempt.

Theory of operation. `box` starts `bwrap` once, with a template interpreter in it; `cell` has the
template fork a fresh world (namespaces, mounts, system call filter, uid) for one attempt and sends
it the program; `cgroups` bounds and counts it; `outputs` reads what it writes; `running` ends it when
it must be ended; `ending` decides from what was seen how it ended. The order of a run: group, cell,
limits, program, end; then `collector` takes what the job wants kept of its work folder, the cell is
closed and the group removed, and nothing is left.
"""

import asyncio
import os
import re
from dataclasses import replace
from pathlib import Path

from gridx.clock import Clock, SystemClock
from gridx.domain.attempt import Reason
from gridx.domain.errors import Unavailable
from gridx.telemetry import get_logger
from gridx.worker.sandbox import rootfs
from gridx.worker.sandbox.base import Emit, Enforcement, Limits, Outcome, Program, Report, Stream
from gridx.worker.sandbox.box import find_bwrap, start_box
from gridx.worker.sandbox.cell import Cell
from gridx.worker.sandbox.cgroups import v1, v2
from gridx.worker.sandbox.cgroups.groups import Allowance, Groups
from gridx.worker.sandbox.collector import keep
from gridx.worker.sandbox.ending import outcome
from gridx.worker.sandbox.inside import filter as calls
from gridx.worker.sandbox.inside import wire
from gridx.worker.sandbox.languages import Interpreter, find_interpreters
from gridx.worker.sandbox.pool import Pool
from gridx.worker.sandbox.running import Running, World

NAME = "bubblewrap"
_MB = 1 << 20
_PAGE_BYTES = 4096
_FILES_PER_MB = 128
_WAITING_MIN, _WAITING_MAX = 2, 8
_WORLD_MB, _NODE_MB = 2, 40  # what one that waits takes
_WAITING_MEMORY_MB = 60
_NODE_JOB_MB_MIN = 64  # a job's bound cannot be set below what Node holds by then
_FILES_MIN = 4096
_ENDING_SHOWS_S = 1.0
_REMOVALS_MAX, _REMOVAL_WAIT_S = 200, 0.01  # the kernel lets go of a dead process's group late
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # which no JavaScript hands to the system
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
_NOTHING = frozenset[Enforcement]()
_READ_AT_START = (
    *("PYTHON", "NODE_", "UV_", "OPENSSL_", "SSL_CERT_", "ICU_"),
    *("LC_", "LANG", "LD_", "GLIBC_", "MALLOC_", "TZ", "HOME", "PATH"),
)
# Words for what shows when a Node was started, with what, or what it has loaded.
_SEES_ITS_START = re.compile(
    r"uptime|performance|perf_hooks|timeOrigin|inspector|[rR]eport|\b(?:v8|title|proc|ps)\b"
)
_log = get_logger(__name__)


class Bubblewrap:
    """Runs programs in namespaces of their own on Linux.

    `waiting_max` worlds wait ready for a program, by default one for each processor; with
    `template`, jobs run in interpreters that wait in them, instead of new ones: those in Python
    always, those in JavaScript while such were asked for lately. All that wait take at most
    `waiting_memory_mb`, if that is enough for the worlds without Node.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        waiting_max: int | None = None,
        waiting_memory_mb: int = _WAITING_MEMORY_MB,
        template: bool = True,
    ) -> None:
        self._clock = clock or SystemClock()
        self._waiting_max = _one_a_cpu() if waiting_max is None else waiting_max
        self._template = template
        room_mb = waiting_memory_mb - self._waiting_max * _WORLD_MB
        self._nodes_max = max(0, room_mb // (_WORLD_MB + _NODE_MB)) if self._waiting_max else 0
        self._interpreters = find_interpreters()
        self._environment = {
            "PATH": rootfs.search_path(self._interpreters.values()),
            "HOME": wire.WORK,
            "LANG": "C.UTF-8",
            "TMPDIR": wire.TMP,
            "USER": "job",
        }
        self._cells: dict[str, Cell] = {}
        self._groups: Groups | None = None
        self._pool: Pool | None = None
        self._starting = asyncio.Lock()
        self._opened = False

    @property
    def name(self) -> str:
        return NAME

    async def probe(self) -> Report:
        """Start a box of its own, run one program in it, and say what this host enforces."""
        trial = Bubblewrap(self._clock, waiting_max=0)
        try:
            await trial.open()
            program, limits = Program("bash", "exit 0"), Limits(timeout_s=5.0)
            end = await trial.run("probe", program, limits, _ignore, asyncio.Event())
            counted = trial._groups.enforces if trial._groups is not None else _NOTHING
            enforces = _ALWAYS | counted
        except Unavailable as failure:
            return Report(NAME, works=False, why_not=failure.message, advice=_advice())
        finally:
            await trial.close()
        if end.reason is not None:
            return Report(NAME, works=False, why_not=end.detail, advice=_advice())
        advice = tuple(helps for lacked, helps in _HELPS.items() if lacked not in enforces)
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
            found = [each for each in (v2.find(), v1.find()) if each is not None]
            groups = max(found, key=lambda each: len(each.enforces), default=None)
            if groups is not None:
                groups.open()
            self._groups = groups
        except OSError as failure:
            _log.warning("no_control_groups", why=str(failure))
        await self._running_pool()

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
            warm = self._template and _sees_no_difference(program)
            node = (
                warm and program.language == "javascript" and limits.memory_mb >= _NODE_JOB_MB_MIN
            )
            pool, world = await self._take_world(node=node)
            try:
                if world.group is not None:
                    world.group.limit(_allowance(limits))
                in_template = warm and program.language == "python"
                start = self._start(interpreter, program, limits, in_template=in_template)
                complete = replace(program, env=self._environment | dict(program.env))
                running = Running(world, limits, emit, self._clock)
                self._cells[attempt_id] = world.cell
                end = outcome(await running.run(start, complete, cancel), limits)
                if program.outputs is not None:
                    with world.cell.work() as work:
                        end = await keep(end, work, program.outputs, cancel, self._clock)
            finally:
                self._cells.pop(attempt_id, None)
                pool.give_back_soon(world)
        except (OSError, Unavailable) as failure:
            _log.warning("sandbox_failed", attempt=attempt_id, why=str(failure))
            return _broken(str(failure))
        return end

    async def answers(self, attempt_id: str) -> bool:
        cell = self._cells.get(attempt_id)
        return cell is None or await cell.answers()

    async def close(self) -> None:
        self._opened = False
        if self._pool is not None:
            await self._pool.close()
            self._pool = None
        if self._groups is not None:
            for _ in range(_REMOVALS_MAX):
                if self._groups.close():
                    break
                await self._clock.sleep(_REMOVAL_WAIT_S)
            self._groups = None

    async def _take_world(self, *, node: bool) -> tuple[Pool, World]:
        """A world with the pool it belongs to; a box that has just died is replaced once."""
        pool = await self._running_pool()
        try:
            return pool, await pool.take(node=node)
        except Unavailable:
            if not await pool.ends_within(_ENDING_SHOWS_S):
                raise
        pool = await self._running_pool()
        return pool, await pool.take(node=node)

    async def _running_pool(self) -> Pool:
        async with self._starting:
            if not self._opened:
                raise Unavailable("the sandbox is closed")
            if self._pool is not None and not self._pool.alive:
                _log.warning("box_ended", said=self._pool.complaint())
                await self._pool.close()
                self._pool = None
            if self._pool is None:
                bwrap = find_bwrap()
                if bwrap is None:
                    raise Unavailable("bwrap is gone from this machine")
                box = await start_box(bwrap, self._interpreters, self._environment)
                self._pool = Pool(
                    box,
                    self._groups,
                    self._waiting_max,
                    node=self._interpreters.get("javascript"),
                    nodes_max=self._nodes_max,
                )
                self._pool.refill()
            return self._pool

    def _start(
        self, interpreter: Interpreter, program: Program, limits: Limits, *, in_template: bool
    ) -> wire.Start:
        code_bytes = len(program.code.encode("utf-8", "surrogatepass"))
        code_pages = -(-code_bytes // _PAGE_BYTES)
        held = self._groups.enforces if self._groups is not None else _NOTHING
        return wire.Start(
            path=interpreter.path,
            file=interpreter.file,
            disk_bytes=limits.disk_mb * _MB + code_pages * _PAGE_BYTES,
            disk_files=max(_FILES_MIN, limits.disk_mb * _FILES_PER_MB),
            shm_bytes=limits.memory_mb * _MB,
            processes=0 if Enforcement.PROCESSES in held else limits.processes,
            memory_bytes=0 if Enforcement.MEMORY in held else limits.memory_mb * _MB,
            in_template=in_template,
        )


def _sees_no_difference(program: Program) -> bool:
    """Whether the program can run in an interpreter that was started before it came.

    It cannot when an interpreter, its C library or loader read one of its variables as they start.
    """
    if any(name.startswith(_READ_AT_START) for name in program.env):
        return False
    if program.language != "javascript":
        return True
    texts = "".join((*program.args, *program.env, *program.env.values()))
    return not (_SEES_ITS_START.search(program.code) or _LONE_SURROGATE.search(texts))


def _one_a_cpu() -> int:
    return max(_WAITING_MIN, min(_WAITING_MAX, len(os.sched_getaffinity(0))))


def _allowance(limits: Limits) -> Allowance:
    memory, disk = limits.memory_mb * _MB, limits.disk_mb * _MB
    return Allowance(memory, disk, limits.processes, limits.cpus)


def _broken(why: str) -> Outcome:
    return Outcome(None, Reason.SANDBOX_ERROR, detail=f"The sandbox failed: {why}.")


def _ignore(_stream: Stream, _piece: bytes) -> None:
    return


_HELPS = {
    Enforcement.MEMORY: "systemd-run --user --scope -p Delegate=yes gridx worker ...",
    Enforcement.IO: "echo bfq | sudo tee /sys/block/*/queue/scheduler",
}


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
