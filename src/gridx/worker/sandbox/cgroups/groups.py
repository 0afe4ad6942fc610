"""Control groups behind one interface, whichever version this host has.

A job's group bounds memory, processes and CPU, and counts what the limits refused: every `reason`
of a limit comes from these counters, never from an exit code.

Memory and disk. The work folder and `/tmp` are a tmpfs, whose pages the kernel charges to the job's
group like any memory. So the group's hard bound is memory + disk, which is what the job's worker
set aside for it, and memory that is *not* on the job's disk is held to its own limit by watching:
the worker reads the usage every few milliseconds, and once it passes the limit looks what the disk
explains of it (`MemoryMark`). Version 2 also slows the job down at that mark (`memory.high`).
(Version 1 could wake the worker, but to be asked for that it waits for all processors to take note,
which blocks for 10 ms and more.)
"""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gridx.worker.sandbox.base import Enforcement

NAME_PREFIX = "gridx-"
STEP_BYTES_MIN = 1 << 20
CPU_PERIOD_US = 100_000
IO_WEIGHT = 50
"""Of a worker's disk traffic, where the machine's own has 100; attempts share it equally."""
_FILE_BYTES_MAX = 16_384
_SHARES_OF_A_CPU = 1024
_instances = itertools.count()


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a group may take; `disk_bytes` is the part of its memory that is its disk.

    `overhead_bytes` is what a kernel of the job's own may take beside the job: of memory that is
    not shared, because the job's itself lies in a memory file of that kernel's.
    """

    memory_bytes: int
    disk_bytes: int
    processes: int
    cpus: float
    overhead_bytes: int = 0

    @property
    def all_bytes(self) -> int:
        """The bound of all its memory."""
        return self.memory_bytes + self.disk_bytes + self.overhead_bytes

    @property
    def cpu_quota_us(self) -> int | None:
        """CPU time in each `CPU_PERIOD_US`; None when the host has no more than that."""
        if self.cpus >= (os.cpu_count() or 1):
            return None
        return max(1_000, round(self.cpus * CPU_PERIOD_US))

    @property
    def cpu_shares(self) -> int:
        """Its weight among others, in the unit of version 1 and of container engines."""
        return max(2, round(self.cpus * _SHARES_OF_A_CPU))


@dataclass(frozen=True, slots=True)
class Counters:
    """The kernel's own account of a group; None where this host does not keep it."""

    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    oom_kills: int = 0
    refused_forks: int = 0


class Watched(Protocol):
    """The control group of one attempt, whoever made it."""

    @property
    def enforces(self) -> frozenset[Enforcement]:
        """Which promises can be told from it."""
        ...

    def expect(self, allowance: Allowance) -> None:
        """From now on it may take so much memory, and so much on its disk."""
        ...

    def memory_exceeded(self, disk_used: Callable[[], int]) -> bool:
        """Whether the group's memory without its disk is past its limit; asked all the time."""
        ...

    def counters(self) -> Counters:
        """What the group has taken and been refused so far."""
        ...

    def close(self) -> None:
        """Look at it no more; a group that was made here is given up, its processes ended."""
        ...


class Group(Watched, Protocol):
    """The control group of one attempt, made here."""

    @property
    def joins(self) -> tuple[int, ...]:
        """Open files; a process that writes `0` to each is in the group."""
        ...

    def limit(self, allowance: Allowance) -> None:
        """Bound the group from now on."""
        ...


class Groups(Protocol):
    """Makes groups below one of this worker's own."""

    @property
    def version(self) -> str:
        """Which control groups these are, for a person."""
        ...

    @property
    def enforces(self) -> frozenset[Enforcement]:
        """Which promises these groups keep on this host."""
        ...

    def open(self) -> None:
        """Make this worker's own group and remove those of workers that are gone."""
        ...

    def make(self, name: str) -> Group:
        """A fresh, empty group without bounds."""
        ...

    def close(self) -> bool:
        """Remove every group made here; False while the kernel still holds one."""
        ...


