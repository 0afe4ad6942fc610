"""Control groups version 2: the unified hierarchy, delegated to the worker or owned by root."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from gridx.worker.sandbox.base import Enforcement
from gridx.worker.sandbox.cgroups import groups
from gridx.worker.sandbox.cgroups.groups import Allowance, Counters, MemoryMark

_CONTROLLERS = {
    "memory": Enforcement.MEMORY,
    "pids": Enforcement.PROCESSES,
    "cpu": Enforcement.CPU,
    "io": Enforcement.IO,
}
_IO_WEIGHTS = ("io.bfq.weight", "io.weight")
_WEIGHT_OF_A_CPU = 100
_SLACK_BYTES = 1 << 20  # so that the mark is passed before the kernel slows the job down
_WORKERS_LEAF = "gridx-worker"


class GroupsV2:
    """Groups below one made for this worker, with the controllers that could be handed down."""

    version = "version 2"

    def __init__(self, above: Path, controllers: frozenset[str]) -> None:
        self._above = above
        self._own = above / groups.own_name()
        self._controllers = controllers
        self._removed_later: list[Path] = []

    @property
    def enforces(self) -> frozenset[Enforcement]:
        return frozenset(_CONTROLLERS[each] for each in self._controllers)

    def open(self) -> None:
        for each in self._above.glob(f"{groups.NAME_PREFIX}*"):
            if groups.is_abandoned(each.name):
                groups.remove_tree(each)
        self._own.mkdir()
        _hand_down(self._own)
        for each in _IO_WEIGHTS if "io" in self._controllers else ():
            if (self._own / each).exists():
                (self._own / each).write_text(str(groups.IO_WEIGHT))

    def make(self, name: str) -> "GroupV2":
        self._removed_later = [each for each in self._removed_later if not groups.remove_tree(each)]
        return GroupV2(self._own / name, self._controllers, self._remove)

    def close(self) -> bool:
        return groups.remove_tree(self._own)

    def _remove(self, folder: Path) -> None:
        if not groups.remove_tree(folder):
            self._removed_later.append(folder)


class WatchedV2:
    """One attempt's group, whoever made and bounded it."""

    def __init__(self, folder: Path, controllers: frozenset[str]) -> None:
        self._folder = folder
        self._controllers = controllers
        counted = "memory" in controllers
        self._mark = MemoryMark(folder / "memory.current") if counted else None

    @property
    def enforces(self) -> frozenset[Enforcement]:
        return frozenset(_CONTROLLERS[each] for each in self._controllers)

    def expect(self, allowance: Allowance) -> None:
        if self._mark is not None:
            self._mark.limit(allowance)

    def memory_exceeded(self, disk_used: Callable[[], int]) -> bool:
        if self._mark is None or (usage := self._mark.passed()) is None:
            return False
        if self.counters().oom_kills:
            return True
        stat = groups.read_table(self._folder / "memory.stat")
        files = stat["file"] + stat.get("slab_reclaimable", 0)
        return self._mark.exceeded(usage, files, stat["shmem"], disk_used())

    def counters(self) -> Counters:
        stat = groups.read_table(self._folder / "cpu.stat")
        peak = None
        oom_kills = refused_forks = 0
        if "memory" in self._controllers:
            oom_kills = groups.read_table(self._folder / "memory.events").get("oom_kill", 0)
            peak_file = self._folder / "memory.peak"  # since kernel 5.19
            peak = int(groups.read(peak_file)) if peak_file.exists() else None
        if "pids" in self._controllers:
            refused_forks = groups.read_table(self._folder / "pids.events").get("max", 0)
        return Counters(stat.get("usage_usec", 0) / 1e6, peak, oom_kills, refused_forks)

    def close(self) -> None:
        if self._mark is not None:
            self._mark.close()


