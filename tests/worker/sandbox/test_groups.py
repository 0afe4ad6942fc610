"""Control groups: made, counted, swept; whichever version this host has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gridx.worker.sandbox.base import Enforcement
from gridx.worker.sandbox.cgroups import groups, v1, v2
from gridx.worker.sandbox.cgroups.groups import Allowance, Groups, MemoryMark
from tests.worker.sandbox import traces

MB = 1 << 20


@pytest.fixture
def own() -> Groups | None:
    """The groups of this host; None for an ordinary user who was given none."""
    return v2.find() or v1.find()


def test_a_group_takes_its_bounds_and_goes(own: Groups | None) -> None:
    if own is None:
        assert os.geteuid() != 0
        return
    own.open()
    group = own.make("attempt-1")
    group.limit(Allowance(64 * MB, 16 * MB, 12, 0.5))
    counters = group.counters()
    assert (counters.oom_kills, counters.refused_forks) == (0, 0)
    assert counters.cpu_s == 0.0
    assert not group.memory_exceeded(lambda: 0)
    group.close()
    assert own.close()


def test_what_a_dead_worker_left_is_removed(own: Groups | None) -> None:
    if own is None:
        assert os.geteuid() != 0
        return
    own.open()
    above = [each.parent for each in traces.own_groups() if f"-{os.getpid()}-" in each.name]
    left = [folder / "gridx-999999999-1-0" for folder in above]
    for each in left:
        (each / "attempt-7").mkdir(parents=True)
    later = v2.find() or v1.find()
    assert later is not None
    later.open()
    assert left
    assert not any(each.exists() for each in left)
    assert own.close()
    assert later.close()


def test_the_disk_traffic_of_all_jobs_weighs_half_of_the_machines() -> None:
    """By this host's version 1, whether or not the scheduler of its disks looks at it."""
    blkio = Path("/sys/fs/cgroup/blkio")
    if not os.access(blkio, os.W_OK):
        assert os.geteuid() != 0
        return
    own = v1.GroupsV1({"blkio": blkio})
    assert own.enforces == {Enforcement.IO}
    own.open()
    group = own.make("attempt-1")
    (folder,) = [each for each in blkio.glob(f"gridx-{os.getpid()}-*") if each.is_dir()]
    assert (folder / "blkio.bfq.weight").read_text().split()[-1] == "50"
    assert (folder / "attempt-1" / "blkio.bfq.weight").read_text().split()[-1] == "100"
    group.close()
    assert own.close()


@pytest.mark.parametrize(
    ("schedulers", "costs", "by_bfq", "by_either"),
    [
        ((), "", False, False),
        (("none [bfq]",), "", True, True),
        (("[bfq]", "[none] bfq"), "", False, False),
        (("[none]", "[none]"), "8:0 enable=1 ctrl=auto\n8:1 enable=1\n", False, True),
        (("[none]", "[none]"), "8:0 enable=1 ctrl=auto\n8:1 enable=0\n", False, False),
    ],
)
def test_who_heeds_the_weights_of_disk_traffic(
    tmp_path: Path, schedulers: tuple[str, ...], costs: str, by_bfq: bool, by_either: bool
) -> None:
    blocks = tmp_path / "block"
    (blocks / "loop0" / "queue").mkdir(parents=True)
    for number, scheduler in enumerate(schedulers):
        disk = blocks / f"sd{number}"
        for each in ("queue", "device"):
            (disk / each).mkdir(parents=True)
        (disk / "queue" / "scheduler").write_text(scheduler)
        (disk / "dev").write_text(f"8:{number}\n")
    (tmp_path / "io.cost.qos").write_text(costs)
    found = groups.disks(blocks)
    assert groups.all_use_bfq(found) is by_bfq
    assert v2.weighs_disks(tmp_path, found) is by_either


@pytest.mark.parametrize(
    ("name", "abandoned"),
    [
        ("gridx-999999999-1-0", True),
        pytest.param(f"gridx-{os.getpid()}-1-0", True, id="its number has another owner"),
        ("gridx-1-2", False),
        ("gridx-worker", False),
        ("system.slice", False),
    ],
)
def test_whose_maker_is_gone(name: str, abandoned: bool) -> None:
    assert groups.is_abandoned(name) is abandoned


def test_our_own_is_not_abandoned() -> None:
    assert not groups.is_abandoned(groups.own_name())
    assert groups.own_name() != groups.own_name()


def test_a_mark_moves_with_what_the_disk_explains(tmp_path: Path) -> None:
    usage = tmp_path / "usage"
    usage.write_text(str(90 * MB))
    mark = MemoryMark(usage)
    mark.limit(Allowance(100 * MB, 200 * MB, 1, 1.0))
    assert mark.passed() is None
    usage.write_text(str(150 * MB))
    assert mark.passed() == 150 * MB
    assert not mark.exceeded(150 * MB, file_bytes=95 * MB, shared_bytes=90 * MB, disk_bytes=85 * MB)
    assert mark.mark_bytes == 190 * MB
    assert mark.passed() is None
    usage.write_text(str(220 * MB))
    assert mark.exceeded(220 * MB, file_bytes=120 * MB, shared_bytes=120 * MB, disk_bytes=119 * MB)
    mark.close()


@pytest.mark.parametrize(
    ("private_bytes", "shared_bytes", "exceeded"),
    [
        (40 * MB, 90 * MB, False),
        pytest.param(10 * MB, 101 * MB, True, id="the overhead's rest is not the job's"),
        pytest.param(60 * MB, 90 * MB, False, id="the job's part of what is over the overhead"),
        (61 * MB, 90 * MB, True),
    ],
)
def test_a_kernel_of_the_jobs_own_has_an_allowance(
    tmp_path: Path, private_bytes: int, shared_bytes: int, exceeded: bool
) -> None:
    usage = tmp_path / "usage"
    used = private_bytes + shared_bytes
    usage.write_text(str(used))
    mark = MemoryMark(usage)
    mark.limit(Allowance(100 * MB, 0, 1, 1.0, overhead_bytes=50 * MB))
    assert mark.exceeded(used, shared_bytes, shared_bytes, 0) is exceeded
    mark.close()


@pytest.mark.parametrize(("cpus", "quota"), [(0.25, 25_000), (0.001, 1_000), (10_000, None)])
def test_a_cpu_quota(cpus: float, quota: int | None) -> None:
    assert Allowance(1, 1, 1, cpus).cpu_quota_us == quota


STEP_ASIDE = """
import os, sys
from pathlib import Path
from gridx.worker.sandbox.cgroups import v2

own = Path(sys.argv[1])
(own / "cgroup.procs").write_text(f"{os.getpid()}\\n{os.getppid()}\\n")
v2._step_aside(own)
"""


@pytest.mark.parametrize("of_a_shell", [False, True])
def test_both_processes_of_a_worker_step_aside_and_no_shell(
    tmp_path: Path, of_a_shell: bool
) -> None:
    """A warden takes its agent along; a shell gives each of its commands a process group."""
    words = (sys.executable, "-c", STEP_ASIDE, str(tmp_path))
    subprocess.run(words, check=True, process_group=0 if of_a_shell else None)
    assert [each.parent for each in tmp_path.glob("*/cgroup.procs")] == (
        [] if of_a_shell else [tmp_path / "gridx-worker"]
    )
