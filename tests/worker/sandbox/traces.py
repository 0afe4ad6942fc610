"""What this machine holds of sandboxes: processes, mounts, control groups, descriptors."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gridx.worker.sandbox.cgroups import groups

_GROUPS = Path("/sys/fs/cgroup")
_SERVERS = {"postgres"}
"""Those of other tests start and end processes of their own as they like."""
TEST_DISK = "gridx-test-disk"
"""What a test mounts for itself, perhaps in another process at the same time."""


@dataclass(frozen=True)
class Traces:
    """What must not have become more by jobs; processes by their ids.

    Descriptors are told with what they stand for: a number that is used anew is nothing more.
    """

    processes: frozenset[int]
    mounts: int
    control_groups: int
    descriptors: frozenset[str]

    def beyond(self, before: "Traces") -> "Traces":
        """What is here that was not before: what was there may have ended meanwhile."""
        more = len(self.descriptors) > len(before.descriptors)
        return Traces(
            self.processes - before.processes,
            max(0, self.mounts - before.mounts),
            max(0, self.control_groups - before.control_groups),
            self.descriptors - before.descriptors if more else frozenset(),
        )


NOTHING = Traces(frozenset(), 0, 0, frozenset())


def count() -> Traces:
    """Look at this process, everything below it but database servers, and the machine around it."""
    return Traces(
        processes=frozenset(
            each for each in descendants(os.getpid()) if _name(each) not in _SERVERS
        ),
        mounts=sum(TEST_DISK not in line for line in _mounts()),
        control_groups=sum(
            len(list(each.glob("attempt-*"))) for each in own_groups() if _is_ours(each)
        ),
        descriptors=frozenset(_descriptors()),
    )


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""  # it has just ended


def _descriptors() -> Iterator[str]:
    for each in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # the one that listed them
            yield f"{each.name} is {each.readlink()}"


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


async def left(before: Traces) -> Traces:
    """What is here beyond `before`, once that is nothing, or as it still is after ten seconds."""
    found = count().beyond(before)
    for _ in range(1000):
        if found == NOTHING:
            break
        await asyncio.get_running_loop().run_in_executor(None, _a_moment)
        found = count().beyond(before)
    return found


def _a_moment() -> None:
    os.sched_yield()
    with Path("/dev/urandom").open("rb") as source:
        source.read(4 << 20)
