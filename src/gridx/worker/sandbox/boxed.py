"""What the sandboxes share whose attempts live in worlds of one box; they differ in the job's kernel.

Theory of operation. `box` starts `bwrap` once, with a template interpreter in it; `cell` has the
template fork a fresh world (namespaces, mounts, uid) for one attempt and sends it the program;
`cgroups` bounds and counts it; `outputs` reads what it writes; `running` ends it when it must be
ended; `ending` decides from what was seen how it ended. The order of a run: group, cell, limits,
program, end; then `collector` takes what the job wants kept of its work folder, the cell is closed and
the group removed, and nothing is left.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gridx.clock import Clock, SystemClock
from gridx.domain.errors import Unavailable
from gridx.telemetry import get_logger
from gridx.worker.sandbox import rootfs
from gridx.worker.sandbox.base import (
    NEVER_RAN,
    Emit,
    Enforcement,
    Limits,
    Outcome,
    Program,
    Report,
    broken,
    lacking,
    one_a_cpu,
    try_out,
)
from gridx.worker.sandbox.box import find_bwrap, start_box
from gridx.worker.sandbox.cell import Cell
from gridx.worker.sandbox.cgroups import v1, v2
from gridx.worker.sandbox.cgroups.groups import Allowance, Groups
from gridx.worker.sandbox.collector import keep
from gridx.worker.sandbox.ending import outcome
from gridx.worker.sandbox.inside import wire
from gridx.worker.sandbox.languages import Interpreter, find_interpreters, may_have_waited
from gridx.worker.sandbox.pool import Pool
from gridx.worker.sandbox.running import Running, World

_MB = 1 << 20
_PAGE_BYTES = 4096
_FILES_PER_MB = 128
_WORLD_MB, _NODE_MB = 2, 40  # what one that waits takes
_NODE_JOB_MB_MIN = 64  # a job's bound cannot be set below what Node holds by then
_FILES_MIN = 4096
_ENDING_SHOWS_S = 1.0
_REMOVALS_MAX, _REMOVAL_WAIT_S = 200, 0.01  # the kernel lets go of a dead process's group late
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """Which sandbox it is that lives in the box.

    `always` is what it enforces without control groups; `runsc` is the program that gives each job a
    kernel of its own, empty where it is the machine's; `template` has jobs run in an interpreter that waits, instead of a new one, where Node takes no
    more than fits into `waiting_memory_mb`; `allowance` says what a job's control group may take.
    """

    name: str
    always: frozenset[Enforcement]
    allowance: Callable[[Limits], Allowance]
    runsc: str = ""
    template: bool = False
    waiting_memory_mb: int = 0

    def nodes_max(self, worlds: int) -> int:
        """How many Nodes may wait beside so many waiting worlds."""
        room_mb = self.waiting_memory_mb - worlds * _WORLD_MB
        return max(0, room_mb // (_WORLD_MB + _NODE_MB)) if worlds and self.template else 0


class Boxed:
    """Runs programs in worlds of one box; `waiting_max` of them wait ready for a program."""

    def __init__(self, kind: Kind, clock: Clock | None, waiting_max: int | None) -> None:
        self._kind = kind
        self._clock = clock or SystemClock()
        self._waiting_max = one_a_cpu() if waiting_max is None else waiting_max
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
        return self._kind.name

    @property
    def lacks(self) -> tuple[Enforcement, ...]:
        return lacking(self.enforces)

    @property
    def enforces(self) -> frozenset[Enforcement]:
        """What this host holds, once it is open."""
        return self._kind.always | self.counts

    @property
    def counts(self) -> frozenset[Enforcement]:
        """What the control groups of this host hold; nothing before it is open."""
        return self._groups.enforces if self._groups is not None else frozenset()

    async def open(self) -> None:
        """Find control groups, sweep those of workers that are gone, and start the box."""
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
        """Run `program` to its end in a world of its own."""
        if cancel.is_set():
            return NEVER_RAN
        interpreter = self._interpreters.get(program.language)
        if interpreter is None:
            return broken(f"this machine has no interpreter for {program.language}")
        try:
            warm = self._kind.template and may_have_waited(program)
            enough = limits.memory_mb >= _NODE_JOB_MB_MIN
            node = warm and program.language == "javascript" and enough
            pool, world = await self._take_world(node=node)
            try:
                if world.group is not None:
                    world.group.limit(self._kind.allowance(limits))
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
            return broken(failure)
        return end

    async def answers(self, attempt_id: str) -> bool:
        """Whether the attempt's supervisor does."""
        cell = self._cells.get(attempt_id)
        return cell is None or await cell.answers()

    async def close(self) -> None:
        """End whatever still runs and remove the control groups."""
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
                box = await start_box(
                    bwrap, self._interpreters, self._environment, self._kind.runsc
                )
                self._pool = Pool(
                    box,
                    self._groups,
                    self._waiting_max,
                    node=self._interpreters.get("javascript"),
                    nodes_max=self._kind.nodes_max(self._waiting_max),
                )
                self._pool.refill()
            return self._pool

    def _start(
        self, interpreter: Interpreter, program: Program, limits: Limits, *, in_template: bool
    ) -> wire.Start:
        code_bytes = len(program.code.encode("utf-8", "surrogatepass"))
        code_pages = -(-code_bytes // _PAGE_BYTES)
        # The host's tasks are not the job's where it has a kernel of its own, which counts those.
        counted = Enforcement.PROCESSES in self.counts and not self._kind.runsc
        return wire.Start(
            path=interpreter.path,
            file=interpreter.file,
            disk_bytes=limits.disk_mb * _MB + code_pages * _PAGE_BYTES,
            disk_files=max(_FILES_MIN, limits.disk_mb * _FILES_PER_MB),
            shm_bytes=limits.memory_mb * _MB,
            processes=0 if counted else limits.processes,
            memory_bytes=0 if Enforcement.MEMORY in self.counts else limits.memory_mb * _MB,
            overhead_bytes=self._kind.allowance(limits).overhead_bytes,
            in_template=in_template,
        )


async def probe(trial: Boxed, missing: tuple[str, ...] = ()) -> Report:
    """Open `trial`, run one program in it, close it, and say what this host enforces.

    `missing` has commands that would help.
    """
    enforces = trial.enforces
    try:
        await trial.open()
        enforces = trial.enforces
        why_not = await try_out(trial.run)
    except Unavailable as failure:
        why_not = failure.message
    finally:
        await trial.close()
    if why_not:
        advice = (*missing, *_advice())
        return Report(trial.name, works=False, why_not=why_not, advice=advice)
    advice = tuple(helps for lacked, helps in _HELPS.items() if lacked not in enforces)
    return Report(trial.name, works=True, enforces=enforces, advice=advice)


def check_bwrap(name: str) -> None:
    """Raise `Unavailable` for the sandbox called `name` where no box can be made."""
    if find_bwrap() is None:
        raise Unavailable(
            f"bwrap, which the {name} sandbox is built with, is missing: install the Debian package "
            "bubblewrap, or gridx-compute[worker], which carries it"
        )


_HELPS = {
    Enforcement.MEMORY: "systemd-run --user --scope -p Delegate=yes gridx worker ...",
    Enforcement.IO: "echo bfq | sudo tee /sys/block/*/queue/scheduler",
}


def _advice() -> tuple[str, ...]:
    """Commands that open what is most often closed to a box, for those that are closed here."""
    commands: list[str] = []
    if find_bwrap() is None:
        commands.append("sudo apt-get install bubblewrap")
    for setting, value in _SETTINGS.items():
        path = Path("/proc/sys") / setting.replace(".", "/")
        if path.exists() and path.read_text().strip() == value[0]:
            commands.append(f"sudo sysctl -w {setting}={value[1]}")
    return tuple(commands)


_SETTINGS = {
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
    "user.max_user_namespaces": ("0", "15000"),
}
"""What closes user namespaces to ordinary users -> the value that closes and the one that opens."""
