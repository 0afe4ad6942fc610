"""Control groups version 1: one hierarchy a controller, as older hosts and some containers have."""

import os
from collections.abc import Callable
from pathlib import Path

from gridx.worker.sandbox.base import Enforcement
from gridx.worker.sandbox.cgroups import groups
from gridx.worker.sandbox.cgroups.groups import Allowance, Counters, MemoryMark

_CONTROLLERS = {
    "memory": Enforcement.MEMORY,
    "pids": Enforcement.PROCESSES,
    "cpu": Enforcement.CPU,
    "cpuacct": None,
    "blkio": Enforcement.IO,
}
_IO_WEIGHT = "blkio.bfq.weight"


class GroupsV1:
    """Groups below the worker's own in every hierarchy that it may write."""

    version = "version 1"

    def __init__(self, folders: dict[str, Path]) -> None:
        self._name = groups.own_name()
        self._above = folders
        self._own = {each: folder / self._name for each, folder in folders.items()}
        self._removed_later: list[Path] = []

    @property
    def enforces(self) -> frozenset[Enforcement]:
        return _promises(self._own)

    def open(self) -> None:
        for folder in set(self._above.values()):
            for each in folder.glob(f"{groups.NAME_PREFIX}*"):
                if groups.is_abandoned(each.name):
                    groups.remove_tree(each)
        for folder in set(self._own.values()):
            folder.mkdir()
        if blkio := self._own.get("blkio"):
            if (blkio / _IO_WEIGHT).exists():
                (blkio / _IO_WEIGHT).write_text(str(groups.IO_WEIGHT))
            else:  # a kernel whose schedulers know no groups
                del self._own["blkio"]
                groups.remove_tree(blkio)

    def make(self, name: str) -> "GroupV1":
        self._removed_later = [each for each in self._removed_later if not _removed(each)]
        return GroupV1({each: own / name for each, own in self._own.items()}, self._remove)

    def close(self) -> bool:
        return all(groups.remove_tree(folder) for folder in set(self._own.values()))

    def _remove(self, folder: Path) -> None:
        if not _removed(folder):
            self._removed_later.append(folder)


class WatchedV1:
    """Groups of one attempt, one in each hierarchy, whoever made and bounded them."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders
        counted = "memory" in folders
        self._mark = MemoryMark(self._memory("usage_in_bytes")) if counted else None

    @property
    def enforces(self) -> frozenset[Enforcement]:
        return _promises(self._folders)

    def expect(self, allowance: Allowance) -> None:
        if self._mark is not None:
            self._mark.limit(allowance)

    def memory_exceeded(self, disk_used: Callable[[], int]) -> bool:
        if self._mark is None or (usage := self._mark.passed()) is None:
            return False
        if self.counters().oom_kills:
            return True
        stat = groups.read_table(self._memory("stat"))
        return self._mark.exceeded(usage, stat["cache"], stat["shmem"], disk_used())

    def counters(self) -> Counters:
        cpu_s = peak = None
        oom_kills = refused_forks = 0
        if "cpuacct" in self._folders:
            cpu_s = int(groups.read(self._folders["cpuacct"] / "cpuacct.usage")) / 1e9
        if "memory" in self._folders:
            peak = int(groups.read(self._memory("max_usage_in_bytes")))
            oom_kills = groups.read_table(self._memory("oom_control")).get("oom_kill", 0)
        if "pids" in self._folders:
            events = groups.read_table(self._folders["pids"] / "pids.events")
            refused_forks = events.get("max", 0)
        return Counters(cpu_s, peak, oom_kills, refused_forks)

    def close(self) -> None:
        if self._mark is not None:
            self._mark.close()

    def _memory(self, name: str) -> Path:
        return self._folders["memory"] / f"memory.{name}"


class GroupV1(WatchedV1):
    """Groups of one attempt that were made here."""

    def __init__(self, folders: dict[str, Path], remove: Callable[[Path], None]) -> None:
        self._remove = remove
        unique = set(folders.values())
        for each in unique:
            each.mkdir()
        self._joins = tuple(os.open(each / "cgroup.procs", os.O_WRONLY) for each in unique)
        super().__init__(folders)

    @property
    def joins(self) -> tuple[int, ...]:
        return self._joins

    def limit(self, allowance: Allowance) -> None:
        self.expect(allowance)
        if "memory" in self._folders:
            groups.write(self._memory("limit_in_bytes"), allowance.all_bytes)
            with_swap = self._memory("memsw.limit_in_bytes")
            if with_swap.exists():
                groups.write(with_swap, allowance.all_bytes)
        if pids := self._folders.get("pids"):
            groups.write(pids / "pids.max", allowance.processes)
        if cpu := self._folders.get("cpu"):
            groups.write(cpu / "cpu.shares", allowance.cpu_shares)
            if (quota := allowance.cpu_quota_us) is not None:
                groups.write(cpu / "cpu.cfs_quota_us", quota)

    def close(self) -> None:
        super().close()
        for each in self._joins:
            os.close(each)
        for folder in set(self._folders.values()):
            self._remove(folder)


def find() -> GroupsV1 | None:
    """The hierarchies of version 1 in which this process may make groups; None without any."""
    paths = groups.memberships()
    folders: dict[str, Path] = {}
    useful = set(_CONTROLLERS)
    if not groups.all_use_bfq(groups.disks()):
        useful.remove("blkio")  # nobody would look at its weights
    for kind, folder, options in groups.mounts():
        for controller in options & useful if kind == "cgroup" else ():
            own = Path(folder) / paths.get(controller, "/").lstrip("/")
            if os.access(own, os.W_OK):
                folders[controller] = own
    return GroupsV1(folders) if folders else None


def watch(pid: int) -> WatchedV1 | None:
    """The groups that process `pid` is in, where they can be seen; None where they cannot."""
    paths = groups.memberships(pid)
    folders: dict[str, Path] = {}
    for kind, folder, options in groups.mounts():
        for controller in options & set(_CONTROLLERS) if kind == "cgroup" else ():
            own = Path(folder) / paths.get(controller, "/").lstrip("/")
            if own != Path(folder) and own.is_dir():
                folders[controller] = own
    return WatchedV1(folders) if folders else None


def _promises(folders: dict[str, Path]) -> frozenset[Enforcement]:
    return frozenset(kept for each in folders if (kept := _CONTROLLERS[each]) is not None)


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
