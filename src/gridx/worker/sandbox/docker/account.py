"""What the kernel says of one container: its control groups, and how full its disk is.

All of it is read past the engine, and only where that shows: the container's first process must be a
process of this machine, in a group that carries the container's name. An engine in a virtual machine
or elsewhere shows nothing, and an ordinary user may look at groups but not at a disk.
"""

import os
from pathlib import Path
from typing import Self

from gridx.worker.sandbox.base import Enforcement
from gridx.worker.sandbox.cgroups import groups, v1, v2
from gridx.worker.sandbox.cgroups.groups import Allowance, Counters, Watched
from gridx.worker.sandbox.inside.wire import TMP, WORK

_NOTHING = frozenset[Enforcement]()


class Account:
    """One container's; a count that this host does not show is None or 0, as in `Counters`."""

    def __init__(self, groups_of_it: Watched | None, disks: tuple[int, ...]) -> None:
        self._groups = groups_of_it
        self._disks = disks
        self._disk_bytes = 0
        self._before = Counters()

    @classmethod
    def look(cls, identity: str, pid: int) -> Self:
        """The account of container `identity`, whose first process is `pid`."""
        try:
            if not pid or not any(identity in each for each in groups.memberships(pid).values()):
                return cls(None, ())
            found = [each for each in (v2.watch(pid), v1.watch(pid)) if each is not None]
        except OSError:
            return cls(None, ())
        best = max(found, key=lambda each: len(each.enforces), default=None)
        for each in found:
            if each is not best:
                each.close()
        return cls(best, _open_disks(pid))

    @property
    def enforces(self) -> frozenset[Enforcement]:
        """Which limits can be told apart from one another here."""
        counted = self._groups.enforces if self._groups is not None else _NOTHING
        if self._disks:
            return counted | {Enforcement.DISK}
        return counted - {Enforcement.MEMORY}  # what lies on the disk would be taken for it

    @property
    def counts_memory(self) -> bool:
        """Whether `counters` tells of processes that the kernel ended for their memory."""
        return self._groups is not None and Enforcement.MEMORY in self._groups.enforces

    def begin(self, allowance: Allowance) -> None:
        """Count from here, and look whether it keeps to `allowance`."""
        self._disk_bytes = allowance.disk_bytes
        self._before = self._counted()
        if self._groups is not None:
            self._groups.expect(allowance)

    def memory_exceeded(self) -> bool:
        """Whether the job has more memory than its own; False where that cannot be told."""
        if self._groups is None or Enforcement.MEMORY not in self.enforces:
            return False
        try:
            return self._groups.memory_exceeded(self._disk_used)
        except OSError:
            return False  # the container has just ended

    def disk_full(self) -> bool:
        """Whether not one more block, or not one more file, fits on a disk of the job's."""
        found = [os.fstatvfs(each) for each in self._disks]
        return any(each.f_bfree == 0 or each.f_ffree == 0 for each in found)

    def counters(self) -> Counters:
        """What was taken and refused since `begin`."""
        now, before = self._counted(), self._before
        cpu_s = None if now.cpu_s is None else max(0.0, now.cpu_s - (before.cpu_s or 0.0))
        return Counters(
            cpu_s,
            now.peak_memory_bytes,
            now.oom_kills - before.oom_kills,
            now.refused_forks - before.refused_forks,
        )

    def close(self) -> None:
        if self._groups is not None:
            self._groups.close()
            self._groups = None
        for each in self._disks:
            os.close(each)
        self._disks = ()

    def _counted(self) -> Counters:
        try:
            return self._groups.counters() if self._groups is not None else self._before
        except OSError:
            return self._before

    def _disk_used(self) -> int:
        """Bytes on the job's disks; what is more than its disk may hold is memory."""
        found = [os.fstatvfs(each) for each in self._disks]
        used = sum((each.f_blocks - each.f_bfree) * each.f_frsize for each in found)
        return min(used, self._disk_bytes)


def _open_disks(pid: int) -> tuple[int, ...]:
    opened: list[int] = []
    try:
        for folder in (WORK, TMP):
            path = Path(f"/proc/{pid}/root{folder}")
            opened.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError:
        for each in opened:
            os.close(each)
        return ()
    return tuple(opened)
