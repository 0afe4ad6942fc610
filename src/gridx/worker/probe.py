"""What this machine is and could offer: processors, memory, disk, GPUs, languages, sandboxes.

`offered` is what a worker tells a coordinator, `probe` what `gridx doctor` shows a person. GPUs are
shown but not offered: no sandbox here gives a job a GPU of its own, and none gives it them all. The disk
of a job is a file system in memory (its bounds are hard, and nothing of it stays), so memory and
disk are offered out of the same memory, and their sum never is more than that.
"""

import asyncio
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gridx.clock import Clock, SystemClock
from gridx.domain.resources import Resources
from gridx.worker.sandbox.backends import probe_all
from gridx.worker.sandbox.base import Report
from gridx.worker.sandbox.cgroups import groups
from gridx.worker.sandbox.languages import Interpreter, find_interpreters, version_of

_MB = 1 << 20
_RESERVED_MB_MIN = 256
_RESERVED_SHARE = 0.1
_DISK_MB_PER_CPU = 4096
_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker on this machine can give to jobs."""

    resources: Resources
    languages: tuple[str, ...]
    gpus: tuple[str, ...]
    os: str
    arch: str


@dataclass(frozen=True, slots=True)
class Language:
    """An interpreter of this machine; `version` is empty when it did not say."""

    name: str
    version: str
    path: str


@dataclass(frozen=True, slots=True)
class MachineReport:
    """All that is known of this machine; its sandboxes the strongest first."""

    offer: Offer
    languages: tuple[Language, ...]
    gpus: tuple[str, ...]
    sandboxes: tuple[Report, ...]

    @property
    def works(self) -> bool:
        """Whether jobs can be run here at all."""
        return any(each.works for each in self.sandboxes)


async def probe(clock: Clock | None = None) -> MachineReport:
    """Look at everything, trying each sandbox out for real."""
    reports = await probe_all(clock or SystemClock())
    languages = await asyncio.to_thread(_languages, find_interpreters().values())
    return MachineReport(offered(), languages, _gpus(), reports)


def offered(slots: int | None = None) -> Offer:
    """What to offer: `slots` processors (all, without it) and the memory and disk that go along."""
    present = cpus()
    taken = float(slots) if slots is not None else present
    share = min(1.0, taken / present)
    memory_mb, disk_mb = _split(int(memory_available_mb() * share), taken)
    return Offer(
        Resources(taken, memory_mb, 0, disk_mb),
        tuple(find_interpreters()),
        (),
        platform.system().lower(),
        platform.machine(),
    )


def cpus() -> float:
    """Processors this process may use: its affinity, and the quota of its control group."""
    present = float(len(os.sched_getaffinity(0)))
    quota = _cpu_quota()
    return present if quota is None else max(0.01, min(present, quota))


def memory_available_mb() -> int:
    """Memory that may be given to jobs: all of the machine's or its group's, less a reserve."""
    table = Path("/proc/meminfo").read_text().splitlines()
    total_kb = next(int(line.split()[1]) for line in table if line.startswith("MemTotal:"))
    total_mb = total_kb // 1024
    if (bound := _memory_bound_mb()) is not None:
        total_mb = min(total_mb, bound)
    reserve = max(_RESERVED_MB_MIN, int(total_mb * _RESERVED_SHARE))
    return max(0, total_mb - reserve)


def _split(available_mb: int, taken: float) -> tuple[int, int]:
    """Memory and disk out of the same memory."""
    disk_mb = min(available_mb // 2, int(_DISK_MB_PER_CPU * taken))
    return available_mb - disk_mb, disk_mb


def _languages(found: Iterable[Interpreter]) -> tuple[Language, ...]:
    return tuple(Language(each.language, version_of(each), each.host_path) for each in found)


def _gpus() -> tuple[str, ...]:
    """The models of the machine's NVIDIA GPUs, as their driver names them."""
    models: list[str] = []
    for file in sorted(_NVIDIA_GPUS.glob("*/information")) if _NVIDIA_GPUS.is_dir() else ():
        lines = (line.partition(":") for line in file.read_text().splitlines())
        models += [value.strip() for name, _, value in lines if name == "Model"]
    return tuple(models)


def _group_folders(controller: str) -> list[Path]:
    """The folders of this process's groups for `controller`, itself first, then those above."""
    paths = groups.memberships()
    for kind, folder, options in groups.mounts():
        own = paths.get("" if kind == "cgroup2" else controller)
        if own is not None and (kind == "cgroup2" or controller in options):
            here = Path(folder) / own.lstrip("/")
            return [here, *(each for each in here.parents if each.is_relative_to(folder))]
    return []


def _smallest(controller: str, file: str) -> int | None:
    """The smallest whole number in `file` of the process's groups; None where none has one."""
    found = [
        int(text)
        for folder in _group_folders(controller)
        if (folder / file).exists() and (text := (folder / file).read_text().strip()).isdigit()
    ]
    return min(found, default=None)


def _memory_bound_mb() -> int | None:
    bounds = [_smallest("memory", file) for file in ("memory.max", "memory.limit_in_bytes")]
    return min((each // _MB for each in bounds if each is not None), default=None)


def _cpu_quota() -> float | None:
    quotas: list[float] = []
    for folder in _group_folders("cpu"):
        if (folder / "cpu.max").exists():
            quota, _, period = (folder / "cpu.max").read_text().strip().partition(" ")
        elif (folder / "cpu.cfs_quota_us").exists():
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        else:
            continue
        if quota.isdigit():
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)