class MemoryMark:
    """Tells when a group's usage has grown so far that a closer look is due.

    Most looks cost one read of one number. What is held against a job is what the kernel could not
    simply drop, without what lies on its disk and without its allowance's overhead.
    """

    def __init__(self, usage_file: Path) -> None:
        self._descriptor = os.open(usage_file, os.O_RDONLY)
        self.memory_bytes = 0
        self.overhead_bytes = 0
        self.mark_bytes = 0

    def limit(self, allowance: Allowance) -> None:
        self.memory_bytes = self.mark_bytes = allowance.memory_bytes
        self.overhead_bytes = allowance.overhead_bytes

    def passed(self) -> int | None:
        """The usage in bytes when it is past the mark."""
        usage = int(os.pread(self._descriptor, 32, 0))
        return usage if usage > self.mark_bytes else None

    def exceeded(
        self, usage_bytes: int, file_bytes: int, shared_bytes: int, disk_bytes: int
    ) -> bool:
        """Whether the memory is too much; else the mark moves on.

        Of `usage_bytes`, `file_bytes` are pages of files, `shared_bytes` of those shared memory,
        and `disk_bytes` of those the job's disk.
        """
        overhead = min(self.overhead_bytes, usage_bytes - file_bytes)
        held = usage_bytes - overhead - (file_bytes - shared_bytes) - disk_bytes
        if held > self.memory_bytes:
            return True
        room = self.memory_bytes - held
        self.mark_bytes = usage_bytes + max(room, self.memory_bytes // 16, STEP_BYTES_MIN)
        return False

    def close(self) -> None:
        os.close(self._descriptor)


def own_name() -> str:
    """A name for this worker's group that tells whether its maker still lives."""
    pid = os.getpid()
    return f"{NAME_PREFIX}{pid}-{_started_at(pid)}-{next(_instances)}"


def is_abandoned(name: str) -> bool:
    """Whether the group called `name` is of a Grid-X worker that is gone."""
    parts = name.removeprefix(NAME_PREFIX).split("-")
    if not name.startswith(NAME_PREFIX) or len(parts) != 3 or not parts[0].isdigit():
        return False
    return _started_at(int(parts[0])) != parts[1]


def remove_tree(folder: Path) -> bool:
    """Remove a group with those below it; False when the kernel still holds one."""
    try:
        for each in folder.iterdir():
            if each.is_dir():
                remove_tree(each)
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def disks(blocks: Path = Path("/sys/block")) -> list[Path]:
    """The machine's disks, as the kernel shows them; not what is made of files and memory."""
    shown = blocks.iterdir() if blocks.is_dir() else ()
    return [each for each in shown if (each / "device").exists()]


def all_use_bfq(found: list[Path]) -> bool:
    """Whether there are disks, and each has the scheduler that heeds the weights of groups."""
    files = [each / "queue" / "scheduler" for each in found]
    return bool(files) and all(each.exists() and "[bfq]" in each.read_text() for each in files)


def write(path: Path, value: int | str) -> None:
    """Write a file of the kernel's, faster than `Path`: each program's start waits for five."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def read(path: Path) -> str:
    """A file of the kernel's that is at most a page long."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, _FILE_BYTES_MAX).decode()
    finally:
        os.close(descriptor)


def read_table(path: Path) -> dict[str, int]:
    """A file of lines `name number`."""
    rows = (line.split() for line in read(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def mounts() -> list[tuple[str, str, frozenset[str]]]:
    """Every mounted control group file system: its kind, folder and options."""
    found: list[tuple[str, str, frozenset[str]]] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            found.append((kind, before.split()[4], frozenset(options.split(","))))
    return found


def memberships(pid: int | None = None) -> dict[str, str]:
    """The group of a process (this one) for each controller (of version 2 under the empty name)."""
    result: dict[str, str] = {}
    for line in Path(f"/proc/{pid or 'self'}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for each in controllers.split(","):
            result[each] = path
    return result


def _started_at(pid: int) -> str:
    """When the process started, in the kernel's ticks; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
