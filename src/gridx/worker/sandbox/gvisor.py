"""The `gvisor` backend: the job runs on a kernel of its own, in a box as bubblewrap's jobs do.

Theory of operation. A box and the worlds in it are made as `boxed` tells; the job's process in a
world is not an interpreter but `runsc`, used through its OCI interface, without a daemon
(`inside.guest`). So a job that breaks out of gVisor's kernel is an unprivileged process in a box
without network, as a job of the `bubblewrap` backend is from its start.
"""

import shutil
from pathlib import Path

from gridx.clock import Clock
from gridx.domain.errors import Unavailable
from gridx.worker.sandbox import boxed
from gridx.worker.sandbox.base import Enforcement, Limits, Report
from gridx.worker.sandbox.cgroups.groups import Allowance

NAME = "gvisor"
_MB = 1 << 20
_OVERHEAD_MB, _OVERHEAD_MB_A_PROCESS = 64, 0.5
_TASKS, _TASKS_A_PROCESS = 200, 64
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


class Gvisor(boxed.Boxed):
    """Runs programs on gVisor's kernel; `waiting_max` worlds wait ready for a program."""

    def __init__(self, clock: Clock | None = None, *, waiting_max: int | None = None) -> None:
        self._runsc = _find_runsc()
        super().__init__(
            boxed.Kind(NAME, _ALWAYS, _allowance, runsc=self._runsc), clock, waiting_max
        )

    async def probe(self) -> Report:
        """Try out a box of its own and say what this host enforces."""
        missing = () if self._runsc else ("sudo apt-get install runsc",)
        return await boxed.probe(Gvisor(self._clock, waiting_max=0), missing)

    async def open(self) -> None:
        if not self._runsc:
            raise Unavailable(f"runsc, which the {NAME} sandbox runs, is missing on this machine")
        boxed.check_bwrap(NAME)
        await super().open()


def _find_runsc() -> str:
    found = shutil.which("runsc")
    return "" if found is None else str(Path(found).resolve())


def _allowance(limits: Limits) -> Allowance:
    return Allowance(
        memory_bytes=limits.memory_mb * _MB,
        disk_bytes=limits.disk_mb * _MB,
        processes=_TASKS + limits.processes * _TASKS_A_PROCESS,
        cpus=limits.cpus,
        overhead_bytes=round((_OVERHEAD_MB + limits.processes * _OVERHEAD_MB_A_PROCESS) * _MB),
    )
