"""The `bubblewrap` backend: the job runs on the machine's kernel, behind a filter of system calls.

How a box and the worlds in it are made is told in `boxed`.
"""

import os

from gridx.clock import Clock
from gridx.domain.errors import Unavailable
from gridx.worker.sandbox import boxed
from gridx.worker.sandbox.base import Enforcement, Limits, Report
from gridx.worker.sandbox.cgroups.groups import Allowance
from gridx.worker.sandbox.inside import filter as calls

NAME = "bubblewrap"
_MB = 1 << 20
_WAITING_MEMORY_MB = 60
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


class Bubblewrap(boxed.Boxed):
    """Runs programs in namespaces of their own on Linux.

    `waiting_max` worlds wait ready for a program, by default one for each processor; with
    `template`, jobs run in interpreters that wait in them, instead of new ones: those in Python
    forked from the template, those in JavaScript in a Node, which takes its part of
    `waiting_memory_mb`.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        waiting_max: int | None = None,
        waiting_memory_mb: int = _WAITING_MEMORY_MB,
        template: bool = True,
    ) -> None:
        kind = boxed.Kind(
            NAME, _ALWAYS, _allowance, template=template, waiting_memory_mb=waiting_memory_mb
        )
        super().__init__(kind, clock, waiting_max)

    async def probe(self) -> Report:
        """Try out a box of its own and say what this host enforces."""
        return await boxed.probe(Bubblewrap(self._clock, waiting_max=0))

    async def open(self) -> None:
        machine = os.uname().machine
        if not calls.supported(machine):
            raise Unavailable(f"the {NAME} sandbox knows no system call filter for {machine}")
        boxed.check_bwrap(NAME)
        await super().open()


def _allowance(limits: Limits) -> Allowance:
    memory, disk = limits.memory_mb * _MB, limits.disk_mb * _MB
    return Allowance(memory, disk, limits.processes, limits.cpus)
