"""What this machine holds of sandboxes: processes, mounts, control groups, descriptors."""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gridx.worker.sandbox.cgroups import groups

_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Traces:
    """Counts that must be the same before and after jobs."""

    processes: int
    mounts: int
    control_groups: int
    descriptors: int


def count(root_pid: int | None = None) -> Traces:
    """Look at this process, everything below it, and the machine around it."""
    return Traces(
        processes=len(descendants(root_pid or os.getpid())),
        mounts=len(Path("/proc/self/mountinfo").read_text().splitlines()),
        control_groups=sum(
            len(list(each.glob("attempt-*"))) for each in own_groups() if _is_ours(each)
        ),
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
    )


def descendants(pid: int) -> set[int]:
    """Every process that this one started, and those that they started."""
    parents: dict[int, list[int]] = {}
    for name in [each.name for each in Path("/proc").iterdir()]:
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found.update(children)
        waiting += children
    return found


def waiting_nodes() -> set[int]:
    """The processes below this one in which Node waits for its program, or runs it."""
    found: set[int] = set()
    for pid in descendants(os.getpid()):
        with suppress(OSError):  # it has just ended
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if words[1:2] == ["/work/main.js"]:
                found.add(pid)
    return found


async def waiting_node() -> int:
    """The process in which Node waits, once there is one."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        while not (found := waiting_nodes()):
            await loop.run_in_executor(None, _a_moment)
    return min(found)


def own_groups() -> list[Path]:
    """The control groups of workers that stand on this machine."""
    found: list[Path] = []
    for folder, names, _ in os.walk(_GROUPS):
        ours = [name for name in names if name.startswith(groups.NAME_PREFIX)]
        found += [Path(folder) / name for name in ours if name.count("-") == 3]
        names[:] = [name for name in names if name not in ours]
    return found


def _is_ours(group: Path) -> bool:
    return group.name.startswith(f"{groups.NAME_PREFIX}{os.getpid()}-")


async def settled(expected: Traces) -> Traces:
    """The counts once they are as expected, or as they still are after ten seconds."""
    seen = count()
    for _ in range(1000):
        if seen == expected:
            break
        await asyncio.get_running_loop().run_in_executor(None, _a_moment)
        seen = count()
    return seen


def _a_moment() -> None:
    os.sched_yield()
    with Path("/dev/urandom").open("rb") as source:
        source.read(4 << 20)