class GroupV2(WatchedV2):
    """One attempt's group that was made here."""

    def __init__(
        self, folder: Path, controllers: frozenset[str], remove: Callable[[Path], None]
    ) -> None:
        self._remove = remove
        folder.mkdir()
        self._joins = (os.open(folder / "cgroup.procs", os.O_WRONLY),)
        super().__init__(folder, controllers)

    @property
    def joins(self) -> tuple[int, ...]:
        return self._joins

    def limit(self, allowance: Allowance) -> None:
        self.expect(allowance)
        if self._mark is not None:
            self._write("memory.max", allowance.all_bytes)
            self._write("memory.high", self._mark.mark_bytes + _SLACK_BYTES)
            self._write("memory.oom.group", 1)
            if (self._folder / "memory.swap.max").exists():
                self._write("memory.swap.max", 0)
        if "pids" in self._controllers:
            self._write("pids.max", allowance.processes)
        if "cpu" in self._controllers:
            weight = max(1, min(10_000, round(allowance.cpus * _WEIGHT_OF_A_CPU)))
            self._write("cpu.weight", weight)
            if (quota := allowance.cpu_quota_us) is not None:
                self._write("cpu.max", f"{quota} {groups.CPU_PERIOD_US}")

    def memory_exceeded(self, disk_used: Callable[[], int]) -> bool:
        before = self._mark.mark_bytes if self._mark is not None else 0
        if super().memory_exceeded(disk_used):
            return True
        if self._mark is not None and self._mark.mark_bytes != before:
            self._write("memory.high", self._mark.mark_bytes + _SLACK_BYTES)
        return False

    def close(self) -> None:
        super().close()
        for each in self._joins:
            os.close(each)
        self._remove(self._folder)

    def _write(self, name: str, value: int | str) -> None:
        groups.write(self._folder / name, value)


def find() -> GroupsV2 | None:
    """A place of version 2 in which this process may make groups; None without one."""
    for kind, folder, _ in groups.mounts():
        if kind != "cgroup2":
            continue
        top = Path(folder)
        own = top / groups.memberships().get("", "/").lstrip("/")
        for above in _places(top, own):
            heeded = {"io"} if weighs_disks(top, groups.disks()) else set[str]()
            if controllers := _hand_down(above) & (set(_CONTROLLERS) - {"io"} | heeded):
                return GroupsV2(above, controllers)
    return None


def weighs_disks(top: Path, disks: list[Path]) -> bool:
    """Whether every disk heeds the weights of groups: by its scheduler, or by the cost of I/O."""
    costs = top / "io.cost.qos"
    lines = costs.read_text().splitlines() if costs.exists() else []
    by_cost = {line.split()[0] for line in lines if "enable=1" in line.split()}
    costly = bool(disks) and {(each / "dev").read_text().strip() for each in disks} <= by_cost
    return costly or groups.all_use_bfq(disks)


def watch(pid: int) -> WatchedV2 | None:
    """The group that process `pid` is in, where it can be seen; None where it cannot."""
    for kind, folder, _ in groups.mounts():
        own = Path(folder) / groups.memberships(pid).get("", "/").lstrip("/")
        if kind == "cgroup2" and own != Path(folder) and (own / "cgroup.controllers").exists():
            controllers = set((own / "cgroup.controllers").read_text().split())
            if found := frozenset(controllers & set(_CONTROLLERS)):
                return WatchedV2(own, found)
    return None


def _places(top: Path, own: Path) -> Iterator[Path]:
    """Where groups could be made: in the worker's own group, beside it, or (as root) on top."""
    offered = own / "cgroup.controllers"
    if not offered.exists() or not offered.read_text().strip():
        return
    if own.name == _WORKERS_LEAF:  # of an earlier look by this process
        yield own.parent
    elif (own / "cgroup.type").exists() and os.access(own, os.W_OK):  # not the machine's root
        _step_aside(own)
        yield own
    if os.access(top, os.W_OK):
        yield top


def _step_aside(own: Path) -> None:
    """Move the worker into a leaf: a group that hands controllers down holds no process.

    The worker is this process, and where root started it the one that it was forked from.
    """
    present = {int(each) for each in (own / "cgroup.procs").read_text().split()}
    if not present <= {os.getpid(), os.getppid()} or not all(map(_is_ours, present)):
        return
    leaf = own / _WORKERS_LEAF
    leaf.mkdir(exist_ok=True)
    for each in present:
        (leaf / "cgroup.procs").write_text(str(each))


def _is_ours(pid: int) -> bool:
    """Whether it is a process of the worker; of another pid namespace is 0, which is not."""
    return pid > 0 and os.getpgid(pid) == os.getpgrp()


def _hand_down(folder: Path) -> frozenset[str]:
    """Hand every controller we use down to the groups below; says which of them are."""
    control = folder / "cgroup.subtree_control"
    try:
        offered = set((folder / "cgroup.controllers").read_text().split())
    except OSError:
        return frozenset()
    for each in sorted(offered & set(_CONTROLLERS)):
        with suppress(OSError):
            control.write_text(f"+{each}")
    try:
        return frozenset(control.read_text().split()) & frozenset(_CONTROLLERS)
    except OSError:
        return frozenset()
